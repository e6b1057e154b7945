"""Dropout by hashing.

Dimension key: B rows, L tokens, H heads, M tokens attended to.

A token's mask is a hash of its seed and of each number's place in its vector, and its seed one of
its text's and of its position there. So masks depend neither on devices and chunks nor on where in
which row a text stands and how far that row is padded. A few integer operations a number do for
that; JAX's own generator takes a quarter of a training step on a TPU (the compiler's estimate for
XLM-R base).
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

Seeds = UInt32[Array, "B L"]  # one a token


def mix(x: UInt32[Array, "*N"]) -> UInt32[Array, "*N"]:
    """A permutation of the 32-bit numbers in which every bit depends on every other.

    References:
        C. Wellons, Prospecting for hash functions (2018), with constants found by TheIronBorn.
    """
    x = (x ^ (x >> 16)) * jnp.uint32(0x21F0AAAD)
    x = (x ^ (x >> 15)) * jnp.uint32(0xD35A2D97)
    return x ^ (x >> 15)


def fold(seeds: UInt32[Array, "*N"], number: int | Int[Array, "*N"]) -> UInt32[Array, "*N"]:
    """New seeds, of one of the places where chance comes in."""
    return mix(seeds ^ mix(jnp.asarray(number, jnp.uint32) + jnp.uint32(0x9E3779B9)))


def fold_each(seeds: Seeds | None, number: int | Int[Array, ""]) -> Seeds | None:
    """`fold`, where None, no dropout, stays None."""
    return None if seeds is None else fold(seeds, number)


def dropout(x: Float[Array, "B L D"], rate: float, seeds: Seeds | None) -> Float[Array, "B L D"]:
    """Inverted dropout: zero with probability `rate`, else divided by what is left."""
    if seeds is None or rate == 0:
        return x
    places = mix(jnp.arange(x.shape[-1], dtype=jnp.uint32))
    return _drop(x, rate, places[None, None, :] ^ seeds[:, :, None])


def attention_dropout(
    probabilities: Float[Array, "B H L M"],
    rate: float,
    seeds: Seeds | None,
    positions: Int[Array, "#B M"],
) -> Float[Array, "B H L M"]:
    """The same of attention, by the seed of the token that attends.

    Args:
        probabilities: of each head, from each token to each.
        rate: probability to be zero.
        seeds: of the tokens that attend; None: no dropout.
        positions: in their text, of the tokens attended to.
    """
    if seeds is None or rate == 0:
        return probabilities
    heads = jnp.arange(probabilities.shape[1], dtype=jnp.uint32) << 16
    places = mix(heads[None, :, None, None] | positions.astype(jnp.uint32)[:, None, None, :])
    return _drop(probabilities, rate, places ^ seeds[:, None, :, None])


def _drop(x: Array, rate: float, hashed: UInt32[Array, "..."]) -> Array:
    keep = mix(hashed) >= jnp.uint32(rate * 2.0**32)
    return jnp.where(keep, x / (1 - rate), jnp.zeros((), x.dtype))
