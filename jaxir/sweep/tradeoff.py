"""Quality against language bias: the Pareto front of the points, and one score for both.

Dimension key: R runs, P points, K kinds.

Quality is measured in the pool of all languages, bias is the logarithm of the rank distance (which
differs by factors from point to point). The score of a run is

    weight * (quality - worst) / (best - worst) + (1 - weight) * (worst - bias) / (worst - best)

with the best and the worst of the points' means of each: 1 is the best point of the sweep, 0 its
worst. A weight of 0.5 gives up half of the sweep's range of quality for half of its range of bias.
The surface of the score (`jaxir.sweep.surface`) is highest at the predicted best shares.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from jaxir.sweep.results import Study
from jaxir.sweep.surface import Best, Surface, fit, highest


@dataclass(frozen=True, eq=False)
class TradeOff:
    """The score of a sweep's runs; no surface where the points do not determine one."""

    weight: float  # of quality
    quality_range: tuple[float, float]  # worst and best mean of a point
    bias_range: tuple[float, float]  # of the logarithm
    scores: Float[np.ndarray, "R"]
    surface: Surface | None
    best: Best | None


def shares_of(study: Study) -> Float[np.ndarray, "R K"]:
    """The shares of every run."""
    return np.array([run.point.shares for run in study.runs])


def means(study: Study, values: Float[np.ndarray, "R"]) -> Float[np.ndarray, "P"]:
    """Mean over the finished runs of each point; NaN where there is none."""
    found = [values[[run.point == point for run in study.runs]] for point in study.points]
    return np.array([np.nan if np.isnan(some).all() else np.nanmean(some) for some in found])


def trade_off(study: Study, weight: float) -> TradeOff:
    """Score all runs, and find the best shares."""
    scored = np.zeros(len(study.runs))
    ranges = []
    compared = study.comparison
    for key, share, pick in (
        (compared.quality, weight, np.nanmin),
        (compared.bias, 1 - weight, np.nanmax),
    ):
        of_points = means(study, study.scaled(key))
        worst = float(pick(of_points))
        best = float(np.nanmax(of_points) if pick is np.nanmin else np.nanmin(of_points))
        span = best - worst if best != worst else 1.0
        scored = scored + share * (study.scaled(key) - worst) / span
        ranges.append((worst, best))
    surface = fit(shares_of(study), scored)
    best_shares = highest(surface) if surface is not None else None
    return TradeOff(weight, ranges[0], ranges[1], scored, surface, best_shares)


def pareto_front(
    quality: Float[np.ndarray, "P"], bias: Float[np.ndarray, "P"]
) -> Bool[np.ndarray, "P"]:
    """Points that no other one beats in one of the two without being worse in the other."""
    at_least = (quality[None] >= quality[:, None]) & (bias[None] <= bias[:, None])
    better = (quality[None] > quality[:, None]) | (bias[None] < bias[:, None])
    return ~np.isnan(quality) & ~(at_least & better).any(axis=1)
