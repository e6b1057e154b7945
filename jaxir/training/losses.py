"""InfoNCE over the global batch.

Dimension key: B pairs, P passages (P = B * (1 + hard negatives); the own passage of query i is
passage i * P / B, its hard negatives follow it), A anchors, M candidates, D embedding width.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxir.config import LossConfig, TemperatureConfig
from jaxir.runtime.mesh import gather, in_chunks, split

# On a device: beyond that the loss goes through its anchors in chunks, so that no device holds
# batch x batch.
MOST_SCORES = 1 << 26


class Side(NamedTuple):
    """One side of the batch: the queries, or the passages."""

    embeddings: Float[Array, "_ D"]
    cluster: Int[Array, "_"]
    present: Bool[Array, "_"]


def contrastive_loss(
    queries: Float[Array, "B D"],
    passages: Float[Array, "P D"],
    query_cluster: Int[Array, "B"],
    passage_cluster: Int[Array, "P"],
    passage_present: Bool[Array, "P"],
    temperature: Float[Array, ""] | float,
    config: LossConfig,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean InfoNCE loss, and the share of queries whose own passage scores highest.

    Every query meets the passages of every device. With `matryoshka`, the loss is the mean over
    those leading dimensions and the full width, each normalized anew.

    References:
        van den Oord et al., arXiv 1807.03748; Kusupati et al., arXiv 2205.13147 (Matryoshka).
    """
    every = len(passages) // len(queries)
    query = Side(queries, query_cluster, jnp.ones_like(query_cluster, dtype=bool))
    passage = Side(passages, passage_cluster, passage_present)
    own_passage = Side(*(x.reshape(len(queries), every, *x.shape[1:])[:, 0] for x in passage))
    losses = []
    for width in (*config.matryoshka, queries.shape[1]):
        loss, accuracy = _direction(query, passage, every, width, temperature, config)
        losses.append(loss)
        if config.directions == "both":
            losses.append(_direction(own_passage, query, 1, width, temperature, config)[0])
    return jnp.stack(losses).mean(), accuracy


def _direction(
    anchors: Side,
    candidates: Side,
    every: int,
    width: int,
    temperature: Float[Array, ""] | float,
    config: LossConfig,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean loss of the anchors, whose own candidates are every so many, and how many come first."""
    gathered = Side(*map(gather, candidates))
    count, others = len(anchors.cluster), len(gathered.cluster)
    narrow = width < gathered.embeddings.shape[1]

    def cut(x: Float[Array, "_ D"]) -> Float[Array, "_ D"]:
        return _normalize(x[:, :width]) if narrow else x

    right = cut(gathered.embeddings)

    def rows(chunk: tuple[Side, Int[Array, "A"]]) -> tuple[Float[Array, "A"], Bool[Array, "A"]]:
        some, own_place = chunk
        own = own_place[:, None] == jnp.arange(others)[None, :]
        same = some.cluster[:, None] == gathered.cluster[None, :]
        present = gathered.present[None, :]
        allowed = own | (present & ~same if config.false_negatives == "mask" else present)
        positives = own | (same & present) if config.false_negatives == "positives" else own
        scores = jnp.einsum("ad,md->am", cut(some.embeddings), right, precision="highest")
        scores = jnp.where(allowed, scores / temperature, -jnp.inf)
        best = jnp.max(scores, axis=1) == jnp.sum(jnp.where(own, scores, 0.0), axis=1)
        return _info_nce(scores, positives), best

    places = split(jnp.arange(count, dtype=jnp.int32) * every)
    losses, best = in_chunks(rows, (anchors, places), _chunks(count, others))
    return losses.mean(), best.astype(jnp.float32).mean()


def _chunks(anchors: int, candidates: int) -> int:
    """The fewest chunks of each device's anchors that keep its scores within MOST_SCORES."""
    mesh = jax.sharding.get_abstract_mesh()
    own = anchors // (1 if mesh.empty else mesh.size)
    return fewest_chunks(own, candidates)


def fewest_chunks(rows: int, scores: int) -> int:
    """The fewest chunks of a device's rows that keep the scores, so many a row, in MOST_SCORES."""
    needed = max(1, min(rows, -(-rows * scores // MOST_SCORES)))
    return next(chunks for chunks in range(needed, rows + 1) if rows % chunks == 0)


def _normalize(x: Float[Array, "_ D"]) -> Float[Array, "_ D"]:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), 1e-6)


def _info_nce(scores: Float[Array, "A M"], positives: Bool[Array, "A M"]) -> Float[Array, "A"]:
    """Minus the positives' mean log probability, of each anchor.

    Several positives share the target evenly (Khosla et al., arXiv 2004.11362, equation 2).
    """
    total = jnp.sum(jnp.where(positives, scores, 0.0), axis=1)
    return jax.nn.logsumexp(scores, axis=1) - total / jnp.sum(positives, axis=1)


def clamped_temperature(
    log_temperature: Float[Array, ""], config: TemperatureConfig
) -> Float[Array, ""] | float:
    """The temperature in use: the fixed one, or the learned one within its bounds."""
    if not config.learned_temperature:
        return config.temperature
    return jnp.clip(jnp.exp(log_temperature), config.min_temperature, config.max_temperature)
