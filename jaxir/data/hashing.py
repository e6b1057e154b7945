"""Stateless randomness: 64-bit hashes of numbers and of texts, and permutations keyed by them.

A shuffle here is a function of its key, not of a generator's state, so any element of any epoch is
computed on the spot. Dropout has 32-bit hashes of its own, which run on the device
(`jaxir.models.dropout`).

Dimension key: N independent values.
"""

import hashlib

import numpy as np
from jaxtyping import Int, UInt64

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio, odd
FEISTEL_ROUNDS = 8


def mix64(values: UInt64[np.ndarray, "*N"]) -> UInt64[np.ndarray, "*N"]:
    """Scramble 64-bit words so that every input bit reaches every output bit.

    References:
        Steele, Lea and Flood, Fast splittable pseudorandom number generators (2014),
        mix64variant13.
    """
    with np.errstate(over="ignore"):  # wrapping is the point
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def hash_integers(*integers: int | Int[np.ndarray, "*N"]) -> UInt64[np.ndarray, "*N"]:
    """Hash of several integers, e.g. (seed, stream, epoch), as one 64-bit key."""
    key = np.zeros(np.broadcast_shapes(*(np.shape(integer) for integer in integers)), np.uint64)
    for integer in integers:
        # added after the exclusive or, so that leading zeros change the key too
        with np.errstate(over="ignore"):
            key = (key ^ np.asarray(integer).astype(np.uint64)) + GOLDEN
        key = mix64(key)
    return key


def hash_text(text: str) -> int:
    """Hash of a text: 64 bits of its BLAKE2b."""
    data = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


def hash_words(*words: object) -> int:
    """Hash of several words or numbers, e.g. (seed, name), in 64 bits."""
    return hash_text("\x1f".join(map(str, words)))


def permute(
    indices: Int[np.ndarray, "N"], sizes: Int[np.ndarray, "N"], keys: UInt64[np.ndarray, "N"]
) -> Int[np.ndarray, "N"]:
    """Image of each index under the permutation of `range(size)` that its key chooses.

    Memory and time do not depend on the sizes.

    References:
        Black and Rogaway, Ciphers with arbitrary finite domains (2002), the cycle-walking cipher.
    """
    # A Feistel network permutes the numbers of 2 x half bits, the least power of four that holds
    # the range: any function of the right half, exclusive-ored onto the left, can be undone.
    bits = np.ceil(np.log2(np.maximum(sizes, 2))).astype(np.uint64)
    half = (bits + np.uint64(1)) // np.uint64(2)
    mask = (np.uint64(1) << half) - np.uint64(1)
    result = indices.astype(np.uint64)
    outside = np.ones(len(indices), bool)
    # An image outside the range is permuted again until it falls inside. That stays a permutation:
    # it follows the cycle of the larger one from each index to the next inside the range, which
    # exists, since the index itself is on the cycle. The range is over a quarter of the numbers, so
    # that takes fewer than four passes on average.
    while outside.any():
        width, low, key = half[outside], mask[outside], keys[outside]
        left, right = result[outside] >> width, result[outside] & low
        for feistel_round in range(FEISTEL_ROUNDS):
            round_key = mix64(key + np.uint64(feistel_round))
            left, right = right, left ^ (mix64(right ^ round_key) & low)
        result[outside] = (left << width) | right
        outside &= result >= sizes.astype(np.uint64)
    return result.astype(np.int64)
