"""Every config that comes with jaxir is valid, has its command, and takes a step in small."""

import copy
import importlib
import pkgutil
import re

import jax
import jaxir.configs
import numpy as np
import pytest

from jaxir.config import Config, validate_shape
from jaxir.runtime.mesh import make_mesh, to_devices
from jaxir.tasks import task_of
from jaxir.training.step import TrainStep, init_state, make_state

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
    assert {"demo", "tpu_v4", "tpu_v4_large", "labse", "xquad_r_small", "albef_demo"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_has_the_command(name):
    module = importlib.import_module(f"jaxir.configs.{name}")
    assert re.search(rf"python -m jaxir\.(train|sweep) --config {name}\.py", module.__doc__)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_valid_and_its_state_has_a_shape(name):
    config = _config(name)
    config.validate()
    if isinstance(config, Config):
        validate_shape(config.model)
    state = jax.eval_shape(lambda: init_state(config, None, task_of(config)))
    count = sum(np.prod(x.shape, dtype=int) for x in jax.tree.leaves(state["params"]["model"]))
    assert count == PARAMETERS.get(name, count)


def _shrink_text(encoder):
    encoder.hidden_size, encoder.heads, encoder.layers = 8, 2, 2
    encoder.intermediate_size, encoder.vocab_size, encoder.positions = 16, 40, 20


def _texts(rows, width, length):
    ids = np.random.default_rng(rows).integers(4, 39, (rows, width)).astype(np.int32)
    return ids, np.full(rows, length, np.int32)


def _shrunken_retriever(config):
    """Makes it small; a batch of it."""
    _shrink_text(config.model.encoder)
    config.model.dense = min(config.model.dense, 8)
    config.scale.grad_cache_chunk = min(config.scale.grad_cache_chunk, BATCH // 8)
    batch = {}
    passages = BATCH * (1 + config.data.hard_negatives)
    for side, rows, width, length in (("query", BATCH, 12, 9), ("passage", passages, 16, 11)):
        batch[f"{side}_ids"], batch[f"{side}_lengths"] = _texts(rows, width, length)
        batch[f"{side}_cluster"] = np.arange(rows, dtype=np.int32)
    return batch


def _shrunken_albef(config):
    """Makes it small; a batch of it."""
    model = config.model
    _shrink_text(model.text)
    vit = model.vit
    vit.image_size, vit.patch_size, vit.hidden_size, vit.heads, vit.layers = 8, 4, 8, 2, 1
    vit.intermediate_size, model.text_layers, model.projection, model.mask_id = 16, 1, 8, 39
    config.captions.image_size = vit.image_size
    config.loss.queue = min(config.loss.queue, 2 * BATCH)
    ids, lengths = _texts(BATCH, 12, 9)
    return {
        "pixels": np.zeros((BATCH, 8, 8, 3), np.uint8),
        "image_group": np.arange(BATCH, dtype=np.int32),
        "caption_ids": ids,
        "caption_lengths": lengths,
        "other_ids": ids[:, :0],
        "other_lengths": np.zeros(BATCH, np.int32),
    }


def _slow_if_albef(name):
    """Compiling a step of ALBEF takes long."""
    slow = _config(name).task == "albef"
    return pytest.param(name, marks=pytest.mark.slow if slow else ())


_known = set()


def _program(config, batch):
    """All that decides about a compiled step; configs that differ in other things share it."""
    model, loss, optimizer = map(copy.copy, (config.model, config.loss, config.optimizer))
    optimizer.learning_rate = optimizer.warmup_steps = loss.temperature = None
    if config.task == "retrieval":
        model.init = model.trained_tokenizer_size = model.packed_length = None
        model.query_prefix = model.passage_prefix = None
        model.max_query_tokens = model.max_passage_tokens = None
    shapes = {name: array.shape for name, array in batch.items()}
    return repr((model, loss, optimizer, config.scale, shapes))


@pytest.mark.parametrize("name", list(map(_slow_if_albef, NAMES)))
def test_a_shrunken_copy_takes_a_step(name):
    config = copy.deepcopy(_config(name))
    config.batch_size = BATCH
    batch = {"retrieval": _shrunken_retriever, "albef": _shrunken_albef}[config.task](config)
    config.validate()
    program = _program(config, batch)
    if program in _known:
        return
    _known.add(program)
    task, mesh = task_of(config), make_mesh(config)
    with jax.set_mesh(mesh):
        state = make_state(config, None, mesh, task)
        on_devices = to_devices(batch, mesh)
        state, metrics = TrainStep(config, task)(state, on_devices)
        assert np.isfinite(float(metrics["loss"]))
        assert int(state["step"]) == 1
