"""Tables of evaluations on the terminal."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from jaxir.evaluation.dataset import SETTINGS
from jaxir.evaluation.significance import PairedTest

# title, True where higher is better, and the path of the value in a report
Column = tuple[str, bool, tuple[str, ...]]
COLUMNS: tuple[Column, ...] = (
    ("monolingual mAP", True, ("monolingual", "map")),
    ("cross-lingual mAP", True, ("cross_lingual", "map")),
    ("multilingual mAP", True, ("multilingual", "map")),
    ("rank distance", False, ("multilingual", "rank_distance")),
)
LOWER_IS_BETTER = ("rank_distance",)

ReportDict = Mapping[str, Any]  # of `SettingsReport.to_dict`


def column_values(report: ReportDict, columns: Sequence[Column] = COLUMNS) -> list[float]:
    """A report's value of each column; NaN where it has none."""
    values = (_at(report, path) for _, _, path in columns)
    return [math.nan if value is None else value for value in values]


def _at(report: Any, path: Sequence[str]) -> Any:
    for name in path:
        report = report.get(name) if report is not None else None
    return report


def describe_size(systems: Mapping[str, Any]) -> str:
    """The size of a dataset in words, from the reports of its systems."""
    report = next(iter(systems.values()))
    names = ("queries", "passages", "images", "captions")
    counts = {name: report[name] for name in names if name in report}
    return ", ".join(
        f"{sum(count.values()) if isinstance(count, dict) else count:,} {name}"
        for name, count in counts.items()
    )


def print_settings(
    title: str, reports: Mapping[str, ReportDict], columns: Sequence[Column] = COLUMNS
) -> None:
    """Print a row a system, the best value of each column in bold."""
    rows = {name: column_values(report, columns) for name, report in reports.items()}
    best = _best(list(rows.values()), columns)
    table = _table(title, "system", columns)
    for name, values in rows.items():
        cells = [_bold(_text(value), value == top) for value, top in zip(values, best)]
        table.add_row(name, *cells)
    print_table(table)


def print_comparison(
    title: str, reports: Mapping[str, Sequence[ReportDict]], columns: Sequence[Column] = COLUMNS
) -> list[str]:
    """Print a row a mixture of shares: mean and half the range over seeds; returns the ties.

    Two mixtures tie in a metric where their means differ by no more than the range of either.
    """
    runs = {
        name: np.array([column_values(report, columns) for report in of_seeds])
        for name, of_seeds in reports.items()
    }
    means = {name: values.mean(axis=0) for name, values in runs.items()}
    spans = {name: np.ptp(values, axis=0) for name, values in runs.items()}
    best = _best([list(values) for values in means.values()], columns)
    seeds = max(len(of_seeds) for of_seeds in reports.values())
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
    print_table(table)
    return ties


def print_metrics(
    title: str, report: ReportDict, intervals: Mapping[str, tuple[float, float]]
) -> None:
    """Print a row a metric and a column a setting, each value with its confidence interval."""
    settings = [setting for setting in SETTINGS if report[setting]]
    table = Table(title=title, title_justify="left")
    table.add_column("metric")
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
        table.add_row(f"{name} {'↓' if name in LOWER_IS_BETTER else '↑'}", *cells)
    print_table(table)


def print_paired(first: str, second: str, title: str, tests: Mapping[str, PairedTest]) -> None:
    """Print a row a metric of two models: both values, their difference, and its p value.

    The better value is bold where the p value is below 0.05.
    """
    table = Table(title=title, title_justify="left")
    for name in ("setting", "metric"):
        table.add_column(name)
    for name in (first, second, "difference", "p"):
        table.add_column(name, justify="right")
    for key, test in tests.items():
        setting, metric = key.split("/", 1)
        better = test.difference * (-1 if metric in LOWER_IS_BETTER else 1) > 0
        p_value = "< 0.001" if test.p_value < 0.001 else f"{test.p_value:.3f}"
        significant = test.p_value < 0.05
        table.add_row(
            setting.replace("_", "-"),
            f"{metric} {'↓' if metric in LOWER_IS_BETTER else '↑'}",
            _bold(_text(test.first), significant and not better),
            _bold(_text(test.second), significant and better),
            f"{'+' if test.difference > 0 else ''}{_text(test.difference)}",
            p_value,
        )
    print_table(table)


def _best(rows: list[list[float]], columns: Sequence[Column]) -> list[float]:
    best = []
    for (_, higher_is_better, _), values in zip(columns, zip(*rows)):
        known = [value for value in values if not math.isnan(value)]
        pick = max if higher_is_better else min
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
    for name, higher_is_better, _ in columns:
        table.add_column(f"{name} {'↑' if higher_is_better else '↓'}", justify="right")
    return table


def print_table(table: Table, width: int = 110, **options: Any) -> None:
    """Print a table, on at least `width` columns; `options` are those of rich's console."""
    # log files report eighty columns, which would cut the tables
    console = Console(**options)
    console.width = max(console.width, width)
    console.print(table)
