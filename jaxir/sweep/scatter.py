"""Quality against bias, and the languages one by one, as pictures.

Dimension key: P points, S seeds, L languages.
"""

import os
from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
from jaxtyping import Bool, Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, NullLocator
from matplotlib.transforms import Bbox

from jaxir.evaluation.plots import save

FRONT, OTHERS = "crimson", "0.45"
# where a name may stand: points from its point, and directions from the right on
RADII = (9.0, 16.0, 24.0, 34.0, 46.0, 60.0, 80.0, 110.0, 150.0)
TURNS = tuple(np.arange(16) * np.pi / 8)


def draw_pareto(
    names: Sequence[str],
    quality: Sequence[Float[np.ndarray, "S"]],
    bias: Sequence[Float[np.ndarray, "S"]],
    labels: tuple[str, str],
    front: Bool[np.ndarray, "P"],
    title: str,
    path: os.PathLike,
) -> None:
    """Mean of each point, crosses from the lowest to the highest seed, and the front joined."""
    figure = Figure(figsize=(7.6, 5.2), layout="constrained")
    axes = figure.subplots()
    order = [i for i in np.argsort([x.mean() if len(x) else np.nan for x in quality]) if front[i]]
    axes.plot(
        [bias[i].mean() for i in order],
        [quality[i].mean() for i in order],
        color=FRONT,
        linewidth=1.2,
        zorder=1,
        label="Pareto front",
    )
    there = [i for i, values in enumerate(quality) if len(values)]
    for i in there:
        one, other = quality[i], bias[i]
        color = FRONT if front[i] else OTHERS
        x, y = other.mean(), one.mean()
        axes.plot([other.min(), other.max()], [y, y], color=color, linewidth=0.9, zorder=2)
        axes.plot([x, x], [one.min(), one.max()], color=color, linewidth=0.9, zorder=2)
        axes.scatter(x, y, s=32, color=color, zorder=3)
    if max(x.max() for x in bias if len(x)) > 5 * min(x.min() for x in bias if len(x)) > 0:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(f"{labels[1]} (lower is less bias)")
    axes.set_ylabel(f"{labels[0]} (higher is better)")
    axes.set_title(title)
    axes.margins(0.08)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left")
    first = sorted(there, key=lambda i: not front[i])  # whose names stand nearest
    _name_points(
        figure, axes, {names[i]: (bias[i].mean(), quality[i].mean(), front[i]) for i in first}
    )
    save(figure, path)


def _name_points(
    figure: Figure, axes: Axes, points: Mapping[str, tuple[float, float, bool]]
) -> None:
    """Each name at the nearest place where it hides no point and no other name.

    Args:
        figure: of the axes.
        axes: with all points drawn.
        points: by name: where it is, and whether it is on the front.
    """
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # decides where the axes are
    renderer = canvas.get_renderer()
    taken = [
        Bbox.from_bounds(x - 5, y - 5, 10, 10)
        for x, y in axes.transData.transform([point[:2] for point in points.values()])
    ]
    for name, (x, y, best) in points.items():
        for radius, turn in product(RADII, TURNS):
            right, up = radius * np.cos(turn), radius * np.sin(turn)
            label = axes.annotate(
                name,
                (x, y),
                (right, up),
                textcoords="offset points",
                ha="left" if right > 1 else "right" if right < -1 else "center",
                va="center",
                fontsize=8,
                color=FRONT if best else OTHERS,
                weight="bold" if best else "normal",
                arrowprops={"arrowstyle": "-", "color": "0.8", "linewidth": 0.6, "shrinkB": 3},
            )
            label.update_positions(renderer)
            box = Text.get_window_extent(label, renderer)  # without its line
            inside = axes.bbox.contains(box.x0, box.y0) and axes.bbox.contains(box.x1, box.y1)
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            label.remove()


def draw_slopes(
    measures: Mapping[str, Float[np.ndarray, "P L"]],
    names: Sequence[str],
    languages: Sequence[str],
    path: os.PathLike,
) -> None:
    """A panel a measure: its figures by language, from point to point."""
    figure = Figure(figsize=(4.3 * len(measures), 4.4), layout="constrained")
    panels = figure.subplots(1, len(measures), squeeze=False)[0]
    colors = colormaps["tab20" if len(languages) > 10 else "tab10"]
    places = np.arange(len(names))
    for panel, (title, values) in zip(panels, measures.items()):
        for number, language in enumerate(languages):
            panel.plot(
                places,
                values[:, number],
                marker="o",
                markersize=4,
                linewidth=1.4,
                color=colors(number % colors.N),
                label=language,
            )
        panel.set_xticks(places, names, rotation=20, ha="right")
        panel.set_title(title)
        panel.margins(x=0.06)
        panel.set_ylim(bottom=0)
        panel.grid(axis="y", color="0.9")
        panel.spines[["top", "right"]].set_visible(False)
    lines = panels[0].get_legend_handles_labels()
    figure.legend(*lines, loc="outside right center", frameon=False, title="language")
    save(figure, path)
