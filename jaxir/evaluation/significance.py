"""Significance: confidence intervals of metrics, and tests of the difference of two models.

Dimension key: U questions, B samples, M metrics.

Questions are resampled: the queries that ask one question in several languages are not independent
observations, so they are drawn together.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from jaxir.evaluation.settings import MetricSums, PerQueryMetrics

RESAMPLES = 1_000
PERMUTATIONS = 10_000
MAX_BLOCK = 1 << 23  # samples times questions drawn together; bounds the memory


def confidence_intervals(
    metrics: Mapping[str, MetricSums],
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap over questions (Efron & Tibshirani 1993, 13.3).

    Args:
        metrics: of `PerQueryMetrics.metric_sums`, by "setting/metric".
        resamples: number of samples, each of as many questions, with replacement.
        seed: of the samples.
        level: probability that an interval holds the true value.

    Returns:
        The lower and upper end by "setting/metric"; NaN where no query counts.
    """
    questions = len(next(iter(metrics.values())).sums)
    sampled: dict[str, list[np.ndarray]] = {name: [] for name in metrics}
    rng = np.random.default_rng(seed)
    for size in _block_sizes(resamples, questions):
        chosen = rng.integers(0, questions, (size, questions))
        # one bincount for the block: sample b counts in its own range of bins
        chosen += np.arange(size)[:, None] * questions
        counts = np.bincount(chosen.reshape(-1), minlength=size * questions)
        weights = counts.reshape(size, questions).astype(float)
        for name, sums in metrics.items():
            sampled[name].append(sums.mean(weights))
    ends = (50 * (1 - level), 50 * (1 + level))
    return {name: _percentiles(np.concatenate(blocks), ends) for name, blocks in sampled.items()}


def _block_sizes(samples: int, questions: int) -> Iterator[int]:
    most = max(1, MAX_BLOCK // questions)
    for start in range(0, samples, most):
        yield min(most, samples - start)


def _percentiles(values: Float[np.ndarray, "B"], ends: tuple[float, float]) -> tuple[float, float]:
    known = values[~np.isnan(values)]
    if not known.size:
        return (np.nan, np.nan)
    low, high = np.percentile(known, ends)
    return (float(low), float(high))


@dataclass(frozen=True)
class PairedTest:
    """A metric of two models on the same queries, and the p value of their difference."""

    first: float
    second: float
    p_value: float

    @property
    def difference(self) -> float:
        """Second minus first."""
        return self.second - self.first


def compare(
    first: PerQueryMetrics, second: PerQueryMetrics, permutations: int = PERMUTATIONS, seed: int = 0
) -> dict[str, PairedTest]:
    """Paired randomisation test over questions (Smucker, Allan & Carterette, CIKM 2007).

    Under the null hypothesis the two models' values of a question are exchangeable: the p value is
    the share of random exchanges with a difference at least as large, in either direction.

    Args:
        first: metrics of one model.
        second: of the other, on the same queries.
        permutations: number of random exchanges.
        seed: of the exchanges.

    Returns:
        Tests by "setting/metric", for the metrics that both have; queries that count for only one
        model are left out.
    """
    pairs = _paired(first, second)
    if not pairs:
        return {}
    parts = [contributions(after) - contributions(before) for before, after in pairs.values()]
    p_values = sign_flip_p_values(np.stack(parts, axis=1), permutations, seed)
    return {
        name: PairedTest(float(before.mean()), float(after.mean()), float(p_value))
        for (name, (before, after)), p_value in zip(pairs.items(), p_values)
    }


def sign_flip_p_values(
    differences: Float[np.ndarray, "U M"], permutations: int = PERMUTATIONS, seed: int = 0
) -> Float[np.ndarray, "M"]:
    """Two-sided p values of sums of differences, under random signs of each question.

    Exchanging two models' values of a question flips the sign of its difference.

    Args:
        differences: contribution of each question to each of M differences.
        permutations: number of draws of the signs; a question has one sign for all M.
        seed: of the draws.
    """
    observed = differences.sum(axis=0)
    # differences that are equal but for rounding count as at least as large
    tolerance = 1e-12 * np.maximum(np.abs(differences).sum(axis=0), 1e-300)
    as_large = np.zeros(differences.shape[1])
    rng = np.random.default_rng(seed)
    for size in _block_sizes(permutations, max(differences.shape)):
        signs = rng.integers(0, 2, (size, len(differences))) * 2.0 - 1
        as_large += (np.abs(signs @ differences) >= np.abs(observed) - tolerance).sum(axis=0)
    # the observed signs are one of the permutations, so that no p value is 0
    return (1 + as_large) / (1 + permutations)


def _paired(
    first: PerQueryMetrics, second: PerQueryMetrics
) -> dict[str, tuple[MetricSums, MetricSums]]:
    """Sums of both models over the queries that count for both."""

    def masked(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {
            name: np.where(np.isnan(theirs[name]), np.nan, ours[name])
            for name in ours
            if name in theirs
        }

    def masked_sums(ours: PerQueryMetrics, theirs: PerQueryMetrics) -> dict[str, MetricSums]:
        return PerQueryMetrics(
            ours.languages,
            ours.settings,
            ours.query_language,
            ours.question,
            masked(ours.by_language, theirs.by_language),
            masked(ours.in_pool, theirs.in_pool),
        ).metric_sums()

    before, after = masked_sums(first, second), masked_sums(second, first)
    return {name: (before[name], after[name]) for name in before if before[name].counts.any()}


def contributions(metric: MetricSums) -> Float[np.ndarray, "U"]:
    """Summands of the metric by question; models are compared where the same queries count."""
    counts = metric.counts.sum(axis=0)
    cells = counts > 0
    return (metric.sums[:, cells] / counts[cells]).sum(axis=1) / cells.sum()
