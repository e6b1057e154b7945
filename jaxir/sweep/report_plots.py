"""The plots of a sweep's report, as PNG.

Dimension key: P mixtures, S seeds, L languages.
"""

import os
import tempfile
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, NullLocator
from matplotlib.transforms import Bbox

from jaxir.evaluation.comparison import Metric
from jaxir.evaluation.plots import save
from jaxir.sweep.mixtures import NAMED
from jaxir.sweep.response_surface import Surface
from jaxir.sweep.study import Study, overall_metrics
from jaxir.sweep.ternary_plot import draw_ternary
from jaxir.sweep.tradeoff import TradeOff, means

MOST_MIXTURES = 7  # side by side in the plot of the languages
FRONT, OTHERS = "crimson", "0.45"
# candidate positions of a label: distances from its dot in points, and directions
RADII = (9.0, 16.0, 24.0, 34.0, 46.0, 60.0, 80.0, 110.0, 150.0)
ANGLES = tuple(np.arange(16) * np.pi / 8)


def draw_all(
    study: Study,
    surfaces: Mapping[str, Surface | None],
    trade: TradeOff | None,
    front: Sequence[str],
) -> dict[str, bytes]:
    """Draw all plots: a map for each metric, the score's map, the Pareto front, the languages.

    Args:
        study: values of the runs.
        surfaces: by key of the metric.
        trade: scores; None: neither their map nor the Pareto front is drawn.
        front: names of the mixtures on the Pareto front.

    Returns:
        PNG by name.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _draw_maps(study, surfaces, folder)
        if trade is not None:
            _draw_trade_off(study, trade, front, folder)
        _draw_languages(study, folder / "languages.png")
        drawn = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        return {path.stem: path.read_bytes() for path in drawn}


def _draw_maps(study: Study, surfaces: Mapping[str, Surface | None], folder: Path) -> None:
    for metric in overall_metrics(study):
        name = metric.key.replace("/", "_").replace("@", "_at_")
        better = "higher" if metric.higher_is_better else "lower"
        draw_ternary(
            f"{metric.title} ({better} is better)",
            study.config.sweep.kinds,
            np.array([mixture.shares for mixture in study.mixtures]),
            means(study, study.values[:, study.column(metric.key)]),
            surfaces[metric.key],
            metric,
            folder / f"map_{name}.png",
        )


def _draw_trade_off(study: Study, trade: TradeOff, front: Sequence[str], folder: Path) -> None:
    title = f"score: {trade.weight:g} × quality + {1 - trade.weight:g} × low bias"
    draw_ternary(
        title,
        study.config.sweep.kinds,
        np.array([mixture.shares for mixture in study.mixtures]),
        means(study, trade.scores),
        trade.surface,
        Metric("score", title),
        folder / "map_score.png",
        trade.best,
    )
    names = [mixture.name for mixture in study.mixtures]
    metrics = [study.metric(key) for key in (study.metric_set.quality, study.metric_set.bias)]
    quality, bias = (
        [study.of_mixture(mixture)[:, study.column(metric.key)] for mixture in study.mixtures]
        for metric in metrics
    )
    on_front = np.array([name in front for name in names])
    title = f"quality against language bias, {study.dataset}"
    labels = (metrics[0].title, metrics[1].title)
    draw_pareto(names, quality, bias, labels, on_front, title, folder / "pareto.png")


def _draw_languages(study: Study, path: Path) -> None:
    """Draw mixtures by falling share of the first kind; of many, the named ones and the corners."""
    chosen = [mixture for mixture in study.mixtures if len(study.of_mixture(mixture))]
    if len(chosen) > MOST_MIXTURES:
        named = (*study.config.sweep.shares, *NAMED)
        chosen = [
            mixture for mixture in chosen if mixture.name in named or max(mixture.shares) == 1
        ]
    chosen = sorted(chosen, key=lambda mixture: mixture.shares, reverse=True)[:MOST_MIXTURES]
    panels = {}
    for title in dict.fromkeys(metric.title for metric in study.metrics if metric.language):
        columns = [
            i for i, metric in enumerate(study.metrics) if metric.language and metric.title == title
        ]
        rows = [study.of_mixture(mixture)[:, columns].mean(axis=0) for mixture in chosen]
        panels[title] = np.array(rows)
    draw_languages(panels, [mixture.name for mixture in chosen], study.languages, path)


def draw_pareto(
    names: Sequence[str],
    quality: Sequence[Float[np.ndarray, "S"]],
    bias: Sequence[Float[np.ndarray, "S"]],
    labels: tuple[str, str],
    front: Bool[np.ndarray, "P"],
    title: str,
    path: os.PathLike,
) -> None:
    """Scatter plot of quality against bias: a dot at each mixture's mean, the front as a line.

    Args:
        names: of the mixtures.
        quality: of each mixture's finished runs, which a vertical bar spans.
        bias: of each mixture's finished runs, which a horizontal bar spans.
        labels: of the two axes, quality first.
        front: mask of the mixtures on the Pareto front.
        title: of the plot.
        path: of the PNG.
    """
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
    finished = [i for i, values in enumerate(quality) if len(values)]
    for i in finished:
        color = FRONT if front[i] else OTHERS
        x, y = bias[i].mean(), quality[i].mean()
        axes.plot([bias[i].min(), bias[i].max()], [y, y], color=color, linewidth=0.9, zorder=2)
        axes.plot(
            [x, x], [quality[i].min(), quality[i].max()], color=color, linewidth=0.9, zorder=2
        )
        axes.scatter(x, y, s=32, color=color, zorder=3)
    if max(x.max() for x in bias if len(x)) > 5 * min(x.min() for x in bias if len(x)) > 0:
        _make_logarithmic(axes)
    axes.set_xlabel(f"{labels[1]} (lower is less bias)")
    axes.set_ylabel(f"{labels[0]} (higher is better)")
    axes.set_title(title)
    axes.margins(0.08)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left")
    by_front = sorted(finished, key=lambda i: not front[i])  # labels of the front come nearest
    _label_dots(
        figure, axes, {names[i]: (bias[i].mean(), quality[i].mean(), front[i]) for i in by_front}
    )
    save(figure, path)


def _make_logarithmic(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_minor_locator(NullLocator())


def _label_dots(figure: Figure, axes: Axes, dots: Mapping[str, tuple[float, float, bool]]) -> None:
    """Write each name at the nearest position where it covers no dot and no other name.

    Args:
        figure: of the axes.
        axes: with all dots drawn.
        dots: x, y, and True on the Pareto front, by name.
    """
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # fixes the layout, without which no text has an extent
    renderer = canvas.get_renderer()
    taken = [
        Bbox.from_bounds(x - 5, y - 5, 10, 10)
        for x, y in axes.transData.transform([dot[:2] for dot in dots.values()])
    ]
    for name, (x, y, on_front) in dots.items():
        for radius, angle in product(RADII, ANGLES):
            right, up = radius * np.cos(angle), radius * np.sin(angle)
            label = axes.annotate(
                name,
                (x, y),
                (right, up),
                textcoords="offset points",
                ha="left" if right > 1 else "right" if right < -1 else "center",
                va="center",
                fontsize=8,
                color=FRONT if on_front else OTHERS,
                weight="bold" if on_front else "normal",
                arrowprops={"arrowstyle": "-", "color": "0.8", "linewidth": 0.6, "shrinkB": 3},
            )
            label.update_positions(renderer)
            box = Text.get_window_extent(label, renderer)  # without its line
            inside = axes.bbox.contains(box.x0, box.y0) and axes.bbox.contains(box.x1, box.y1)
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            label.remove()


def draw_languages(
    panels: Mapping[str, Float[np.ndarray, "P L"]],
    names: Sequence[str],
    languages: Sequence[str],
    path: os.PathLike,
) -> None:
    """Line plots of metrics by language: a panel for each metric, mixtures along its x axis.

    Args:
        panels: values by title of the metric.
        names: of the mixtures.
        languages: of the queries.
        path: of the PNG.
    """
    figure = Figure(figsize=(4.3 * len(panels), 4.4), layout="constrained")
    columns = figure.subplots(1, len(panels), squeeze=False)[0]
    colors = colormaps["tab20" if len(languages) > 10 else "tab10"]
    positions = np.arange(len(names))
    for axes, (title, values) in zip(columns, panels.items()):
        for i, language in enumerate(languages):
            axes.plot(
                positions,
                values[:, i],
                marker="o",
                markersize=4,
                linewidth=1.4,
                color=colors(i % colors.N),
                label=language,
            )
        axes.set_xticks(positions, names, rotation=20, ha="right")
        axes.set_title(title)
        axes.margins(x=0.06)
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
    lines = columns[0].get_legend_handles_labels()
    figure.legend(*lines, loc="outside right center", frameon=False, title="language")
    save(figure, path)
