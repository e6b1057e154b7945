"""A measure over the simplex of shares, as a picture.

Dimension key: N shares, P points, K = 3 kinds.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from jaxir.evaluation.comparison import Measure
from jaxir.evaluation.plots import save
from jaxir.sweep.surface import Best, Surface, simplex

HEIGHT = 3**0.5 / 2
INK = "0.15"
LABEL = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.6}


def _place(shares: Float[np.ndarray, "N K"]) -> tuple[np.ndarray, np.ndarray]:
    """Where shares lie in a triangle: first kind left, second right, third at the top."""
    shares = np.asarray(shares)
    return shares[:, 1] + shares[:, 2] / 2, shares[:, 2] * HEIGHT


def _triangle(axes: Axes, kinds: Sequence[str]) -> None:
    corners = np.eye(3)
    axes.plot(*_place(corners[[0, 1, 2, 0]]), color=INK, linewidth=1, zorder=3)
    for part in (0.25, 0.5, 0.75):
        for one, two, three in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
            line = np.zeros((2, 3))
            line[:, one] = part
            line[0, two] = line[1, three] = 1 - part
            axes.plot(*_place(line), color="white", linewidth=0.5, alpha=0.5, zorder=2)
    names = [kind.replace("_", "-") for kind in kinds]
    for name, corner, align, shift in zip(
        names, corners, ("left", "right", "center"), ((-0.08, -0.13), (0.08, -0.13), (0, 0.09))
    ):
        x, y = _place(corner[None])
        axes.text(x[0] + shift[0], y[0] + shift[1], f"all {name}", ha=align, va="center", color=INK)
    axes.set_aspect("equal")
    axes.set_xlim(-0.1, 1.1)
    axes.set_ylim(-0.2, HEIGHT + 0.15)
    axes.set_axis_off()


def draw_map(
    title: str,
    kinds: Sequence[str],
    shares: Float[np.ndarray, "P K"],
    values: Float[np.ndarray, "P"],
    surface: Surface | None,
    measure: Measure,
    path: os.PathLike,
    best: Best | None = None,
) -> None:
    """The simplex with each point's mean, over the fitted surface if there is one.

    Brighter is better. With `best` the predicted best shares are starred, and those that may be as
    good are hatched.
    """
    figure = Figure(figsize=(4.5, 4.0), layout="constrained")
    axes = figure.subplots()
    _triangle(axes, kinds)
    there = ~np.isnan(values)
    low, high = float(values[there].min()), float(values[there].max())
    high = high if high > low else low + 1e-9
    colors = "viridis" if measure.more_is_better else "viridis_r"
    norm = LogNorm(low, high) if measure.logarithmic else Normalize(low, high)
    look: dict[str, Any] = {"cmap": colors, "norm": norm}
    ends = measure.scaled(np.array([low, high]))
    grid = simplex()
    if surface is not None:
        levels = measure.unscaled(np.linspace(ends[0], ends[1], 25))
        fitted = measure.unscaled(surface.at(grid)[0])
        # what is expected beyond the points' own range has the color of its end
        axes.tricontourf(*_place(grid), fitted, levels=levels, extend="both", zorder=1, **look)
    if best is not None:
        inside = np.where(best.as_good, 1.0, 0.0)
        axes.tricontourf(
            *_place(grid), inside, levels=[0.5, 1.5], colors="none", hatches=["///"], zorder=2
        )
    dots = axes.scatter(
        *_place(shares[there]),
        c=values[there],
        s=95,
        edgecolors="white",
        linewidths=1.3,
        zorder=4,
        **look,
    )
    axes.scatter(*_place(shares[~there]), s=70, color="none", edgecolors=INK, zorder=4)
    for x, y, value in zip(*_place(shares), values):
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
    if best is not None:
        x, y = _place(best.shares[None])
        axes.scatter(x, y, marker="*", s=260, color="crimson", edgecolors="white", zorder=6)
    figure.suptitle(title, fontsize=11)
    ticks = measure.unscaled(np.linspace(ends[0], ends[1], 6))
    bar = figure.colorbar(dots, ax=axes, shrink=0.75, ticks=ticks)
    bar.ax.minorticks_off()
    bar.ax.set_yticklabels([short(value, high) for value in ticks])
    save(figure, path)


def short(value: float, like: float | None = None) -> str:
    """A figure in a few characters; a spread has the decimals of the figure that it is `like`."""
    size = abs(value if like is None else like)
    decimals = 3 if size < 2 else 1 if size < 100 else 0
    text = f"{round(value, decimals) + 0.0:,.{decimals}f}"  # and no minus before a zero
    return text.replace("0.", ".", 1) if abs(value) < 1 and decimals == 3 else text
