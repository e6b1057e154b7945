"""A response surface over the simplex: figures as a smooth function of the shares.

Dimension key: R runs, N shares, T = 6 terms, K = 3 kinds.

Scheffé's quadratic (H. Scheffé, Experiments with mixtures, Journal of the Royal Statistical Society
B 20, 1958): with shares a, b, c that add up to 1,

    figure = A a + B b + C c + D ab + E ac + F bc

A, B and C are the figures at the corners; D, E and F say how much a mixture is better than the
straight line between them. Least squares over runs in float64. Intervals are pointwise, from the
mean square that the fit leaves over all runs: the seeds' and, where the surface bends in ways that
six terms cannot follow, the surface's own. How much of it is the latter, the lack of fit, is tested
against the runs of one point among themselves (Draper & Smith, Applied Regression Analysis, 2.1).
"""

from dataclasses import dataclass

import numpy as np
import scipy.stats
from jaxtyping import Bool, Float

LEVEL = 0.95
GRID = 100  # parts of 1 in which the best shares are looked for
ROUNDING = 1e-9  # relative; figures that differ by less are alike
TERMS = ("a", "b", "c", "ab", "ac", "bc")


@dataclass(frozen=True, eq=False)
class Surface:
    """A fitted quadratic."""

    coefficients: Float[np.ndarray, "T"]
    covariance: Float[np.ndarray, "T T"]  # of the coefficients
    freedom: int
    deviation: float  # root of the mean square that the fit leaves
    explained: float  # R squared
    p_lack_of_fit: float  # NaN without two runs of one point, or a point more than terms

    def at(
        self, shares: Float[np.ndarray, "N K"]
    ) -> tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N"]]:
        """The expected figure, and half its 95 % interval."""
        return self._with_margin(terms(shares))

    def minus(
        self, shares: Float[np.ndarray, "N K"], other: Float[np.ndarray, "K"]
    ) -> tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N"]]:
        """How much more is expected than elsewhere, and half its 95 % interval."""
        return self._with_margin(terms(shares) - terms(other[None]))

    def _with_margin(
        self, rows: Float[np.ndarray, "N T"]
    ) -> tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N"]]:
        variance = np.einsum("nt,tu,nu->n", rows, self.covariance, rows)
        width = scipy.stats.t.ppf((1 + LEVEL) / 2, self.freedom)
        return rows @ self.coefficients, width * np.sqrt(np.maximum(variance, 0))


def terms(shares: Float[np.ndarray, "N K"]) -> Float[np.ndarray, "N T"]:
    """The six terms of each point."""
    a, b, c = np.asarray(shares, float).T
    return np.stack([a, b, c, a * b, a * c, b * c], axis=1)


def fit(shares: Float[np.ndarray, "R K"], figures: Float[np.ndarray, "R"]) -> Surface | None:
    """The quadratic through the figures of runs; None where they determine none, or are all alike.

    NaN stands for a run without results.
    """
    known = ~np.isnan(figures)
    design, values = terms(shares)[known], figures[known]
    freedom = len(values) - len(TERMS)
    if freedom < 1 or np.linalg.matrix_rank(design) < len(TERMS):
        return None
    if np.ptp(values) <= ROUNDING * np.abs(values).max():
        return None
    coefficients = np.linalg.lstsq(design, values, rcond=None)[0]
    left = float(((values - design @ coefficients) ** 2).sum())
    total = float(((values - values.mean()) ** 2).sum())
    return Surface(
        coefficients,
        np.linalg.inv(design.T @ design) * left / freedom,
        freedom,
        (left / freedom) ** 0.5,
        1 - left / total,
        _lack_of_fit(design, values, left),
    )


def _lack_of_fit(
    design: Float[np.ndarray, "R T"], values: Float[np.ndarray, "R"], left: float
) -> float:
    _, group = np.unique(np.round(design, 9), axis=0, return_inverse=True)
    count = np.bincount(group)
    means = np.bincount(group, values) / count
    pure = float(((values - means[group]) ** 2).sum())
    freedom, more = len(values) - len(count), len(count) - len(TERMS)
    if freedom < 1 or more < 1 or not pure:
        return np.nan
    return float(scipy.stats.f.sf(max(left - pure, 0) / more / (pure / freedom), more, freedom))


def simplex(parts: int = GRID) -> Float[np.ndarray, "N K"]:
    """All shares that are whole numbers of 1/parts."""
    first, second = np.meshgrid(np.arange(parts + 1), np.arange(parts + 1), indexing="ij")
    whole = np.stack([first, second, parts - first - second], axis=-1).reshape(-1, 3)
    return whole[whole[:, 2] >= 0] / parts


@dataclass(frozen=True, eq=False)
class Best:
    """Where a surface is highest, and where it is not surely lower."""

    shares: Float[np.ndarray, "K"]
    grid: Float[np.ndarray, "N K"]
    as_good: Bool[np.ndarray, "N"]


def highest(surface: Surface) -> Best:
    """The best shares, to 1/GRID; with those whose deficit is within its 95 % interval."""
    grid = simplex()
    best = grid[int(np.argmax(surface.at(grid)[0]))]
    deficit, margin = surface.minus(grid, best)
    return Best(best, grid, deficit + margin >= 0)
