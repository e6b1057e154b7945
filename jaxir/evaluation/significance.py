"""How far chance alone may move a figure, and whether it explains the difference of two models.

Dimension key: Q queries, U questions, B draws, M figures.

What is drawn is questions: the queries that ask one thing in several languages are no independent
witnesses, so they are drawn together.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from jaxir.evaluation.settings import MetricSums, PerQueryMetrics

RESAMPLES = 1_000
PERMUTATIONS = 10_000
NUMBERS_AT_ONCE = 1 << 23  # of draws and questions; bounds the memory


def confidence_intervals(
    totals: Mapping[str, MetricSums], resamples: int = RESAMPLES, seed: int = 0, level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap over questions (Efron & Tibshirani 1993, 13.3).

    Args:
        totals: of `PerQueryMetrics.totals`, by "setting/measure".
        resamples: how often as many questions are drawn, with replacement.
        seed: of the draws.
        level: the intervals are to hold the true figure with this probability.

    Returns:
        The lower and upper end by "setting/measure"; NaN where no query counts.
    """
    questions = len(next(iter(totals.values())).sums)
    draws: dict[str, list[np.ndarray]] = {name: [] for name in totals}
    rng = np.random.default_rng(seed)
    for number in _blocks(resamples, questions):
        chosen = rng.integers(0, questions, (number, questions))
        chosen += np.arange(number)[:, None] * questions
        drawn = np.bincount(chosen.reshape(-1), minlength=number * questions)
        weights = drawn.reshape(number, questions).astype(float)
        for name, one in totals.items():
            draws[name].append(one.figure(weights))
    ends = (50 * (1 - level), 50 * (1 + level))
    return {name: _percentiles(np.concatenate(many), ends) for name, many in draws.items()}


def _blocks(draws: int, questions: int) -> Iterator[int]:
    """Sizes of blocks of draws."""
    most = max(1, NUMBERS_AT_ONCE // questions)
    for first in range(0, draws, most):
        yield min(most, draws - first)


def _percentiles(values: Float[np.ndarray, "B"], ends: tuple[float, float]) -> tuple[float, float]:
    known = values[~np.isnan(values)]
    if not known.size:
        return (np.nan, np.nan)
    low, high = np.percentile(known, ends)
    return (float(low), float(high))


@dataclass(frozen=True)
class Comparison:
    """One figure of two models on the same queries."""

    first: float
    second: float
    p_value: float

    @property
    def difference(self) -> float:
        """Second minus first."""
        return self.second - self.first


def compare(
    first: PerQueryMetrics, second: PerQueryMetrics, permutations: int = PERMUTATIONS, seed: int = 0
) -> dict[str, Comparison]:
    """Paired randomisation test by question (Smucker, Allan & Carterette, CIKM 2007).

    If the models were alike, each question's values might as well have come from the other: the p
    value is the share of random exchanges that give a difference at least as large, either way.

    Args:
        first: of one model.
        second: of the other, on the same queries.
        permutations: how many exchanges are tried.
        seed: of the exchanges.

    Returns:
        By "setting/measure", for the measures that both have; queries that count for one only are
        left out.
    """
    pairs = _paired(first, second)
    if not pairs:
        return {}
    parts = [contributions(other) - contributions(one) for one, other in pairs.values()]
    p_values = exchange(np.stack(parts, axis=1), permutations, seed)
    return {
        name: Comparison(float(one.figure()), float(other.figure()), float(p))
        for (name, (one, other)), p in zip(pairs.items(), p_values)
    }


def exchange(
    differences: Float[np.ndarray, "U M"], permutations: int = PERMUTATIONS, seed: int = 0
) -> Float[np.ndarray, "M"]:
    """P values of sums of differences, either way, when each question's are given random signs.

    Args:
        differences: what each question adds to each of M differences.
        permutations: how often signs are drawn, the same for all of a question.
        seed: of the draws.
    """
    observed = differences.sum(axis=0)
    # what rounding alone may move
    slack = 1e-12 * np.maximum(np.abs(differences).sum(axis=0), 1e-300)
    as_large = np.zeros(differences.shape[1])
    rng = np.random.default_rng(seed)
    for number in _blocks(permutations, max(differences.shape)):
        signs = rng.integers(0, 2, (number, len(differences))) * 2.0 - 1
        as_large += (np.abs(signs @ differences) >= np.abs(observed) - slack).sum(axis=0)
    return (1 + as_large) / (1 + permutations)


def _paired(
    first: PerQueryMetrics, second: PerQueryMetrics
) -> dict[str, tuple[MetricSums, MetricSums]]:
    """MetricSums of both over the queries that count for both."""

    def masked(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {
            name: np.where(np.isnan(other[name]), np.nan, one[name])
            for name in one
            if name in other
        }

    def totals(one: PerQueryMetrics, other: PerQueryMetrics) -> dict[str, MetricSums]:
        return PerQueryMetrics(
            one.languages,
            one.settings,
            one.query_language,
            one.question,
            masked(one.by_language, other.by_language),
            masked(one.in_pool, other.in_pool),
        ).totals()

    ours, theirs = totals(first, second), totals(second, first)
    return {name: (ours[name], theirs[name]) for name in ours if ours[name].counts.any()}


def contributions(totals: MetricSums) -> Float[np.ndarray, "U"]:
    """What each question adds to the figure; models compare where the same queries count."""
    counts = totals.counts.sum(axis=0)
    cells = counts > 0
    return (totals.sums[:, cells] / counts[cells]).sum(axis=1) / cells.sum()
