"""Every picture of a sweep's report.

Dimension key: P points, R runs.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxir.evaluation.comparison import Measure
from jaxir.sweep.points import NAMED
from jaxir.sweep.results import Study, without_languages
from jaxir.sweep.scatter import draw_pareto, draw_slopes
from jaxir.sweep.surface import Surface
from jaxir.sweep.ternary import draw_map
from jaxir.sweep.tradeoff import TradeOff, means

MOST_SLOPES = 7  # points side by side


def draw_all(
    study: Study,
    surfaces: Mapping[str, Surface | None],
    trade: TradeOff | None,
    front: Sequence[str],
) -> dict[str, bytes]:
    """PNG by name: a map a measure, the score's map and the front, and the languages."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _draw_maps(study, surfaces, folder)
        if trade is not None:
            _draw_trade_off(study, trade, front, folder)
        _draw_slopes(study, folder / "languages.png")
        drawn = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        return {path.stem: path.read_bytes() for path in drawn}


def _draw_maps(study: Study, surfaces: Mapping[str, Surface | None], folder: Path) -> None:
    for one in without_languages(study):
        name = one.key.replace("/", "_").replace("@", "_at_")
        better = "higher" if one.more_is_better else "lower"
        draw_map(
            f"{one.title} ({better} is better)",
            study.config.sweep.kinds,
            np.array([point.shares for point in study.points]),
            means(study, study.figures[:, study.column(one.key)]),
            surfaces[one.key],
            one,
            folder / f"map_{name}.png",
        )


def _draw_trade_off(study: Study, trade: TradeOff, front: Sequence[str], folder: Path) -> None:
    title = f"score: {trade.weight:g} quality, {1 - trade.weight:g} freedom from bias"
    draw_map(
        title,
        study.config.sweep.kinds,
        np.array([point.shares for point in study.points]),
        means(study, trade.scores),
        trade.surface,
        Measure("score", title),
        folder / "map_score.png",
        trade.best,
    )
    names = [point.name for point in study.points]
    measures = [study.measure(key) for key in (study.comparison.quality, study.comparison.bias)]
    quality, bias = (
        [study.of(point)[:, study.column(one.key)] for point in study.points] for one in measures
    )
    on_front = np.array([name in front for name in names])
    title = f"quality against language bias, {study.task}"
    labels = (measures[0].title, measures[1].title)
    draw_pareto(names, quality, bias, labels, on_front, title, folder / "pareto.png")


def _draw_slopes(study: Study, path: Path) -> None:
    """By falling share of the first kind; of many points the named ones and the corners."""
    chosen = [point for point in study.points if len(study.of(point))]
    if len(chosen) > MOST_SLOPES:
        own = (*study.config.sweep.shares, *NAMED)
        chosen = [point for point in chosen if point.name in own or max(point.shares) == 1]
    chosen = sorted(chosen, key=lambda point: point.shares, reverse=True)[:MOST_SLOPES]
    panels = {}
    for title in dict.fromkeys(one.title for one in study.measures if one.language):
        columns = [i for i, one in enumerate(study.measures) if one.language and one.title == title]
        rows = [study.of(point)[:, columns].mean(axis=0) for point in chosen]
        panels[title] = np.array(rows)
    draw_slopes(panels, [point.name for point in chosen], study.languages, path)
