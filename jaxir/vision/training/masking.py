"""Which tokens of a caption are masked, by hashing.

Dimension key: B rows, L tokens, K tokens of a row that can be masked at once.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from jaxir.models.dropout import fold

MASKED, RANDOM = 0.8, 0.1  # shares of the chosen tokens; the rest stays as it is


class Masked(NamedTuple):
    """Captions with masked tokens, and what stood there."""

    ids: Int[Array, "B L"]
    positions: Int[Array, "B K"]
    labels: Int[Array, "B K"]
    chosen: Bool[Array, "B K"]  # False: nothing is masked at that position


def uniform(hashed: UInt32[Array, "*N"]) -> Float[Array, "*N"]:
    """Numbers over 0 and under 1 from hashes; 24 bits, which float32 holds."""
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
) -> Masked:
    """Mask a share of each caption's tokens: 80 % by the mask, 10 % by any token, 10 % by itself.

    A caption of n tokens that are not special has n * share of them masked, rounded up or down at
    random so that the share holds on average; a draw for each token (BERT, arXiv 1810.04805) would
    have no upper bound, and so would need scores of the whole vocabulary for every token. What is
    drawn depends on a row's seed and on positions, not on the padding.
    """
    places = jnp.arange(ids.shape[1], dtype=jnp.int32)[None, :]
    special = sum((ids == token for token in (*special_ids, mask_id)), jnp.zeros(ids.shape, bool))
    maskable = (places < lengths[:, None]) & ~special
    order = jnp.where(maskable, fold(fold(seeds, 0)[:, None], places) >> 1, jnp.uint32(1 << 31))
    positions = jnp.argsort(order, axis=1)[:, : slots(ids.shape[1], share)].astype(jnp.int32)
    count = jnp.floor(jnp.sum(maskable, axis=1) * share + uniform(fold(seeds, 1)))
    chosen = jnp.arange(positions.shape[1])[None, :] < count[:, None]
    chosen = chosen & jnp.take_along_axis(maskable, positions, axis=1)
    labels = jnp.take_along_axis(ids, positions, axis=1)
    action = uniform(fold(fold(seeds, 2)[:, None], positions))
    anything = fold(fold(seeds, 3)[:, None], positions) % jnp.uint32(vocab_size)
    other = jnp.where(action < MASKED + RANDOM, anything.astype(ids.dtype), labels)
    other = jnp.where(action < MASKED, jnp.asarray(mask_id, ids.dtype), other)
    rows = jnp.arange(len(ids))[:, None]
    replaced = ids.at[rows, positions].set(jnp.where(chosen, other, labels))
    return Masked(replaced, positions, labels, chosen)
