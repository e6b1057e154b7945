"""Masking of caption tokens, drawn by hashing.

Dimension key: B rows, L tokens, K the most tokens of a row that are masked.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from jaxir.models.dropout import fold_in

MASKED, RANDOM = 0.8, 0.1  # shares of the chosen tokens; the rest stays as it is


class MaskedCaptions(NamedTuple):
    """Captions with masked tokens, and the tokens that were masked."""

    ids: Int[Array, "B L"]
    positions: Int[Array, "B K"]
    labels: Int[Array, "B K"]
    chosen: Bool[Array, "B K"]  # False: nothing is masked at that position


def uniform(hashed: UInt32[Array, "*N"]) -> Float[Array, "*N"]:
    """Uniform numbers over 0 and under 1 from hashes."""
    # The upper 24 bits, which float32 holds exactly, plus half a step so that none is 0.
    return (hashed >> 8).astype(jnp.float32) * 2.0**-24 + 2.0**-25


def slots(length: int, share: float) -> int:
    """K: the most tokens of a row of that length that are masked."""
    return max(1, math.ceil(length * share))


def mask_tokens(
    ids: Int[Array, "B L"],
    lengths: Int[Array, "B"],
    seeds: UInt32[Array, "B"],
    share: float,
    mask_id: int,
    special_ids: tuple[int, ...],
    vocab_size: int,
) -> MaskedCaptions:
    """Mask a share of each caption's tokens: 80 % by the mask, 10 % by any token, 10 % by itself.

    A caption of n tokens that are not special has n * share of them masked, rounded up or down at
    random so that the share holds on average; a draw for each token (BERT, arXiv 1810.04805) would
    have no upper bound, and so would need scores of the whole vocabulary for every token. The draw
    depends on a row's seed and on positions, not on the padding.
    """
    index = jnp.arange(ids.shape[1], dtype=jnp.int32)[None, :]
    special = sum((ids == token for token in (*special_ids, mask_id)), jnp.zeros(ids.shape, bool))
    maskable = (index < lengths[:, None]) & ~special
    # A random order of the maskable tokens: their hashes, shifted to 31 bits, sort before 2**31,
    # the key of all others; so the first positions are a uniform draw without replacement.
    order = jnp.where(
        maskable, fold_in(fold_in(seeds, 0)[:, None], index) >> 1, jnp.uint32(1 << 31)
    )
    positions = jnp.argsort(order, axis=1)[:, : slots(ids.shape[1], share)].astype(jnp.int32)
    # floor(x + u), u uniform over (0, 1), rounds x up with the probability of its fraction
    count = jnp.floor(jnp.sum(maskable, axis=1) * share + uniform(fold_in(seeds, 1)))
    chosen = jnp.arange(positions.shape[1])[None, :] < count[:, None]
    chosen = chosen & jnp.take_along_axis(maskable, positions, axis=1)
    labels = jnp.take_along_axis(ids, positions, axis=1)
    action = uniform(fold_in(fold_in(seeds, 2)[:, None], positions))
    random_ids = fold_in(fold_in(seeds, 3)[:, None], positions) % jnp.uint32(vocab_size)
    inputs = jnp.where(action < MASKED + RANDOM, random_ids.astype(ids.dtype), labels)
    inputs = jnp.where(action < MASKED, jnp.asarray(mask_id, ids.dtype), inputs)
    rows = jnp.arange(len(ids))[:, None]
    masked = ids.at[rows, positions].set(jnp.where(chosen, inputs, labels))
    return MaskedCaptions(masked, positions, labels, chosen)
