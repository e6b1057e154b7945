"""Reports as tables on the terminal."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from jaxir.evaluation.dataset import SETTINGS
from jaxir.evaluation.significance import Comparison

# title, whether more is better, and where a report has it
Column = tuple[str, bool, tuple[str, ...]]
COLUMNS: tuple[Column, ...] = (
    ("monolingual mAP", True, ("monolingual", "map")),
    ("cross-lingual mAP", True, ("cross_lingual", "map")),
    ("multilingual mAP", True, ("multilingual", "map")),
    ("rank distance", False, ("multilingual", "rank_distance")),
)
LESS_IS_BETTER = ("rank_distance",)

Report = Mapping[str, Any]  # a SettingsReport as JSON has it


def figures(report: Report, columns: Sequence[Column] = COLUMNS) -> list[float]:
    """A report's figures, one a column; NaN for what it does not have."""
    values = (_at(report, path) for _, _, path in columns)
    return [math.nan if value is None else value for value in values]


def _at(report: Any, path: Sequence[str]) -> Any:
    for name in path:
        report = report.get(name) if report is not None else None
    return report


def describe_size(systems: Mapping[str, Report]) -> str:
    """The size of a dataset in words, from the reports of its systems."""
    report = next(iter(systems.values()))
    names = ("queries", "passages", "images", "captions")
    counts = {name: report[name] for name in names if name in report}
    return ", ".join(
        f"{sum(count.values()) if isinstance(count, dict) else count:,} {name}"
        for name, count in counts.items()
    )


def print_settings(
    title: str, reports: Mapping[str, Report], columns: Sequence[Column] = COLUMNS
) -> None:
    """One line a system, the best of each column in bold."""
    rows = {name: figures(report, columns) for name, report in reports.items()}
    best = _best(list(rows.values()), columns)
    table = _table(title, "system", columns)
    for name, values in rows.items():
        cells = [_bold(_text(value), value == top) for value, top in zip(values, best)]
        table.add_row(name, *cells)
    _print(table)


def print_comparison(
    title: str, reports: Mapping[str, Sequence[Report]], columns: Sequence[Column] = COLUMNS
) -> list[str]:
    """One line a setting of the shares: mean and half the range over seeds; returns the ties.

    Two settings tie in a measure where their means differ by no more than the range of either.
    """
    runs = {
        name: np.array([figures(one, columns) for one in many]) for name, many in reports.items()
    }
    means = {name: values.mean(axis=0) for name, values in runs.items()}
    spans = {name: np.ptp(values, axis=0) for name, values in runs.items()}
    best = _best([list(values) for values in means.values()], columns)
    seeds = max(len(many) for many in reports.values())
    table = _table(f"{title}: mean ± half the range over {seeds} seeds", "shares", columns)
    ties = []
    leaders = [
        next((name for name in means if means[name][column] == best[column]), "")
        for column in range(len(columns))
    ]
    for name in runs:
        cells = []
        for column, leader in enumerate(leaders):
            mean, span = means[name][column], spans[name][column]
            cell = "-" if np.isnan(mean) else f"{_text(mean)} ±{_text(span / 2)}"
            gap = abs(mean - best[column])
            if name == leader:
                cell = _bold(cell, True)
            elif leader and gap <= max(span, spans[leader][column]):
                cell += " (tie)"
                ties.append(f"{columns[column][0]}: {name} ties with {leader}")
            cells.append(cell)
        table.add_row(name, *cells)
    _print(table)
    return ties


def print_measures(
    title: str, report: Report, intervals: Mapping[str, tuple[float, float]]
) -> None:
    """One line a measure, one column a setting, each figure with its confidence interval."""
    settings = [setting for setting in SETTINGS if report[setting]]
    table = Table(title=title, title_justify="left")
    table.add_column("measure")
    for setting in settings:
        table.add_column(setting.replace("_", "-"), justify="right")
    for name in dict.fromkeys(name for setting in settings for name in report[setting]):
        cells = []
        for setting in settings:
            value = report[setting].get(name)
            if value is None:
                cells.append("-")
                continue
            low, high = intervals[f"{setting}/{name}"]
            cells.append(f"{_text(value)} [dim]{_text(low)} to {_text(high)}[/dim]")
        table.add_row(f"{name} {'↓' if name in LESS_IS_BETTER else '↑'}", *cells)
    _print(table)


def print_paired(
    first: str, second: str, title: str, comparisons: Mapping[str, Comparison]
) -> None:
    """One line a figure of two models: both, the difference, and how likely chance explains it."""
    table = Table(title=title, title_justify="left")
    for name in ("setting", "measure"):
        table.add_column(name)
    for name in (first, second, "difference", "p"):
        table.add_column(name, justify="right")
    for key, one in comparisons.items():
        setting, measure = key.split("/", 1)
        better = one.difference * (-1 if measure in LESS_IS_BETTER else 1) > 0
        p = "< 0.001" if one.p_value < 0.001 else f"{one.p_value:.3f}"
        sure = one.p_value < 0.05
        table.add_row(
            setting.replace("_", "-"),
            f"{measure} {'↓' if measure in LESS_IS_BETTER else '↑'}",
            _bold(_text(one.first), sure and not better),
            _bold(_text(one.second), sure and better),
            f"{'+' if one.difference > 0 else ''}{_text(one.difference)}",
            p,
        )
    _print(table)


def _best(rows: list[list[float]], columns: Sequence[Column]) -> list[float]:
    best = []
    for (_, more_is_better, _), values in zip(columns, zip(*rows)):
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


def _table(title: str, first: str, columns: Sequence[Column]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for name, more_is_better, _ in columns:
        table.add_column(f"{name} {'↑' if more_is_better else '↓'}", justify="right")
    return table


def _print(table: Table) -> None:
    # a table cut to the eighty columns of a log file is of no use to anyone
    console = Console()
    console.width = max(console.width, 110)
    console.print(table)
