"""What jaxir is measured against does the same work: its losses are ours, step after step."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from test_bench import config  # noqa: F401

from jaxir.bench import encoding_speed, other_libraries, search_speed, training_step, workloads
from jaxir.runtime.mesh import make_mesh
from jaxir.training.retrieval import RETRIEVAL
from jaxir.training.step import make_state

torch = pytest.importorskip("torch", reason="compares with PyTorch: pip install torch")
pytest.importorskip("sentence_transformers", reason="pip install sentence-transformers")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("grad_cache_chunk", [0, 2])
def test_sentence_transformers_trains_as_we_do(config, grad_cache_chunk):  # noqa: F811
    config.scale.grad_cache_chunk = grad_cache_chunk
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "constant"
    config.loss.false_negatives = "keep"
    mesh = make_mesh(config)
    padded, packed = workloads.synthetic_batches(config, mesh.size)
    with jax.set_mesh(mesh):
        params = jax.device_get(make_state(config, None, mesh, RETRIEVAL)["params"]["model"])
        ours = training_step.Steps(config, mesh, packed)
        theirs = other_libraries.training_steps(config, params, padded, compiled=False)
        for _ in range(3):
            np.testing.assert_allclose(ours(), theirs(), atol=2e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("grad_cache_chunk", [0, 2])
def test_every_product_of_the_peer_is_in_the_runs_precision(config, grad_cache_chunk):  # noqa: F811
    config.scale.grad_cache_chunk = grad_cache_chunk
    config.model.compute_dtype = "bfloat16"
    mesh, met = make_mesh(config), []
    padded, _ = workloads.synthetic_batches(config, mesh.size)
    with jax.set_mesh(mesh):
        params = jax.device_get(make_state(config, None, mesh, RETRIEVAL)["params"]["model"])
    steps = other_libraries.training_steps(config, params, padded[:1], compiled=False)

    def note(module, _, output):
        if isinstance(module, torch.nn.Linear):
            met.append(output.dtype)

    with torch.nn.modules.module.register_module_forward_hook(note):
        steps()
    assert set(met) == {torch.bfloat16}
    # the cached loss embeds all texts twice
    assert len(met) == 2 * 6 * config.model.encoder.layers * (1 if not grad_cache_chunk else 16)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_sentence_transformers_encodes_as_we_do(config, monkeypatch):  # noqa: F811
    # more pieces than the demo's tokenizer has
    monkeypatch.setattr(config.model.encoder, "vocab_size", 8_001)
    monkeypatch.setattr(encoding_speed, "cldr_dataset", _few_texts)
    found = encoding_speed.measure(config, 1, "", None, (), "sentence-transformers")
    assert found["largest absolute difference"] < 1e-5


def _few_texts():
    texts = [f"Text {number}, von Berlin bis Paris. 東京 {'x' * number}" for number in range(30)]
    return SimpleNamespace(passages=texts)


def test_torch_finds_what_we_find(monkeypatch):
    monkeypatch.setattr(search_speed, "QUERIES", 8)
    found = search_speed.measure(1, 2_000, 16, "float32", "torch")
    assert found["largest difference of scores at a rank"] < 1e-5
