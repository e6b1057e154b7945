"""Exact shares and stateless shuffles: the arithmetic under the batch schedule.

Dimension key: K kinds of things that take turns, T steps of one period, N any positions asked for.

Nothing here keeps state. What is drawn n-th, and how often it was drawn before, are two look-ups in
tables of one period; which row stands at a place of an epoch is a keyed permutation computed on the
spot. So a run resumed at any step continues exactly, at no cost.
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np
from jaxtyping import Int, UInt64

MAX_PERIOD = 1_000_000


def integer_shares(shares: Sequence[float], max_period: int = MAX_PERIOD) -> Int[np.ndarray, "K"]:
    """Whole numbers in the proportion of `shares`, with a sum of at most `max_period`.

    Simple fractions stay exact ((0.5, 0.5) becomes (1, 1)); others are rounded by largest
    remainder. A positive share never becomes zero.
    """
    exact = [Fraction(share) / sum(map(Fraction, shares)) for share in shares]
    simple = [share.limit_denominator(1_000) for share in exact]
    period = math.lcm(*(share.denominator for share in simple))
    close = all(
        abs(a - b) < 1e-12 and (a > 0) == (b > 0) for a, b in zip(exact, simple, strict=True)
    )
    if close and period <= max_period and sum(simple) == 1:
        return np.array([int(share * period) for share in simple])
    whole = np.array([max(int(share * max_period), share > 0) for share in exact])
    remainders = [float(share * max_period - count) for share, count in zip(exact, whole)]
    for index in np.argsort(remainders)[::-1][: max(0, max_period - int(whole.sum()))]:
        whole[index] += 1
    whole[np.argmax(whole)] -= max(0, int(whole.sum()) - max_period)
    return whole // math.gcd(*map(int, whole))


@dataclass(frozen=True)
class Interleaving:
    """One period of an exact interleaving, with the running count of each kind.

    After any n draws each kind has been drawn its share of n times to within
    1 - 1 / (2K - 2), K being the number of kinds with a positive share.

    References:
        R. Tijdeman, The chairman assignment problem, Discrete Mathematics 32 (1980), 323-330.
    """

    shares: Int[np.ndarray, "K"]
    kinds: Int[np.ndarray, "T"]
    counts: Int[np.ndarray, "T"]  # how often kinds[t] was drawn earlier in the period

    def at(self, n: Int[np.ndarray, "*N"]) -> tuple[Int[np.ndarray, "*N"], Int[np.ndarray, "*N"]]:
        """Kind drawn n-th (from 0), and how often that kind was drawn before."""
        period, place = np.divmod(n, len(self.kinds))
        kind = self.kinds[place]
        return kind, period * self.shares[kind] + self.counts[place]


def interleave(shares: Sequence[float], max_period: int = MAX_PERIOD) -> Interleaving:
    """Tabulate one period of Tijdeman's rule.

    The rule gives each draw to the kind whose deadline comes first among those already due. Written
    with D = 1 / (2K - 2) and a share s of a period T, the j-th draw of a kind is due from step
    ceil((j - 1 + D) T / s) on and late after step (j - D) T / s: unit jobs with whole release
    times, which "earliest deadline first" schedules without a miss whenever that can be done, and
    Tijdeman proved that it can.
    """
    whole = integer_shares(shares, max_period)
    period, positive = int(whole.sum()), int((whole > 0).sum())
    if positive == 1:
        return Interleaving(whole, np.array([np.argmax(whole)]), np.array([0]))
    scale = 2 * positive - 2
    kind = np.repeat(np.arange(len(whole)), whole)
    draw = np.concatenate([np.arange(count) for count in whole])
    due = -((-(draw * scale + 1) * period) // (whole[kind] * scale))
    late = ((draw + 1) * scale - 1) * period // (whole[kind] * scale)
    by_due = np.argsort(due, kind="stable")
    first_of_step = np.searchsorted(due[by_due], np.arange(1, period + 2))
    # one integer orders a job by deadline, then kind, and tells which job it is
    jobs = ((late * len(whole) + kind) * period + draw)[by_due].tolist()
    waiting: list[int] = []
    order = np.empty(period, np.int64)
    for step, (start, stop) in enumerate(pairwise(first_of_step.tolist())):
        for job in jobs[start:stop]:
            heapq.heappush(waiting, job)
        order[step] = heapq.heappop(waiting)
    return Interleaving(whole, order // period % len(whole), order % period)


def mix(values: UInt64[np.ndarray, "*N"]) -> UInt64[np.ndarray, "*N"]:
    """Scramble 64-bit words so that every input bit reaches every output bit.

    References:
        Steele, Lea and Flood, Fast splittable pseudorandom number generators (2014),
        mix64variant13.
    """
    with np.errstate(over="ignore"):  # wrapping is the point
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def fold(*words: int | Int[np.ndarray, "*N"]) -> UInt64[np.ndarray, "*N"]:
    """One 64-bit key out of several numbers, e.g. (seed, stream, epoch)."""
    key = np.zeros(np.broadcast_shapes(*(np.shape(word) for word in words)), np.uint64)
    for word in words:
        with np.errstate(over="ignore"):
            key = (key ^ np.asarray(word).astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
        key = mix(key)
    return key


def permuted(
    places: Int[np.ndarray, "N"], sizes: Int[np.ndarray, "N"], keys: UInt64[np.ndarray, "N"]
) -> Int[np.ndarray, "N"]:
    """Where the permutation of `range(size)` chosen by `key` sends `place`, for N independent ones.

    A Feistel network permutes the next power of four; places outside the range walk on until they
    fall inside, which keeps it a permutation.

    References:
        Black and Rogaway, Ciphers with arbitrary finite domains (2002), the cycle-walking cipher.
    """
    bits = np.ceil(np.log2(np.maximum(sizes, 2))).astype(np.uint64)
    half = (bits + np.uint64(1)) // np.uint64(2)
    mask = (np.uint64(1) << half) - np.uint64(1)
    result = places.astype(np.uint64)
    walking = np.ones(len(places), bool)
    while walking.any():
        width, low, key = half[walking], mask[walking], keys[walking]
        left, right = result[walking] >> width, result[walking] & low
        for number in range(8):
            left, right = right, left ^ (mix(right ^ mix(key + np.uint64(number))) & low)
        result[walking] = (left << width) | right
        walking &= result >= sizes.astype(np.uint64)
    return result.astype(np.int64)
