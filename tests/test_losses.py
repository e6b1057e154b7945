"""InfoNCE against float64 NumPy, on one device and on eight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxir.config import LossConfig
from jaxir.training import losses
from jaxir.training.losses import clamped_temperature, contrastive_loss

BATCH, NEGATIVES, WIDTH = 16, 2, 12


def _inputs(negatives):
    rng = np.random.default_rng(negatives)
    passages = BATCH * (1 + negatives)
    queries, answers = rng.normal(size=(BATCH, WIDTH)), rng.normal(size=(passages, WIDTH))
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    answers /= np.linalg.norm(answers, axis=1, keepdims=True)
    query_cluster = np.arange(BATCH) // 2  # every cluster twice
    passage_cluster = rng.integers(-1, BATCH, passages)
    passage_cluster[:: 1 + negatives] = query_cluster
    present = rng.random(passages) > 0.3
    present[:: 1 + negatives] = True
    return queries, answers, query_cluster, passage_cluster, present


def _log_softmax_mean(scores, positives):
    """Mean over rows of minus the mean log probability of the positives, row by row."""
    total = 0.0
    for row, right in zip(scores, positives, strict=True):
        finite = row[np.isfinite(row)]
        log_sum = finite.max() + np.log(np.exp(finite - finite.max()).sum())
        total += np.mean([log_sum - value for value in row[right]])
    return total / len(scores)


def _oracle(inputs, config):
    queries, passages, query_cluster, passage_cluster, present = inputs
    every = len(passages) // len(queries)
    parts = []
    for width in (*config.matryoshka, WIDTH):
        q, p = queries[:, :width], passages[:, :width]
        if width < WIDTH:
            q, p = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (q, p))
        scores = q @ p.T / config.temperature
        positives = np.zeros(scores.shape, bool)
        for i in range(BATCH):
            for j in range(len(passages)):
                own = j == i * every
                same = query_cluster[i] == passage_cluster[j]
                positives[i, j] = own or (
                    config.false_negatives == "positives" and same and present[j]
                )
                dropped = not present[j] or (config.false_negatives == "mask" and same)
                if dropped and not own:
                    scores[i, j] = -np.inf
        parts.append(_log_softmax_mean(scores, positives))
        if config.directions == "both":
            parts.append(_log_softmax_mean(scores[:, ::every].T, positives[:, ::every].T))
    return np.mean(parts)


@pytest.mark.parametrize("negatives", [0, NEGATIVES])
@pytest.mark.parametrize("false_negatives", ["mask", "positives", "keep"])
@pytest.mark.parametrize("directions", ["query_to_passage", "both"])
@pytest.mark.parametrize("matryoshka", [(), (4, 8)])
def test_loss_equals_the_definition(mesh, negatives, false_negatives, directions, matryoshka):
    config = LossConfig(
        false_negatives=false_negatives, directions=directions, matryoshka=matryoshka
    )
    inputs = _inputs(negatives)
    expected = _oracle(inputs, config)

    @jax.jit
    def loss(*arrays):
        return contrastive_loss(*arrays, config.temperature, config)[0]

    arrays = [
        jnp.asarray(x, {"f": "float32", "i": "int32", "b": "bool"}[x.dtype.kind]) for x in inputs
    ]
    found = loss(*(jax.device_put(x, P("data")) for x in arrays))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_anchors_in_chunks_change_neither_loss_nor_gradient(mesh, monkeypatch):
    config = LossConfig(matryoshka=(4,))
    inputs = _inputs(NEGATIVES)
    arrays = [
        jnp.asarray(x, {"f": "float32", "i": "int32", "b": "bool"}[x.dtype.kind]) for x in inputs
    ]
    arrays = [jax.device_put(x, P("data")) for x in arrays]

    def found():
        def loss(*embeddings):
            return contrastive_loss(*embeddings, *arrays[2:], 0.05, config)[0]

        return jax.device_get(jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(*arrays[:2]))

    whole = found()
    # the scores of one anchor at a time
    monkeypatch.setattr(losses, "MAX_SCORES", len(inputs[1]))
    chunked = found()
    assert losses._chunks(BATCH, len(inputs[1])) == BATCH // mesh.size
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), chunked, whole)


def test_a_false_negative_costs_nothing_when_masked():
    """Two rows with one answer: the other's copy must not be pushed away."""
    queries = passages = jnp.eye(4)[jnp.array([0, 0, 1, 2])]
    clusters = jnp.array([0, 0, 1, 2])
    present = jnp.ones(4, bool)
    found = {
        choice: float(
            contrastive_loss(
                queries, passages, clusters, clusters, present, 0.05,
                LossConfig(false_negatives=choice),
            )[0]
        )
        for choice in ("mask", "keep")
    }  # fmt: skip
    assert found["mask"] < 1e-6
    assert found["keep"] > 0.3


def test_accuracy_counts_queries_whose_passage_wins():
    queries, passages = jnp.eye(4), jnp.eye(4)[jnp.array([0, 1, 3, 2])]
    clusters = jnp.arange(4)
    _, accuracy = contrastive_loss(
        queries, passages, clusters, clusters, jnp.ones(4, bool), 0.1, LossConfig()
    )
    assert float(accuracy) == 0.5


@pytest.mark.parametrize(("learned", "expected"), [(0.001, 0.01), (0.2, 0.2), (7.0, 1.0)])
def test_the_learned_temperature_is_clamped(learned, expected):
    config = LossConfig(learned_temperature=True)
    found = clamped_temperature(jnp.log(jnp.float32(learned)), config)
    assert float(found) == pytest.approx(expected, rel=1e-6)
