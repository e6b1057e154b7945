"""Quality against language bias: the Pareto front of the mixtures, and a score that combines both.

Dimension key: R runs, P mixtures, K kinds.

Quality is the task's metric in the multilingual pool; bias is the logarithm of the rank distance,
which differs by factors between mixtures. The score of a run is

    weight * (quality - worst) / (best - worst) + (1 - weight) * (worst - bias) / (worst - best)

where best and worst are taken over the mixtures' means: 1 is the best mixture of the sweep and 0
the worst. With a weight of 0.5, half of the sweep's range of quality is worth half of its range of
bias. The predicted best shares are those that maximize the response surface of the score.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from jaxir.sweep.response_surface import BestShares, Surface, best_shares, fit
from jaxir.sweep.study import Study


@dataclass(frozen=True, eq=False)
class TradeOff:
    """Scores of a sweep's runs; no surface if the mixtures do not determine one."""

    weight: float  # of quality
    quality_range: tuple[float, float]  # worst and best mean of a mixture
    bias_range: tuple[float, float]  # of the logarithm
    scores: Float[np.ndarray, "R"]
    surface: Surface | None
    best: BestShares | None


def shares_of(study: Study) -> Float[np.ndarray, "R K"]:
    """The shares of every run."""
    return np.array([run.mixture.shares for run in study.runs])


def means(study: Study, values: Float[np.ndarray, "R"]) -> Float[np.ndarray, "P"]:
    """Means of each mixture over its finished runs; NaN if it has none."""
    by_mixture = [
        values[[run.mixture == mixture for run in study.runs]] for mixture in study.mixtures
    ]
    return np.array(
        [np.nan if np.isnan(of_runs).all() else np.nanmean(of_runs) for of_runs in by_mixture]
    )


def trade_off(study: Study, weight: float) -> TradeOff:
    """Score all runs, and predict the best shares."""
    quality, bias = study.metric_set.quality, study.metric_set.bias
    quality_values, bias_values = study.scaled(quality), study.scaled(bias)
    quality_means, bias_means = means(study, quality_values), means(study, bias_values)
    quality_range = (float(np.nanmin(quality_means)), float(np.nanmax(quality_means)))
    bias_range = (float(np.nanmax(bias_means)), float(np.nanmin(bias_means)))
    scores = np.zeros(len(study.runs))
    for values, part, (worst, top) in (
        (quality_values, weight, quality_range),
        (bias_values, 1 - weight, bias_range),
    ):
        span = top - worst if top != worst else 1.0
        scores = scores + part * (values - worst) / span
    surface = fit(shares_of(study), scores)
    best = best_shares(surface) if surface is not None else None
    return TradeOff(weight, quality_range, bias_range, scores, surface, best)


def pareto_front(
    quality: Float[np.ndarray, "P"], bias: Float[np.ndarray, "P"]
) -> Bool[np.ndarray, "P"]:
    """Mask of the mixtures that no other mixture dominates; those with NaN are not on the front."""
    # [p, o]: mixture o is at least as good as p in both, and better in one
    at_least = (quality[None] >= quality[:, None]) & (bias[None] <= bias[:, None])
    better = (quality[None] > quality[:, None]) | (bias[None] < bias[:, None])
    return ~np.isnan(quality) & ~(at_least & better).any(axis=1)
