"""Pictures of evaluations, as PNG files.

Dimension key: N languages.
"""

import math
import os
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.figure import Figure

from jaxir.runtime.files import writing


def draw_heat_maps(
    systems: Mapping[str, Float[np.ndarray, "N N"]],
    languages: Sequence[str],
    title: str,
    path: os.PathLike,
) -> None:
    """Draw mAP by query language (rows) and passage language (columns), a heat map a system.

    All maps share one scale of colors.
    """
    size = 2.4 + 0.55 * len(languages)
    figure = Figure(figsize=(size * len(systems) + 1, size), layout="constrained")
    panels = figure.subplots(1, len(systems), squeeze=False)[0]
    highest = max(0.05, *(float(np.nanmax(matrix)) for matrix in systems.values()))
    ticks = range(len(languages))
    for axes, (name, matrix) in zip(panels, systems.items()):
        image = axes.imshow(matrix, cmap="viridis", vmin=0.0, vmax=highest)
        axes.set_xticks(ticks, languages)
        axes.set_yticks(ticks, languages)
        axes.set_xlabel("passage language")
        axes.set_title(name if len(systems) > 1 else title)
        for (row, column), value in np.ndenumerate(matrix):
            if not math.isnan(value):
                color = "black" if value > highest / 2 else "white"
                axes.text(
                    column, row, f"{value:.2f}", ha="center", va="center", color=color, fontsize=8
                )
    panels[0].set_ylabel("query language")
    figure.colorbar(image, ax=panels, label="mAP")
    if len(systems) > 1:
        figure.suptitle(title)
    save(figure, path)


def draw_rank_distances(
    languages: Sequence[str],
    systems: Mapping[str, Float[np.ndarray, "N"]],
    title: str,
    path: os.PathLike,
) -> None:
    """Draw rank distance by query language, a bar a system."""
    figure = Figure(figsize=(2.5 + 0.6 * len(languages), 3.6), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(systems)
    for index, (name, values) in enumerate(systems.items()):
        positions = np.arange(len(languages)) + (index - (len(systems) - 1) / 2) * width
        axes.bar(positions, values, width, label=name)
    axes.set_xticks(range(len(languages)), languages)
    axes.set_xlabel("query language")
    axes.set_ylabel("rank distance (lower is better)")
    axes.set_title(title)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper right", ncols=len(systems), frameon=False)
    save(figure, path)


def draw_language_shares(
    languages: Sequence[str],
    shares: Float[np.ndarray, "N N"],
    pool: Float[np.ndarray, "N"],
    title: str,
    path: os.PathLike,
) -> None:
    """Draw the share of passage languages in the top-k, by query language, and in the pool."""
    rows = np.vstack([np.nan_to_num(shares), pool])
    figure = Figure(figsize=(8, 1.6 + 0.32 * len(rows)), layout="constrained")
    axes = figure.subplots()
    left = np.zeros(len(rows))
    colors = [f"C{index}" for index in range(len(languages))]
    if len(languages) > 10:
        colors = list(colormaps["tab20"](np.arange(len(languages)) % 20))
    for column, (language, color) in enumerate(zip(languages, colors)):
        axes.barh(range(len(rows)), rows[:, column], left=left, color=color, label=language)
        left = left + rows[:, column]
    axes.set_yticks(range(len(rows)), [*languages, "the pool"])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_xlabel("share of passage languages")
    axes.set_ylabel("query language")
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right center", frameon=False)
    save(figure, path)


def save(figure: Figure, path: os.PathLike) -> None:
    """Write a figure as PNG."""
    with writing(path, "wb") as file:
        figure.savefig(file, dpi=120, format="png")
