"""InfoNCE over the global batch.

Dimension key: B queries, P passages (P = B * (1 + hard negatives); the own passage of query i is
passage i * P / B, its hard negatives follow it), D embedding width.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxir.config import LossConfig
from jaxir.training.sharding import gather, split


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
    passages = gather(passages)
    own = _own(len(queries), len(passages))
    same = query_cluster[:, None] == gather(passage_cluster)[None, :]
    present = gather(passage_present)[None, :]
    allowed = own | present if config.false_negatives != "mask" else own | (present & ~same)
    positives = own | (same & present) if config.false_negatives == "positives" else own
    widths = (*config.matryoshka, queries.shape[1])
    losses = []
    for width in widths:
        narrow = width < queries.shape[1]
        q, p = (_normalize(x[:, :width]) if narrow else x for x in (queries, passages))
        scores = jnp.einsum("bd,pd->bp", q, p, precision="highest") / temperature
        scores = jnp.where(allowed, scores, -jnp.inf)
        losses.append(_info_nce(scores, positives, axis=1))
        if config.directions == "both":
            every = len(passages) // len(queries)
            losses.append(_info_nce(scores[:, ::every], positives[:, ::every], axis=0))
    best = jnp.max(scores, axis=1) == jnp.sum(jnp.where(own, scores, 0.0), axis=1)
    return jnp.stack(losses).mean(), best.astype(jnp.float32).mean()


def _own(queries: int, passages: int) -> Bool[Array, "B P"]:
    rows = split(jnp.arange(queries) * (passages // queries))
    return rows[:, None] == jnp.arange(passages)[None, :]


def _normalize(x: Float[Array, "_ D"]) -> Float[Array, "_ D"]:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), 1e-6)


def _info_nce(
    scores: Float[Array, "B P"], positives: Bool[Array, "B P"], axis: int
) -> Float[Array, ""]:
    """Mean over the rows (axis 1) or columns (axis 0) of minus the positives' mean log probability.

    Several positives share the target evenly (Khosla et al., arXiv 2004.11362, equation 2).
    """
    log_sum = jax.nn.logsumexp(scores, axis=axis)
    total = jnp.sum(jnp.where(positives, scores, 0.0), axis=axis)
    count = jnp.sum(positives, axis=axis).astype(scores.dtype)
    return jnp.mean(log_sum - total / count)


def clamped_temperature(
    log_temperature: Float[Array, ""], config: LossConfig
) -> Float[Array, ""] | float:
    """The temperature in use: the fixed one, or the learned one within its bounds."""
    if not config.learned_temperature:
        return config.temperature
    return jnp.clip(jnp.exp(log_temperature), config.min_temperature, config.max_temperature)
