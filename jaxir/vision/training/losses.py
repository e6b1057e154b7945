"""ALBEF's losses as functions of features and scores (arXiv 2107.07651, section 3.2).

Dimension key: B rows of the global batch, M candidates, E width of features, T masked tokens,
V vocabulary.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from jaxir.models.dropout import fold
from jaxir.runtime.mesh import gather, split
from jaxir.vision.training.masking import uniform
from jaxir.vision.training.momentum import EMPTY


class Candidates(NamedTuple):
    """Features to be found, split over the devices."""

    features: Float[Array, "M E"]
    group: Int[Array, "M"]  # EMPTY: nothing is there


class Side(NamedTuple):
    """One side of a contrast: images, or captions."""

    features: Float[Array, "B E"]
    momentum: Float[Array, "B E"] | None = None  # None: no momentum model
    queue: Candidates | None = None


def contrast(
    left: Side,
    right: Side,
    group: Int[Array, "B"],
    temperature: Float[Array, ""] | float,
    alpha: Float[Array, ""] | float,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean of the contrastive losses in both directions, and accuracy from left to right.

    Rows of one group depict the same: they share the target evenly (ALBEF's code for retrieval).
    """
    forth, accuracy = _direction(left, right, group, temperature, alpha)
    back, _ = _direction(right, left, group, temperature, alpha)
    return (forth + back) / 2, accuracy


def _direction(
    left: Side,
    right: Side,
    group: Int[Array, "B"],
    temperature: Float[Array, ""] | float,
    alpha: Float[Array, ""] | float,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean cross-entropy of left's rows against right's batch and queue; how many hit their group.

    Every device compares all rows with its own part of the candidates.
    """
    blocks = [Candidates(right.features, group)]
    if right.momentum is not None:  # only the model that is trained gets a gradient
        blocks = [Candidates(jax.lax.stop_gradient(right.momentum), group)]
    if right.queue is not None:
        blocks.append(right.queue._replace(features=jax.lax.stop_gradient(right.queue.features)))
    rows = gather(group)
    present = [(block.group != EMPTY)[None, :] for block in blocks]
    same = [(rows[:, None] == block.group[None, :]) & here for block, here in zip(blocks, present)]
    share = jnp.stack([jnp.sum(x, axis=1) for x in same]).sum(axis=0).astype(jnp.float32)
    targets = [x / share[:, None] for x in same]
    scores = _scores(left.features, blocks, temperature)
    if left.momentum is not None:
        soft = _scores(left.momentum, blocks, temperature)
        total = _log_sum(soft, present)
        targets = [
            alpha * jnp.where(here, jnp.exp(x - total[:, None]), 0.0) + (1 - alpha) * target
            for x, here, target in zip(soft, present, targets)
        ]
        targets = jax.lax.stop_gradient(targets)
    expected = sum(jnp.sum(x * target, axis=1) for x, target in zip(scores, targets))
    hits = _highest(scores, same) >= _highest(scores, present)
    losses = _log_sum(scores, present) - expected
    return losses.mean(), hits.astype(jnp.float32).mean()


def _scores(
    anchors: Float[Array, "B E"],
    blocks: list[Candidates],
    temperature: Float[Array, ""] | float,
) -> list[Float[Array, "B M"]]:
    every = gather(anchors)
    return [
        jnp.einsum("be,me->bm", every, block.features, precision="highest") / temperature
        for block in blocks
    ]


def _highest(
    blocks: list[Float[Array, "B M"]], allowed: list[Bool[Array, "B M"]]
) -> Float[Array, "B"]:
    """Each row's highest score of those allowed; no gradient."""
    parts = [
        jnp.max(jnp.where(here, jax.lax.stop_gradient(x), -jnp.inf), axis=1)
        for x, here in zip(blocks, allowed)
    ]
    return jnp.stack(parts).max(axis=0)


def _log_sum(
    blocks: list[Float[Array, "B M"]], allowed: list[Bool[Array, "B M"]]
) -> Float[Array, "B"]:
    """Log of each row's sum of exponentials, over blocks whose columns are split over devices."""
    top = _highest(blocks, allowed)
    parts = [
        jnp.sum(jnp.exp(jnp.where(here, x - top[:, None], -jnp.inf)), axis=1)
        for x, here in zip(blocks, allowed)
    ]
    return top + jnp.log(sum(parts))


def hard_negatives(
    anchors: Float[Array, "B E"],
    candidates: Float[Array, "B E"],
    group: Int[Array, "B"],
    temperature: Float[Array, ""] | float,
    seed: UInt32[Array, ""],
) -> tuple[Int[Array, "B"], Bool[Array, "B"]]:
    """A row of another group for each row, drawn from the softmax of similarities in the batch.

    By the Gumbel trick, with noise hashed from the seed and the two rows' places in the global
    batch. The second result is False where every row is of the same group.
    """
    every, groups = gather(candidates), gather(group)
    scores = jnp.einsum("be,me->bm", anchors, every, precision="highest") / temperature
    rows = split(jnp.arange(len(group), dtype=jnp.uint32))
    noise = uniform(fold(fold(seed, rows)[:, None], jnp.arange(len(group))[None, :]))
    allowed = group[:, None] != groups[None, :]
    drawn = jnp.where(allowed, scores - jnp.log(-jnp.log(noise)), -jnp.inf)
    picked = jnp.argmax(jax.lax.stop_gradient(drawn), axis=1).astype(jnp.int32)
    return picked, jnp.any(allowed, axis=1)


def match_loss(
    scores: Float[Array, "B 3 2"], found: Bool[Array, "B 2"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean cross-entropy, and accuracy, of telling pairs from others.

    Args:
        scores: of "no" and "yes", for the row's pair, its text with another image, its image with
            another text.
        found: whether there was another image, another text; those that were not count nothing.
    """
    weights = jnp.pad(found.astype(jnp.float32), ((0, 0), (1, 0)), constant_values=1.0)
    yes = scores[:, :, 1] - scores[:, :, 0]
    sign = jnp.array([1.0, -1.0, -1.0])[None, :]
    losses = jax.nn.softplus(-yes * sign)
    right = (yes * sign > 0).astype(jnp.float32)
    total = jnp.sum(weights)
    return jnp.sum(losses * weights) / total, jnp.sum(right * weights) / total


def token_losses(
    scores: Float[Array, "B K V"],
    labels: Int[Array, "B K"],
    momentum: Float[Array, "B K V"] | None,
    alpha: Float[Array, ""] | float,
) -> Float[Array, "B K"]:
    """Cross-entropy of each token, against its label and, by alpha, the momentum model's guess."""
    expected = jnp.take_along_axis(scores, labels[:, :, None], axis=2)[:, :, 0]
    if momentum is not None:
        soft = jax.lax.stop_gradient(jax.nn.softmax(momentum, axis=2))
        expected = (1 - alpha) * expected + alpha * jnp.sum(soft * scores, axis=2)
    return jax.nn.logsumexp(scores, axis=2) - expected
