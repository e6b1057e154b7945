"""Eight CPU devices, strict JAX, warnings as errors, shapes checked where they are annotated."""

import os

# before anything imports JAX
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 "
    # the shapes are tiny: compiling takes longer than running
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["HF_HUB_OFFLINE"] = "1"

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)


def pytest_addoption(parser):
    """How often the tests that kill a command do so; README's figures are of 20."""
    parser.addoption("--kills", type=int, default=3)


@pytest.fixture(scope="session")
def kills(request):
    """Of a command that is to end as if nothing had happened."""
    return request.config.getoption("--kills")


@pytest.fixture(params=[1, 8], ids=["1-device", "8-devices"])
def mesh(request):
    """A mesh of one device, then of eight, set for the test."""
    mesh = jax.make_mesh((request.param,), ("data",), devices=jax.devices()[: request.param])
    with jax.set_mesh(mesh):
        yield mesh
