"""Eight CPU devices, strict JAX, warnings as errors, shapes checked where they are annotated."""

import os
import shutil
import signal
import tempfile

# before anything imports JAX
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 "
    # the shapes are tiny: compiling takes longer than running
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_parallel_codegen_split_count=1 "
    # these would double the time of a compilation; jax 0.12 ignores the option
    "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters=true"
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.05"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"
os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = str(8 << 30)  # with a size it has a lock
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["HF_HUB_OFFLINE"] = "1"

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)

# files of minutes, which begin, or one worker would wait for the other in the end
LONGEST = ("wheel", "processes", "vision_family", "e5_parity", "xquad_r_parity", "train", "step")


def pytest_addoption(parser):
    """How often the tests that kill a command do so; README's figures are of 20."""
    parser.addoption("--kills", type=int, default=3)


def pytest_configure(config):
    """Share what is compiled, also with commands that tests start; these do not ignore signals."""
    for number in (signal.SIGINT, signal.SIGHUP):
        # as in the background and under nohup; what is ignored would be by all that tests start
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    if "PYTEST_XDIST_WORKER" not in os.environ:
        config.compiled = tempfile.mkdtemp(prefix="jaxir-tests-")
        os.environ["JAX_COMPILATION_CACHE_DIR"] = config.compiled
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])


def pytest_unconfigure(config):
    if hasattr(config, "compiled"):
        shutil.rmtree(config.compiled, ignore_errors=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Keep what measures seconds out of the quick tests, and begin with what takes long."""
    for item in items:
        if item.get_closest_marker("timed"):
            item.add_marker("slow")
    items.sort(key=lambda item: item.path.stem.removeprefix("test_") not in LONGEST)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Tests of a file share what they set up, so they stay on one worker."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False  # the longest begin
    return LoadFileScheduling(config, log)


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
