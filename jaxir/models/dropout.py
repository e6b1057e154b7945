"""Dropout by hashing.

Dimension key: B texts.

A text's mask is a hash of its seed and of each number's place in it, so it depends on neither
devices nor chunks. A few integer operations a number do for that; JAX's own generator takes a
quarter of a training step on a TPU (the compiler's estimate for XLM-R base).
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

Seeds = UInt32[Array, "B"]


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


def dropout(x: Float[Array, "B ..."], rate: float, seeds: Seeds | None) -> Float[Array, "B ..."]:
    """Inverted dropout: zero with probability `rate`, else divided by what is left."""
    if seeds is None or rate == 0:
        return x
    places = jnp.arange(math.prod(x.shape[1:]), dtype=jnp.uint32).reshape(1, *x.shape[1:])
    bits = mix(mix(places) ^ seeds.reshape(-1, *[1] * (x.ndim - 1)))
    keep = bits >= jnp.uint32(rate * 2.0**32)
    return jnp.where(keep, x / (1 - rate), jnp.zeros((), x.dtype))
