"""Metrics of each query, from the ranks and gains of its relevant passages.

Dimension key: Q queries, R relevant passages of a query at most.

Every function takes `ranks`, from 1 and in any order (0: not retrieved), and `gains`, positive for
a relevant passage and 0 for padding. It returns a float64 a query, NaN for a query without relevant
passages, which counts in no mean. To add a metric, write such a function and a line in METRICS.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from jaxtyping import Float, Int

MetricFunction = Callable[[Int[np.ndarray, "Q R"], Int[np.ndarray, "Q R"]], Float[np.ndarray, "Q"]]


def average_precision(
    ranks: Int[np.ndarray, "Q R"], gains: Int[np.ndarray, "Q R"], k: int | None = None
) -> Float[np.ndarray, "Q"]:
    """Mean over the relevant passages of the precision at their rank (Manning et al. 2008, 8.4).

    With `k` only ranks up to k count and the divisor is min(number of relevant passages, k), as in
    XTREME-R (arXiv 2104.07412); trec_eval's `map_cut` divides by the number of relevant passages.
    """
    ordered = _ordered(ranks, gains)
    precision = np.arange(1, ordered.shape[1] + 1) / ordered
    divisor = _count_relevant(gains)
    if k is not None:
        precision = np.where(ordered <= k, precision, 0.0)
        divisor = np.minimum(divisor, k)
    return _divide(precision.sum(axis=1), divisor)


def recall(
    ranks: Int[np.ndarray, "Q R"], gains: Int[np.ndarray, "Q R"], k: int
) -> Float[np.ndarray, "Q"]:
    """Share of the relevant passages that are in the top k (Manning et al. 2008, 8.3)."""
    return _divide((_ordered(ranks, gains) <= k).sum(axis=1), _count_relevant(gains))


def success(
    ranks: Int[np.ndarray, "Q R"], gains: Int[np.ndarray, "Q R"], k: int
) -> Float[np.ndarray, "Q"]:
    """1 where any relevant passage is in the top k, else 0 (trec_eval's `success`)."""
    return _divide(_ordered(ranks, gains)[:, 0] <= k, np.minimum(_count_relevant(gains), 1))


def reciprocal_rank(
    ranks: Int[np.ndarray, "Q R"], gains: Int[np.ndarray, "Q R"]
) -> Float[np.ndarray, "Q"]:
    """1 / rank of the first relevant passage (Voorhees, TREC-8 Question Answering Track, 1999)."""
    return _divide(1 / _ordered(ranks, gains)[:, 0], np.minimum(_count_relevant(gains), 1))


def ndcg(
    ranks: Int[np.ndarray, "Q R"], gains: Int[np.ndarray, "Q R"], k: int
) -> Float[np.ndarray, "Q"]:
    """Discounted gain of the top k, over that of the best ranking (Järvelin & Kekäläinen 2002).

    The discount is log2(1 + rank), as in trec_eval's `ndcg_cut`.
    """
    in_top = (ranks > 0) & (ranks <= k)
    discounted = np.where(in_top, gains / np.log2(1 + np.maximum(ranks, 1)), 0.0)
    ideal = -np.sort(-gains, axis=1)[:, :k]
    ideal_discounted = ideal / np.log2(1 + np.arange(1, ideal.shape[1] + 1))
    return _divide(discounted.sum(axis=1), ideal_discounted.sum(axis=1))


METRICS: dict[str, MetricFunction] = {
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
    """Ranks in ascending order; passages that are not retrieved are last, with rank infinity."""
    return np.sort(np.where((ranks > 0) & (gains > 0), ranks, np.inf), axis=1)


def _count_relevant(gains: Int[np.ndarray, "Q R"]) -> Int[np.ndarray, "Q"]:
    return (gains > 0).sum(axis=1)


def _divide(sums: np.ndarray, divisors: np.ndarray) -> Float[np.ndarray, "Q"]:
    empty = divisors == 0
    return np.where(empty, np.nan, sums / np.where(empty, 1, divisors))
