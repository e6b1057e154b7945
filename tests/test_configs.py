"""Every config that comes with jaxir is valid, has its command, and takes a step in small."""

import copy
import importlib
import pkgutil
import re

import jax
import jaxir.configs
import numpy as np
import pytest

from jaxir.config import validate, validate_shape
from jaxir.training.sharding import replicate, to_devices
from jaxir.training.step import compile_step, init_state

NAMES = sorted(module.name for module in pkgutil.iter_modules(jaxir.configs.__path__))
PARAMETERS = {
    "tpu_v4": 277_453_056,  # of transformers' XLMRobertaModel without pooler
    "tpu_v4_large": 558_840_832,
    "labse": 470_336_256 + 768 * 768 + 768,
}
BATCH = 8


def _config(name):
    return importlib.import_module(f"jaxir.configs.{name}").get_config()


def test_there_are_configs():
    assert {"demo", "tpu_v4", "tpu_v4_large", "labse", "xquad_r_small"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_has_the_command(name):
    module = importlib.import_module(f"jaxir.configs.{name}")
    assert re.search(rf"python -m jaxir\.(train|sweep) --config {name}\.py", module.__doc__)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_valid_and_its_state_has_a_shape(name):
    config = _config(name)
    validate(config)
    validate_shape(config.model)
    state = jax.eval_shape(lambda: init_state(config))
    count = sum(np.prod(x.shape, dtype=int) for x in jax.tree.leaves(state["params"]["model"]))
    assert count == PARAMETERS.get(name, count)


@pytest.mark.parametrize("name", NAMES)
def test_a_shrunken_copy_takes_a_step(name):
    config = copy.deepcopy(_config(name))
    encoder = config.model.encoder
    encoder.hidden_size, encoder.heads, encoder.layers = 8, 2, 2
    encoder.intermediate_size, encoder.vocab_size, encoder.positions = 16, 40, 20
    config.model.dense = min(config.model.dense, 8)
    config.scale.texts_at_once = min(config.scale.texts_at_once, BATCH // 8)
    rows = BATCH * (1 + config.data.hard_negatives)
    rng = np.random.default_rng(0)
    batch = {
        "query_ids": rng.integers(2, 40, (BATCH, 12)).astype(np.int32),
        "query_lengths": np.full(BATCH, 9, np.int32),
        "query_cluster": np.arange(BATCH, dtype=np.int32),
        "passage_ids": rng.integers(2, 40, (rows, 16)).astype(np.int32),
        "passage_lengths": np.full(rows, 11, np.int32),
        "passage_cluster": np.arange(rows, dtype=np.int32),
    }
    mesh = jax.make_mesh((8,), ("data",))
    with jax.set_mesh(mesh):
        state = replicate(jax.jit(lambda: init_state(config))(), mesh)
        on_devices = to_devices(batch, mesh)
        step, _ = compile_step(config, state, on_devices)
        state, metrics = step(state, on_devices)
        assert np.isfinite(float(metrics["loss"]))
        assert int(state["step"]) == 1
