"""Ternary plots: a metric over the simplex of mixtures.

Dimension key: N, P mixtures, K = 3 kinds, V levels.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from jaxir.evaluation.comparison import Metric
from jaxir.evaluation.plots import save
from jaxir.sweep.response_surface import BestShares, Surface, simplex

HEIGHT = 3**0.5 / 2
INK = "0.15"
LABEL = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.6}


def draw_ternary(
    title: str,
    kinds: Sequence[str],
    shares: Float[np.ndarray, "P K"],
    values: Float[np.ndarray, "P"],
    surface: Surface | None,
    metric: Metric,
    path: os.PathLike,
    best: BestShares | None = None,
) -> None:
    """Draw mixtures as colored dots with their values, over the fitted surface; brighter is better.

    Args:
        title: of the plot.
        kinds: of batches, one for each corner.
        shares: of the mixtures.
        values: of the mixtures; NaN if missing.
        surface: drawn as the background, if there is one.
        metric: which decides about direction and scale of the colors.
        path: of the PNG.
        best: marked with a star; the mixtures that are as good are hatched.
    """
    figure = Figure(figsize=(4.5, 4.0), layout="constrained")
    axes = figure.subplots()
    _draw_triangle(axes, kinds)
    known = ~np.isnan(values)
    low, high = float(values[known].min()), float(values[known].max())
    high = high if high > low else low + 1e-9
    colors: dict[str, Any] = {
        "cmap": "viridis" if metric.higher_is_better else "viridis_r",
        "norm": LogNorm(low, high) if metric.logarithmic else Normalize(low, high),
    }
    # levels and ticks are equidistant on the scale of the surface
    ends = metric.scaled(np.array([low, high]))
    if surface is not None:
        levels = metric.unscaled(np.linspace(ends[0], ends[1], 25))
        _draw_surface(axes, surface, metric, levels, colors)
    if best is not None:
        _hatch(axes, best)
    dots = axes.scatter(
        *_coordinates(shares[known]),
        c=values[known],
        s=95,
        edgecolors="white",
        linewidths=1.3,
        zorder=4,
        **colors,
    )
    axes.scatter(*_coordinates(shares[~known]), s=70, color="none", edgecolors=INK, zorder=4)
    _write_values(axes, shares, values, high)
    if best is not None:
        x, y = _coordinates(best.shares[None])
        axes.scatter(x, y, marker="*", s=260, color="crimson", edgecolors="white", zorder=6)
    figure.suptitle(title, fontsize=11)
    ticks = metric.unscaled(np.linspace(ends[0], ends[1], 6))
    bar = figure.colorbar(dots, ax=axes, shrink=0.75, ticks=ticks)
    bar.ax.minorticks_off()
    bar.ax.set_yticklabels([short(value, high) for value in ticks])
    save(figure, path)


def _coordinates(shares: Float[np.ndarray, "N K"]) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates in the triangle: first kind left, second right, third at the top."""
    shares = np.asarray(shares)
    return shares[:, 1] + shares[:, 2] / 2, shares[:, 2] * HEIGHT


def _draw_triangle(axes: Axes, kinds: Sequence[str]) -> None:
    corners = np.eye(3)
    axes.plot(*_coordinates(corners[[0, 1, 2, 0]]), color=INK, linewidth=1, zorder=3)
    for share in (0.25, 0.5, 0.75):
        for fixed, left, right in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
            # grid line on which the share of kind `fixed` is constant
            line = np.zeros((2, 3))
            line[:, fixed] = share
            line[0, left] = line[1, right] = 1 - share
            axes.plot(*_coordinates(line), color="white", linewidth=0.5, alpha=0.5, zorder=2)
    names = [kind.replace("_", "-") for kind in kinds]
    for name, corner, align, shift in zip(
        names, corners, ("left", "right", "center"), ((-0.08, -0.13), (0.08, -0.13), (0, 0.09))
    ):
        x, y = _coordinates(corner[None])
        axes.text(x[0] + shift[0], y[0] + shift[1], f"all {name}", ha=align, va="center", color=INK)
    axes.set_aspect("equal")
    axes.set_xlim(-0.1, 1.1)
    axes.set_ylim(-0.2, HEIGHT + 0.15)
    axes.set_axis_off()


def _draw_surface(
    axes: Axes,
    surface: Surface,
    metric: Metric,
    levels: Float[np.ndarray, "V"],
    colors: dict[str, Any],
) -> None:
    grid = simplex()
    fitted = metric.unscaled(surface.at(grid)[0])
    # expected values outside the range of the mixtures get the color of its nearer end
    axes.tricontourf(*_coordinates(grid), fitted, levels=levels, extend="both", zorder=1, **colors)


def _hatch(axes: Axes, best: BestShares) -> None:
    """Hatch the mixtures that are as good as the best."""
    inside = np.where(best.as_good, 1.0, 0.0)
    axes.tricontourf(
        *_coordinates(best.grid),
        inside,
        levels=[0.5, 1.5],
        colors="none",
        hatches=["///"],
        zorder=2,
    )


def _write_values(
    axes: Axes, shares: Float[np.ndarray, "P K"], values: Float[np.ndarray, "P"], high: float
) -> None:
    for x, y, value in zip(*_coordinates(shares), values):
        axes.annotate(
            "missing" if np.isnan(value) else short(value, high),
            (x, y),
            (0, -9),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=8,
            color=INK,
            bbox=LABEL,
            zorder=5,
        )


def short(value: float, like: float | None = None) -> str:
    """Format a value in a few characters, with as many decimals as suit `like` (or itself)."""
    size = abs(value if like is None else like)
    decimals = 3 if size < 2 else 1 if size < 100 else 0
    text = f"{round(value, decimals) + 0.0:,.{decimals}f}"  # + 0.0 turns -0.0 into 0.0
    return text.replace("0.", ".", 1) if abs(value) < 1 and decimals == 3 else text
