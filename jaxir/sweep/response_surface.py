"""Response surfaces: the value of a metric as a quadratic function of the mixture's shares.

Dimension key: R runs, N mixtures, T = 6 terms, K = 3 kinds.

The model is Scheffé's quadratic (H. Scheffé, Experiments with mixtures, Journal of the Royal
Statistical Society B 20, 1958). With shares a, b, c that add up to 1,

    value = A a + B b + C c + D ab + E ac + F bc

A, B and C are the values at the corners; D, E and F say how far mixtures of two kinds lie above the
straight line between the corners. The fit is least squares over runs, in float64. Intervals are
pointwise and come from the residual mean square over all runs, which holds the variance between
seeds and, where the true surface bends in ways that six terms cannot follow, the lack of fit. The
lack of fit is tested against the variance among the runs of one mixture (Draper & Smith, Applied
Regression Analysis, 2.1).
"""

from dataclasses import dataclass

import numpy as np
import scipy.stats
from jaxtyping import Bool, Float

LEVEL = 0.95
GRID = 100  # the best shares are searched on a grid of step 1/GRID
ROUNDING = 1e-9  # relative; values that differ by less are equal
TERMS = ("a", "b", "c", "ab", "ac", "bc")


@dataclass(frozen=True, eq=False)
class Surface:
    """A fitted quadratic response surface."""

    coefficients: Float[np.ndarray, "T"]
    covariance: Float[np.ndarray, "T T"]  # of the coefficients
    degrees_of_freedom: int
    residual_std: float  # root of the residual mean square
    r_squared: float
    # NaN unless some mixture has two runs and there are more mixtures than terms
    p_lack_of_fit: float

    def at(
        self, shares: Float[np.ndarray, "N K"]
    ) -> tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N"]]:
        """Expected values, and half the widths of their 95% intervals."""
        return self._with_margin(terms(shares))

    def minus(
        self, shares: Float[np.ndarray, "N K"], other: Float[np.ndarray, "K"]
    ) -> tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N"]]:
        """Expected differences to the value at `other`, and half the widths of their intervals."""
        return self._with_margin(terms(shares) - terms(other[None]))

    def _with_margin(
        self, rows: Float[np.ndarray, "N T"]
    ) -> tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N"]]:
        variance = np.einsum("nt,tu,nu->n", rows, self.covariance, rows)
        width = scipy.stats.t.ppf((1 + LEVEL) / 2, self.degrees_of_freedom)
        return rows @ self.coefficients, width * np.sqrt(np.maximum(variance, 0))


def terms(shares: Float[np.ndarray, "N K"]) -> Float[np.ndarray, "N T"]:
    """The six terms of the quadratic for each mixture."""
    a, b, c = np.asarray(shares, float).T
    return np.stack([a, b, c, a * b, a * c, b * c], axis=1)


def fit(shares: Float[np.ndarray, "R K"], values: Float[np.ndarray, "R"]) -> Surface | None:
    """Fit a surface to runs; None if they do not determine one, or if all values are equal.

    Args:
        shares: of each run.
        values: of each run; NaN for a run without results.
    """
    finished = ~np.isnan(values)
    design, known = terms(shares)[finished], values[finished]
    freedom = len(known) - len(TERMS)
    if freedom < 1 or np.linalg.matrix_rank(design) < len(TERMS):
        return None
    if np.ptp(known) <= ROUNDING * np.abs(known).max():
        return None
    coefficients = np.linalg.lstsq(design, known, rcond=None)[0]
    residual = float(((known - design @ coefficients) ** 2).sum())
    total = float(((known - known.mean()) ** 2).sum())
    return Surface(
        coefficients,
        # the usual covariance of least squares: inverse of X'X times the residual mean square
        np.linalg.inv(design.T @ design) * residual / freedom,
        freedom,
        (residual / freedom) ** 0.5,
        1 - residual / total,
        _lack_of_fit(design, known, residual),
    )


def _lack_of_fit(
    design: Float[np.ndarray, "R T"], values: Float[np.ndarray, "R"], residual: float
) -> float:
    """P value of the F test of lack of fit against pure error."""
    _, group = np.unique(np.round(design, 9), axis=0, return_inverse=True)
    count = np.bincount(group)
    means = np.bincount(group, values) / count
    pure = float(((values - means[group]) ** 2).sum())  # between runs of one mixture
    pure_freedom, fit_freedom = len(values) - len(count), len(count) - len(TERMS)
    if pure_freedom < 1 or fit_freedom < 1 or not pure:
        return np.nan
    f = max(residual - pure, 0) / fit_freedom / (pure / pure_freedom)
    return float(scipy.stats.f.sf(f, fit_freedom, pure_freedom))


def simplex(parts: int = GRID) -> Float[np.ndarray, "N K"]:
    """All mixtures whose shares are multiples of 1/parts."""
    first, second = np.meshgrid(np.arange(parts + 1), np.arange(parts + 1), indexing="ij")
    whole = np.stack([first, second, parts - first - second], axis=-1).reshape(-1, 3)
    return whole[whole[:, 2] >= 0] / parts


@dataclass(frozen=True, eq=False)
class BestShares:
    """The maximum of a surface, and the mixtures that are not significantly below it."""

    shares: Float[np.ndarray, "K"]
    grid: Float[np.ndarray, "N K"]
    as_good: Bool[np.ndarray, "N"]  # for each mixture of the grid


def best_shares(surface: Surface) -> BestShares:
    """Maximize a surface over the grid; `as_good` if the 95% interval of the deficit holds 0."""
    grid = simplex()
    best = grid[int(np.argmax(surface.at(grid)[0]))]
    deficit, margin = surface.minus(grid, best)
    return BestShares(best, grid, deficit + margin >= 0)
