"""InfoNCE over the global batch.

Dimension key: B pairs, P passages (P = B * (1 + hard negatives); the positive of query i is
passage i * P / B, and its hard negatives follow it), A anchors, M candidates, D embedding width.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxir.config import LossConfig, TemperatureConfig
from jaxir.runtime.mesh import gather, in_chunks, split

# Scores on a device: beyond that the loss goes through the anchors in chunks, so that no device
# holds batch x batch.
MAX_SCORES = 1 << 26


class EmbeddedTexts(NamedTuple):
    """The queries or the passages of a batch."""

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
    """Mean InfoNCE loss, and top-1 accuracy from query to passage.

    The candidates of every query are the passages of all devices. With `matryoshka`, the loss is
    the mean over those leading dimensions and the full width, each normalized again.

    References:
        van den Oord et al., arXiv 1807.03748; Kusupati et al., arXiv 2205.13147 (Matryoshka).
    """
    per_query = len(passages) // len(queries)
    query = EmbeddedTexts(queries, query_cluster, jnp.ones_like(query_cluster, dtype=bool))
    passage = EmbeddedTexts(passages, passage_cluster, passage_present)
    positive = EmbeddedTexts(
        *(x.reshape(len(queries), per_query, *x.shape[1:])[:, 0] for x in passage)
    )
    losses = []
    for width in (*config.matryoshka, queries.shape[1]):
        loss, accuracy = _direction(query, passage, per_query, width, temperature, config)
        losses.append(loss)
        if config.directions == "both":
            losses.append(_direction(positive, query, 1, width, temperature, config)[0])
    return jnp.stack(losses).mean(), accuracy


def _direction(
    anchors: EmbeddedTexts,
    candidates: EmbeddedTexts,
    stride: int,
    width: int,
    temperature: Float[Array, ""] | float,
    config: LossConfig,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """InfoNCE and top-1 accuracy; anchor i's positive is candidate i * stride."""
    # each device keeps its anchors and gets all candidates
    gathered = EmbeddedTexts(*map(gather, candidates))
    count, others = len(anchors.cluster), len(gathered.cluster)
    narrow = width < gathered.embeddings.shape[1]

    def cut(x: Float[Array, "_ D"]) -> Float[Array, "_ D"]:
        return _normalize(x[:, :width]) if narrow else x

    candidate_embeddings = cut(gathered.embeddings)

    def of_chunk(
        chunk: tuple[EmbeddedTexts, Int[Array, "A"]],
    ) -> tuple[Float[Array, "A"], Bool[Array, "A"]]:
        anchor, positive_index = chunk
        positive = positive_index[:, None] == jnp.arange(others)[None, :]
        # texts of one cluster say the same: another anchor's copy is a false negative
        same = anchor.cluster[:, None] == gathered.cluster[None, :]
        present = gathered.present[None, :]
        allowed = positive | (present & ~same if config.false_negatives == "mask" else present)
        targets = positive | (same & present) if config.false_negatives == "positives" else positive
        scores = jnp.einsum(
            "ad,md->am", cut(anchor.embeddings), candidate_embeddings, precision="highest"
        )
        scores = jnp.where(allowed, scores / temperature, -jnp.inf)
        positive_score = jnp.sum(jnp.where(positive, scores, 0.0), axis=1)
        return _info_nce(scores, targets), jnp.max(scores, axis=1) == positive_score

    positives = split(jnp.arange(count, dtype=jnp.int32) * stride)
    losses, hits = in_chunks(of_chunk, (anchors, positives), _chunks(count, others))
    return losses.mean(), hits.astype(jnp.float32).mean()


def _chunks(anchors: int, candidates: int) -> int:
    """The fewest chunks of each device's anchors that keep its scores within MAX_SCORES."""
    mesh = jax.sharding.get_abstract_mesh()
    return fewest_chunks(anchors // (1 if mesh.empty else mesh.size), candidates)


def fewest_chunks(rows: int, scores_per_row: int) -> int:
    """The fewest equal chunks of a device's rows that keep its scores within MAX_SCORES."""
    needed = max(1, min(rows, -(-rows * scores_per_row // MAX_SCORES)))
    return next(chunks for chunks in range(needed, rows + 1) if rows % chunks == 0)


def _normalize(x: Float[Array, "_ D"]) -> Float[Array, "_ D"]:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), 1e-6)


def _info_nce(scores: Float[Array, "A M"], positives: Bool[Array, "A M"]) -> Float[Array, "A"]:
    """The negative mean log probability of each anchor's positives.

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
