"""Measures of one query from the ranks and gains of its right answers.

Dimension key: Q queries, R right answers of a query at most.

Every function takes `ranks`, from 1 and in any order (0: not retrieved), and `gains`, positive for
a right answer and 0 for padding. It returns one float64 a query, NaN where a query has no right
answer: such a query counts in no mean. A measure of one's own is a function and a line in MEASURES.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from jaxtyping import Float, Int

Measure = Callable[[Int[np.ndarray, "Q R"], Int[np.ndarray, "Q R"]], Float[np.ndarray, "Q"]]


def average_precision(
    ranks: Int[np.ndarray, "Q R"], gains: Int[np.ndarray, "Q R"], k: int | None = None
) -> Float[np.ndarray, "Q"]:
    """Mean over the right answers of the precision at their rank (Manning et al. 2008, 8.4).

    With `k` only ranks up to k count and the divisor is min(number of right answers, k), as in
    XTREME-R (arXiv 2104.07412); trec_eval's `map_cut` divides by the number of right answers.
    """
    ordered = _ordered(ranks, gains)
    precision = np.arange(1, ordered.shape[1] + 1) / ordered
    divisor = _answers(gains)
    if k is not None:
        precision = np.where(ordered <= k, precision, 0.0)
        divisor = np.minimum(divisor, k)
    return _divide(precision.sum(axis=1), divisor)


def recall(
    ranks: Int[np.ndarray, "Q R"], gains: Int[np.ndarray, "Q R"], k: int
) -> Float[np.ndarray, "Q"]:
    """Share of the right answers that stand among the first k (Manning et al. 2008, 8.3)."""
    return _divide((_ordered(ranks, gains) <= k).sum(axis=1), _answers(gains))


def success(
    ranks: Int[np.ndarray, "Q R"], gains: Int[np.ndarray, "Q R"], k: int
) -> Float[np.ndarray, "Q"]:
    """1 where any right answer stands among the first k, else 0 (trec_eval's `success`)."""
    return _divide(_ordered(ranks, gains)[:, 0] <= k, np.minimum(_answers(gains), 1))


def reciprocal_rank(
    ranks: Int[np.ndarray, "Q R"], gains: Int[np.ndarray, "Q R"]
) -> Float[np.ndarray, "Q"]:
    """1 / rank of the first right answer (Voorhees, TREC-8 Question Answering Track, 1999)."""
    return _divide(1 / _ordered(ranks, gains)[:, 0], np.minimum(_answers(gains), 1))


def ndcg(
    ranks: Int[np.ndarray, "Q R"], gains: Int[np.ndarray, "Q R"], k: int
) -> Float[np.ndarray, "Q"]:
    """Discounted gain of the first k, over that of the best ranking (Järvelin & Kekäläinen 2002).

    The discount is log2(1 + rank), as in trec_eval's `ndcg_cut`.
    """
    found = (ranks > 0) & (ranks <= k)
    gained = np.where(found, gains / np.log2(1 + np.maximum(ranks, 1)), 0.0)
    best = -np.sort(-gains, axis=1)[:, :k]
    best_gained = best / np.log2(1 + np.arange(1, best.shape[1] + 1))
    return _divide(gained.sum(axis=1), best_gained.sum(axis=1))


MEASURES: dict[str, Measure] = {
    "map": average_precision,
    "map@20": partial(average_precision, k=20),
    "success@1": partial(success, k=1),
    "recall@10": partial(recall, k=10),
    "recall@100": partial(recall, k=100),
    "mrr": reciprocal_rank,
    "ndcg@10": partial(ndcg, k=10),
}


def _ordered(
    ranks: Int[np.ndarray, "Q R"], gains: Int[np.ndarray, "Q R"]
) -> Float[np.ndarray, "Q R"]:
    """Ranks in ascending order; what is not retrieved stands last, at infinity, earning nothing."""
    return np.sort(np.where((ranks > 0) & (gains > 0), ranks, np.inf), axis=1)


def _answers(gains: Int[np.ndarray, "Q R"]) -> Int[np.ndarray, "Q"]:
    return (gains > 0).sum(axis=1)


def _divide(sums: np.ndarray, divisors: np.ndarray) -> Float[np.ndarray, "Q"]:
    unanswered = divisors == 0
    return np.where(unanswered, np.nan, sums / np.where(unanswered, 1, divisors))
