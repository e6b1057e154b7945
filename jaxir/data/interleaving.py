"""Exact interleaving: the count of each kind is always within one draw of its share.

Dimension key: K kinds, T draws of a period, N draws that are looked up.

Nothing here keeps state: the kind that is drawn n-th, and how often it was drawn before, are two
look-ups in tables of one period. So a run resumed at any step continues exactly, at no cost.
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np
from jaxtyping import Int

MAX_PERIOD = 1_000_000


def integer_shares(shares: Sequence[float], max_period: int = MAX_PERIOD) -> Int[np.ndarray, "K"]:
    """Whole numbers in the proportion of `shares`, with a sum of at most `max_period`.

    Simple fractions stay exact ((0.5, 0.5) becomes (1, 1)); others are rounded by largest
    remainder. A positive share never becomes zero.
    """
    # floats are exact binary fractions: 0.1 is not 1/10, but limit_denominator finds 1/10 nearby
    exact = [Fraction(share) / sum(map(Fraction, shares)) for share in shares]
    simple = [share.limit_denominator(1_000) for share in exact]
    period = math.lcm(*(share.denominator for share in simple))
    close = all(
        abs(a - b) < 1e-12 and (a > 0) == (b > 0) for a, b in zip(exact, simple, strict=True)
    )
    if close and period <= max_period and sum(simple) == 1:
        return np.array([int(share * period) for share in simple])
    # rounded down, but not to 0; those with the largest remainders get what is left of the period
    whole = np.array([max(int(share * max_period), share > 0) for share in exact])
    remainders = [float(share * max_period - count) for share, count in zip(exact, whole)]
    for index in np.argsort(remainders)[::-1][: max(0, max_period - int(whole.sum()))]:
        whole[index] += 1
    # tiny shares raised to 1 may have made the sum too large: the largest share pays for them
    whole[np.argmax(whole)] -= max(0, int(whole.sum()) - max_period)
    return whole // math.gcd(*map(int, whole))


@dataclass(frozen=True)
class Interleaving:
    """Table of one period of an exact interleaving, with the running count of each kind.

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
        period, draw = np.divmod(n, len(self.kinds))
        kind = self.kinds[draw]
        return kind, period * self.shares[kind] + self.counts[draw]


def interleave(shares: Sequence[float], max_period: int = MAX_PERIOD) -> Interleaving:
    """Tabulate one period of Tijdeman's rule.

    The rule gives each draw to the kind whose deadline comes first among those already due. Written
    with D = 1 / (2K - 2) and a share s of a period T, the j-th draw of a kind is due from step
    ceil((j - 1 + D) T / s) on and late after step (j - D) T / s, steps and j counted from 1. These
    are unit jobs with whole release times, which "earliest deadline first" schedules without a miss
    whenever that can be done, and Tijdeman proved that it can.
    """
    whole = integer_shares(shares, max_period)
    period, positive = int(whole.sum()), int((whole > 0).sum())
    if positive == 1:  # D would be 1 / 0
        return Interleaving(whole, np.array([np.argmax(whole)]), np.array([0]))
    # one job a draw of the period; all arithmetic is on integers, multiplied by 1 / D
    scale = 2 * positive - 2
    kind = np.repeat(np.arange(len(whole)), whole)
    draw = np.concatenate([np.arange(count) for count in whole])  # j - 1
    due = -((-(draw * scale + 1) * period) // (whole[kind] * scale))  # -(-a // b) rounds up
    late = ((draw + 1) * scale - 1) * period // (whole[kind] * scale)
    by_due = np.argsort(due, kind="stable")
    first_of_step = np.searchsorted(due[by_due], np.arange(1, period + 2))
    # a job as one integer: it sorts by deadline, then kind, and both kind and draw can be read off
    jobs = ((late * len(whole) + kind) * period + draw)[by_due].tolist()
    waiting: list[int] = []
    order = np.empty(period, np.int64)
    for step, (start, stop) in enumerate(pairwise(first_of_step.tolist())):
        for job in jobs[start:stop]:
            heapq.heappush(waiting, job)
        order[step] = heapq.heappop(waiting)
    return Interleaving(whole, order // period % len(whole), order % period)
