"""Measures of one query from the ranks of its right answers.

Dimension key: Q queries, R right answers of a query at most.

Every function takes `ranks`, from 1 and in any order, of all the right answers of each query in a
full ranking (0 or less is padding) and returns one float64 a query, NaN where a query has no right
answer: such a query counts in no mean. A measure of one's own is a function and a line in MEASURES.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from jaxtyping import Float, Int


def average_precision(
    ranks: Int[np.ndarray, "Q R"], k: int | None = None
) -> Float[np.ndarray, "Q"]:
    """Mean over the right answers of the precision at their rank (Manning et al. 2008, 8.4).

    With `k` only ranks up to k count and the divisor is min(number of right answers, k), as in
    XTREME-R (arXiv 2104.07412); trec_eval's `map_cut` divides by the number of right answers.
    """
    ordered = _ordered(ranks)
    precision = np.arange(1, ordered.shape[1] + 1) / ordered
    divisor = _answers(ranks)
    if k is not None:
        precision = np.where(ordered <= k, precision, 0.0)
        divisor = np.minimum(divisor, k)
    return _divide(precision.sum(axis=1), divisor)


def recall(ranks: Int[np.ndarray, "Q R"], k: int) -> Float[np.ndarray, "Q"]:
    """Share of the right answers that stand among the first k (Manning et al. 2008, 8.3)."""
    return _divide((_ordered(ranks) <= k).sum(axis=1), _answers(ranks))


def success(ranks: Int[np.ndarray, "Q R"], k: int) -> Float[np.ndarray, "Q"]:
    """1 where any right answer stands among the first k, else 0 (trec_eval's `success`)."""
    return _divide(_ordered(ranks)[:, 0] <= k, np.minimum(_answers(ranks), 1))


def reciprocal_rank(ranks: Int[np.ndarray, "Q R"]) -> Float[np.ndarray, "Q"]:
    """1 / rank of the first right answer (Voorhees, TREC-8 Question Answering Track, 1999)."""
    ordered = _ordered(ranks)
    return _divide(1 / ordered[:, 0], np.minimum(_answers(ranks), 1))


def ndcg(ranks: Int[np.ndarray, "Q R"], k: int) -> Float[np.ndarray, "Q"]:
    """Discounted gain of the first k, over that of the best ranking (Järvelin & Kekäläinen 2002).

    Gains are 0 or 1 and the discount is log2(1 + rank), as in trec_eval's `ndcg_cut`.
    """
    ordered = _ordered(ranks)
    gain = np.where(ordered <= k, 1 / np.log2(1 + ordered), 0.0)
    best = 1 / np.log2(1 + np.arange(1, k + 1))
    answers = np.minimum(_answers(ranks), k)
    return _divide(gain.sum(axis=1), np.append(0.0, best.cumsum())[answers])


MEASURES: dict[str, Callable[[Int[np.ndarray, "Q R"]], Float[np.ndarray, "Q"]]] = {
    "map": average_precision,
    "map@20": partial(average_precision, k=20),
    "success@1": partial(success, k=1),
    "recall@10": partial(recall, k=10),
    "mrr": reciprocal_rank,
    "ndcg@10": partial(ndcg, k=10),
}


def _ordered(ranks: Int[np.ndarray, "Q R"]) -> Float[np.ndarray, "Q R"]:
    """Ranks in ascending order; padding stands last, at infinity, where it earns nothing."""
    return np.sort(np.where(ranks > 0, ranks, np.inf), axis=1)


def _answers(ranks: Int[np.ndarray, "Q R"]) -> Int[np.ndarray, "Q"]:
    return (ranks > 0).sum(axis=1)


def _divide(sums: np.ndarray, divisors: np.ndarray) -> Float[np.ndarray, "Q"]:
    unanswered = divisors == 0
    return np.where(unanswered, np.nan, sums / np.where(unanswered, 1, divisors))
