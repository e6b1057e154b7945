"""Dropout by hashing.

Dimension key: B rows, L tokens, D width, H heads, M tokens attended to.

Seeds are 32-bit numbers: one of each text is folded with the token's position into one of each
token, and that with the place in the network (the layer's number, the block's number). A mask's bit
is a hash of the token's seed and of the number's index in its vector. So masks depend neither on
devices and chunks nor on the row and column in which a text stands, nor on its padding. Hashing
takes a few integer operations a number; JAX's own generator takes a quarter of a training step on a
TPU (the compiler's estimate for XLM-R base).

`jaxir.data.interleaving` has a 64-bit hash of its own, in NumPy, for the order of the data.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

Seeds = UInt32[Array, "B L"]  # one a token


def hash_bits(x: UInt32[Array, "*N"]) -> UInt32[Array, "*N"]:
    """A permutation of the 32-bit numbers in which every bit depends on every other.

    References:
        C. Wellons, Prospecting for hash functions (2018), with constants found by TheIronBorn.
    """
    x = (x ^ (x >> 16)) * jnp.uint32(0x21F0AAAD)
    x = (x ^ (x >> 15)) * jnp.uint32(0xD35A2D97)
    return x ^ (x >> 15)


def fold_in(seeds: UInt32[Array, "*N"], number: int | Int[Array, "*N"]) -> UInt32[Array, "*N"]:
    """New seeds from seeds and a number, as `jax.random.fold_in` makes keys.

    Args:
        seeds: broadcast against `number`.
        number: of a layer, a position, a kind of randomness.
    """
    # the golden ratio's bits are added since `hash_bits` maps 0 to 0
    return hash_bits(seeds ^ hash_bits(jnp.asarray(number, jnp.uint32) + jnp.uint32(0x9E3779B9)))


def fold_in_if_any(seeds: Seeds | None, number: int | Int[Array, ""]) -> Seeds | None:
    """`fold_in`, or None for None: no dropout."""
    return None if seeds is None else fold_in(seeds, number)


def dropout(x: Float[Array, "B L D"], rate: float, seeds: Seeds | None) -> Float[Array, "B L D"]:
    """Inverted dropout: zero with probability `rate`, else divided by 1 - rate."""
    if seeds is None or rate == 0:
        return x
    # both sides of the XOR are hashes, of the number's index and of its token's seed
    indices = hash_bits(jnp.arange(x.shape[-1], dtype=jnp.uint32))
    return _drop(x, rate, indices[None, None, :] ^ seeds[:, :, None])


def attention_dropout(
    probabilities: Float[Array, "B H L M"],
    rate: float,
    seeds: Seeds | None,
    positions: Int[Array, "#B M"],
) -> Float[Array, "B H L M"]:
    """Inverted dropout of attention, by the seed of the token that attends.

    Args:
        probabilities: of each head, from each token to each.
        rate: probability to be zero.
        seeds: of the tokens that attend; None: no dropout.
        positions: within their text, of the tokens attended to.
    """
    if seeds is None or rate == 0:
        return probabilities
    # head in the upper 16 bits, position in the lower 16
    heads = jnp.arange(probabilities.shape[1], dtype=jnp.uint32) << 16
    indices = hash_bits(heads[None, :, None, None] | positions.astype(jnp.uint32)[:, None, None, :])
    return _drop(probabilities, rate, indices ^ seeds[:, None, :, None])


def _drop(x: Array, rate: float, bits: UInt32[Array, "..."]) -> Array:
    # a uniform 32-bit hash is below rate * 2^32 with probability `rate`
    keep = hash_bits(bits) >= jnp.uint32(rate * 2.0**32)
    return jnp.where(keep, x / (1 - rate), jnp.zeros((), x.dtype))
