"""Quality against bias, and the languages one by one, as pictures.

Dimension key: P points, S seeds, L languages.
"""

import os
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from jaxir.retrieval.plots import save


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
        color="crimson",
        linewidth=1.2,
        zorder=1,
        label="Pareto front",
    )
    there = [i for i, values in enumerate(quality) if len(values)]
    # neighbours in quality, whose names might collide, have them on different sides
    for place, i in enumerate(sorted(there, key=lambda i: quality[i].mean())):
        name, one, other, best = names[i], quality[i], bias[i], front[i]
        color = "crimson" if best else "0.45"
        x, y = other.mean(), one.mean()
        axes.plot([other.min(), other.max()], [y, y], color=color, linewidth=0.9, zorder=2)
        axes.plot([x, x], [one.min(), one.max()], color=color, linewidth=0.9, zorder=2)
        axes.scatter(x, y, s=32, color=color, zorder=3)
        axes.annotate(
            name,
            (x, y),
            (6, 3) if place % 2 else (-6, 3),
            textcoords="offset points",
            ha="left" if place % 2 else "right",
            fontsize=8,
            color=color,
            weight="bold" if best else "normal",
        )
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
    save(figure, path)


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
