"""A report printed on the terminal: tables of the metrics, and notes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxir.benchmarks.report_folder import REPORT
from jaxir.evaluation.dataset import SETTINGS
from jaxir.evaluation.tables import print_metrics, print_settings


def print_report(model: str, report: dict[str, Any], folder: Path) -> None:
    """Print the tables and notes of a report.

    Args:
        model: name of the evaluated model among the report's systems.
        report: as in report.json.
        folder: that the report was written to.
    """
    systems = report["systems"]
    system = systems[model]
    size = f"{system['queries']:,} queries, {system['passages']:,} passages"
    print_settings(f"{system['name']}: {size}", systems)
    intervals = {
        name: (np.nan if low is None else low, np.nan if high is None else high)
        for name, (low, high) in report["intervals"].items()
    }
    level = f"95 % intervals of {report['resamples']:,} bootstrap samples"
    print_metrics(f"{model}: {level}", system, intervals)
    for name, tests in report["against"].items():
        print(f"mAP against {name}: {', '.join(_differences(tests))}")
    print("; ".join(_notes(report)))
    print(f"{folder / REPORT}; run files, qrels files and plots are in the same folder")


def _differences(tests: dict[str, dict[str, float]]) -> Iterator[str]:
    """The difference in mAP and its p value, in each setting that has one."""
    for setting in SETTINGS:
        test = tests.get(f"{setting}/map")
        if test:
            p = "< 0.001" if test["p_value"] < 0.001 else f"= {test['p_value']:.3f}"
            difference = test["second"] - test["first"]
            yield f"{setting.replace('_', '-')} {difference:+.3f} (p {p})"


def _notes(report: dict[str, Any]) -> Iterator[str]:
    """All that a reader of the metrics should know of how they came about."""
    ranking, seconds = report["ranking"], report["seconds"]
    if ranking["approximate_recall"] is not None:
        yield f"approximate search, recall {ranking['approximate_recall']}"
    if ranking["dtype"] != "float32":
        yield f"passages in {ranking['dtype']}"
    if ranking["depth"]:
        yield (
            f"ranked down to rank {ranking['depth']:,}: relevant passages below it count as not "
            "found"
        )
    if report["queries_without_relevant"]:
        yield f"{report['queries_without_relevant']} queries without a relevant passage left out"
    if report["empty_passages"]:
        yield f"{report['empty_passages']} passages are empty"
    yield f"encoding {seconds['encoding']:,.0f} s of {seconds['all']:,.0f} s"
