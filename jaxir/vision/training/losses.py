"""ALBEF's losses as functions of features and scores (arXiv 2107.07651, section 3.2).

Dimension key: B rows of the global batch, M candidates, E width of features, K masked tokens of a
row, V vocabulary.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from jaxir.models.dropout import fold_in
from jaxir.runtime.mesh import gather, split
from jaxir.vision.training.masking import uniform
from jaxir.vision.training.momentum import EMPTY


class FeatureBlock(NamedTuple):
    """Candidate features with their groups, split over the devices."""

    features: Float[Array, "M E"]
    group: Int[Array, "M"]  # EMPTY: a slot of the queue that is not filled yet


class ModalityFeatures(NamedTuple):
    """Features of a batch's images, or of its captions in one language."""

    features: Float[Array, "B E"]
    momentum: Float[Array, "B E"] | None = None  # None: no momentum model
    queue: FeatureBlock | None = None


def contrast(
    left: ModalityFeatures,
    right: ModalityFeatures,
    group: Int[Array, "B"],
    temperature: Float[Array, ""] | float,
    alpha: Float[Array, ""] | float,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """InfoNCE averaged over both directions, and top-1 accuracy from left to right.

    Rows of one group depict the same: they share the target evenly (ALBEF's code for retrieval).
    """
    forth, accuracy = _direction(left, right, group, temperature, alpha)
    back, _ = _direction(right, left, group, temperature, alpha)
    return (forth + back) / 2, accuracy


def _direction(
    left: ModalityFeatures,
    right: ModalityFeatures,
    group: Int[Array, "B"],
    temperature: Float[Array, ""] | float,
    alpha: Float[Array, ""] | float,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """InfoNCE and top-1 accuracy; anchor i's positives are the candidates of its group.

    The anchors are left's rows of the global batch, the candidates right's global batch and its
    queue. Every device scores all anchors against its own columns of the candidates.
    """
    # With a momentum model the candidates are its features; they are constants, as is the queue,
    # so that the gradient reaches the online model through the anchors alone.
    blocks = [FeatureBlock(right.features, group)]
    if right.momentum is not None:
        blocks = [FeatureBlock(jax.lax.stop_gradient(right.momentum), group)]
    if right.queue is not None:
        blocks.append(right.queue._replace(features=jax.lax.stop_gradient(right.queue.features)))
    anchor_group = gather(group)
    filled = [(block.group != EMPTY)[None, :] for block in blocks]
    positive = [
        (anchor_group[:, None] == block.group[None, :]) & mask
        for block, mask in zip(blocks, filled)
    ]
    # Hard targets: the positives of an anchor, at least its own pair, share the target evenly.
    count = jnp.stack([jnp.sum(mask, axis=1) for mask in positive]).sum(axis=0).astype(jnp.float32)
    targets = [mask / count[:, None] for mask in positive]
    scores = _scores(left.features, blocks, temperature)
    if left.momentum is not None:
        # Soft targets (section 3.3): the momentum model's softmax over the same candidates, mixed
        # in by alpha. Both kinds sum to 1 over all blocks of an anchor, and so does the mixture.
        soft = _scores(left.momentum, blocks, temperature)
        total = _log_sum(soft, filled)
        targets = [
            alpha * jnp.where(mask, jnp.exp(x - total[:, None]), 0.0) + (1 - alpha) * target
            for x, mask, target in zip(soft, filled, targets)
        ]
        targets = jax.lax.stop_gradient(targets)
    # For a target t that sums to 1, -sum(t * log_softmax(s)) = logsumexp(s) - sum(t * s).
    expected = sum(jnp.sum(x * target, axis=1) for x, target in zip(scores, targets))
    correct = _highest(scores, positive) >= _highest(scores, filled)
    losses = _log_sum(scores, filled) - expected
    return losses.mean(), correct.astype(jnp.float32).mean()


def _scores(
    anchors: Float[Array, "B E"],
    blocks: list[FeatureBlock],
    temperature: Float[Array, ""] | float,
) -> list[Float[Array, "B M"]]:
    gathered = gather(anchors)
    return [
        jnp.einsum("be,me->bm", gathered, block.features, precision="highest") / temperature
        for block in blocks
    ]


def _highest(
    blocks: list[Float[Array, "B M"]], allowed: list[Bool[Array, "B M"]]
) -> Float[Array, "B"]:
    """Highest allowed score of each row; no gradient."""
    parts = [
        jnp.max(jnp.where(mask, jax.lax.stop_gradient(x), -jnp.inf), axis=1)
        for x, mask in zip(blocks, allowed)
    ]
    return jnp.stack(parts).max(axis=0)


def _log_sum(
    blocks: list[Float[Array, "B M"]], allowed: list[Bool[Array, "B M"]]
) -> Float[Array, "B"]:
    """Log-sum-exp of each row, over blocks whose columns are split over devices."""
    top = _highest(blocks, allowed)
    parts = [
        jnp.sum(jnp.exp(jnp.where(mask, x - top[:, None], -jnp.inf)), axis=1)
        for x, mask in zip(blocks, allowed)
    ]
    return top + jnp.log(sum(parts))


def hard_negatives(
    anchors: Float[Array, "B E"],
    candidates: Float[Array, "B E"],
    group: Int[Array, "B"],
    temperature: Float[Array, ""] | float,
    seed: UInt32[Array, ""],
) -> tuple[Int[Array, "B"], Bool[Array, "B"]]:
    """Sample a row of another group for each row, from the softmax of similarities in the batch.

    The noise of the Gumbel trick is hashed from the seed and the indices of the two rows in the
    global batch, so that the draw does not depend on the devices.

    Returns:
        The sampled row of each row, and False where every row is of the same group.
    """
    gathered, groups = gather(candidates), gather(group)
    scores = jnp.einsum("be,me->bm", anchors, gathered, precision="highest") / temperature
    rows = split(jnp.arange(len(group), dtype=jnp.uint32))
    noise = uniform(fold_in(fold_in(seed, rows)[:, None], jnp.arange(len(group))[None, :]))
    allowed = group[:, None] != groups[None, :]
    # Gumbel trick: argmax(s - log(-log(u))), u uniform over (0, 1), is a draw from softmax(s).
    perturbed = jnp.where(allowed, scores - jnp.log(-jnp.log(noise)), -jnp.inf)
    sampled = jnp.argmax(jax.lax.stop_gradient(perturbed), axis=1).astype(jnp.int32)
    return sampled, jnp.any(allowed, axis=1)


def match_loss(
    scores: Float[Array, "B 3 2"], sampled: Bool[Array, "B 2"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean cross-entropy and accuracy of image-text matching.

    Args:
        scores: of "no" and "yes", for the row's pair, its text with another image, its image with
            another text.
        sampled: whether there was another image, another text; pairs without one have weight 0.
    """
    weights = jnp.pad(sampled.astype(jnp.float32), ((0, 0), (1, 0)), constant_values=1.0)
    # With two classes the cross-entropy is softplus(-log-odds of the right class).
    log_odds = scores[:, :, 1] - scores[:, :, 0]
    sign = jnp.array([1.0, -1.0, -1.0])[None, :]  # the first pair belongs together
    losses = jax.nn.softplus(-log_odds * sign)
    correct = (log_odds * sign > 0).astype(jnp.float32)
    total = jnp.sum(weights)
    return jnp.sum(losses * weights) / total, jnp.sum(correct * weights) / total


def token_losses(
    scores: Float[Array, "B K V"],
    labels: Int[Array, "B K"],
    momentum: Float[Array, "B K V"] | None,
    alpha: Float[Array, ""] | float,
) -> Float[Array, "B K"]:
    """Cross-entropy of each masked token.

    Args:
        scores: of the online model.
        labels: the tokens that were masked.
        momentum: scores of the momentum model, whose softmax is the soft target; None: none.
        alpha: share of the soft target.
    """
    expected = jnp.take_along_axis(scores, labels[:, :, None], axis=2)[:, :, 0]
    if momentum is not None:
        # the mean score under the mixed target, as in `_direction`
        soft = jax.lax.stop_gradient(jax.nn.softmax(momentum, axis=2))
        expected = (1 - alpha) * expected + alpha * jnp.sum(soft * scores, axis=2)
    return jax.nn.logsumexp(scores, axis=2) - expected
