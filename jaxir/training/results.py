"""What a run shows at its end: a table, a JSON file, heat maps.

Dimension key: N languages.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from rich.console import Console
from rich.table import Table

from jaxir.retrieval.evaluation import SettingsReport

RESULTS_FILE = "results.json"
# title, whether more is better, and where a report has it
COLUMNS = (
    ("monolingual mAP", True, "monolingual", "map"),
    ("cross-lingual mAP", True, "cross_lingual", "map"),
    ("multilingual mAP", True, "multilingual", "map"),
    ("rank distance", False, "multilingual", "rank_distance"),
)

Report = Mapping[str, Any]  # a SettingsReport as JSON has it


def write_json(path: Path, value: Any) -> None:
    """Write whole or not at all."""
    temporary = path.with_suffix(".unfinished")
    temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")
    temporary.replace(path)


def figures(report: Report) -> list[float]:
    """A report's figures in the order of COLUMNS; NaN for what it does not have."""
    values = (report[setting].get(measure) for _, _, setting, measure in COLUMNS)
    return [math.nan if value is None else value for value in values]


def print_settings(title: str, reports: Mapping[str, Report]) -> None:
    """One line a system, the best of each column in bold."""
    rows = {name: figures(report) for name, report in reports.items()}
    best = _best(list(rows.values()))
    table = _table(title, "system")
    for name, values in rows.items():
        cells = [_bold(_text(value), value == top) for value, top in zip(values, best)]
        table.add_row(name, *cells)
    _print(table)


def print_comparison(title: str, reports: Mapping[str, Sequence[Report]]) -> list[str]:
    """One line a setting of the shares: mean and half the range over seeds; returns the ties.

    Two settings tie in a measure where their means differ by no more than the range of either.
    """
    runs = {name: np.array([figures(one) for one in many]) for name, many in reports.items()}
    means = {name: values.mean(axis=0) for name, values in runs.items()}
    spans = {name: np.ptp(values, axis=0) for name, values in runs.items()}
    best = _best([list(values) for values in means.values()])
    seeds = max(len(many) for many in reports.values())
    table = _table(f"{title}: mean ± half the range over {seeds} seeds", "shares")
    ties = []
    leaders = [
        next((name for name in means if means[name][column] == best[column]), "")
        for column in range(len(COLUMNS))
    ]
    for name in runs:
        cells = []
        for column, leader in enumerate(leaders):
            mean, span = means[name][column], spans[name][column]
            cell = f"{_text(mean)} ±{_text(span / 2)}"
            gap = abs(mean - best[column])
            if name == leader:
                cell = _bold(cell, True)
            elif gap <= max(span, spans[leader][column]):
                cell += " (tie)"
                ties.append(f"{COLUMNS[column][0]}: {name} ties with {leader}")
            cells.append(cell)
        table.add_row(name, *cells)
    _print(table)
    return ties


def draw_heat_map(report: SettingsReport, path: Path) -> None:
    """mAP by query language (rows) and passage language (columns), as a PNG."""
    from matplotlib.figure import Figure

    matrix: Float[np.ndarray, "N N"] = report.matrix["map"]
    size = 2.4 + 0.55 * len(report.languages)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axes = figure.subplots()
    highest = max(0.05, float(np.nanmax(matrix)))
    image = axes.imshow(matrix, cmap="viridis", vmin=0.0, vmax=highest)
    ticks = range(len(report.languages))
    axes.set_xticks(ticks, report.languages)
    axes.set_yticks(ticks, report.languages)
    axes.set_xlabel("passage language")
    axes.set_ylabel("query language")
    axes.set_title(f"mAP, {report.name}")
    for (row, column), value in np.ndenumerate(matrix):
        if not math.isnan(value):
            color = "black" if value > highest / 2 else "white"
            axes.text(
                column, row, f"{value:.2f}", ha="center", va="center", color=color, fontsize=8
            )
    figure.colorbar(image, ax=axes, label="mAP")
    figure.savefig(path, dpi=120)


def _best(rows: list[list[float]]) -> list[float]:
    best = []
    for (_, more_is_better, *_), values in zip(COLUMNS, zip(*rows)):
        known = [value for value in values if not math.isnan(value)]
        pick = max if more_is_better else min
        best.append(pick(known) if known else math.nan)
    return best


def _text(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.3f}" if abs(value) < 2 else f"{value:,.1f}"


def _bold(text: str, strong: bool) -> str:
    return f"[bold]{text}[/bold]" if strong else text


def _table(title: str, first: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for name, more_is_better, *_ in COLUMNS:
        table.add_column(f"{name} {'↑' if more_is_better else '↓'}", justify="right")
    return table


def _print(table: Table) -> None:
    # a table cut to the eighty columns of a log file is of no use to anyone
    console = Console()
    console.width = max(console.width, 110)
    console.print(table)
