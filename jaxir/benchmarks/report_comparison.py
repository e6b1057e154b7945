"""Two reports on one benchmark compared, with significance tests."""

import dataclasses
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxir.benchmarks.report_folder import VALUES, read_report
from jaxir.errors import UserError
from jaxir.evaluation import plots
from jaxir.evaluation.per_query import read_values
from jaxir.evaluation.settings import PerQueryMetrics, json_value, summarize
from jaxir.evaluation.significance import PairedTest, compare
from jaxir.evaluation.tables import print_paired
from jaxir.runtime.files import check_target, replacing, write_json

COMPARISON = "comparison.json"


def compare_reports(first: Path, second: Path, output: Path | None = None) -> dict[str, PairedTest]:
    """Print two reports side by side, with p values.

    Args:
        first: folder of a report.
        second: folder of another report, on the same texts, languages and judgements.
        output: folder for the results as JSON and both heat maps; None: nothing is written.

    Returns:
        A test by "setting/metric".

    Raises:
        UserError: a folder holds no report, the reports are on different datasets, or the output
            holds something else.
    """
    reports = [read_report(folder) for folder in (first, second)]
    dataset, rankings = _check_comparable(first, second, reports)
    if output is not None:
        check_target(output, "comparison", _is_comparison)
    values = tuple(read_values(folder / VALUES) for folder in (first, second))
    tests = compare(values[0], values[1])
    names = str(first), str(second)
    print_paired(*names, f"{dataset}: paired randomisation test", tests)
    for field in ("dtype", "approximate_recall"):
        if rankings[0][field] != rankings[1][field]:
            print(f"they differ in {field}: {rankings[0][field]} and {rankings[1][field]}")
    if output is not None:
        with replacing(output.absolute()) as folder:
            _write_comparison(folder, dict(zip(names, values)), dataset, tests)
        print(f"{output / COMPARISON}; with several languages heat maps are in the same folder")
    return tests


def _check_comparable(
    first: Path, second: Path, reports: list[dict[str, Any]]
) -> tuple[str, list[dict[str, Any]]]:
    """The name of the reports' dataset, and the ranking options of both."""
    names = [next(iter(report["systems"].values()))["name"] for report in reports]
    if reports[0]["fingerprint"] != reports[1]["fingerprint"]:
        raise UserError(
            f"{first} is of {names[0]} and {second} of {names[1]}: their texts, languages or "
            "judgements differ, so they cannot be compared"
        )
    rankings = [report["ranking"] for report in reports]
    if rankings[0]["depth"] != rankings[1]["depth"]:
        raise UserError(
            f"{first} was ranked with --depth {rankings[0]['depth']}, {second} with "
            f"{rankings[1]['depth']}: evaluate one of them again"
        )
    return names[0], rankings


def _is_comparison(folder: Path) -> bool:
    """True for a folder that `compare_reports` wrote."""
    try:
        comparison = json.loads((folder / COMPARISON).read_text(encoding="utf-8"))
        return {"dataset", "reports", "comparison"} <= comparison.keys()
    except (OSError, ValueError, AttributeError):
        return False


def _write_comparison(
    folder: Path,
    values: Mapping[str, PerQueryMetrics],
    dataset: str,
    tests: Mapping[str, PairedTest],
) -> None:
    first = next(iter(values.values()))
    if len(first.languages) > 1 and "cross_lingual" in first.settings:
        # folders of one name in different places keep their whole paths
        short = {name: Path(name).name for name in values}
        titles = short if len(set(short.values())) == len(values) else dict(zip(values, values))
        maps = {
            titles[name]: summarize(per_query, dataset, 0, 0).matrix["map"]
            for name, per_query in values.items()
        }
        plots.draw_heat_maps(maps, first.languages, f"mAP, {dataset}", folder / "heat_map.png")
    comparison = {
        "command": ["python -m jaxir.evaluate", *sys.argv[1:]],
        "dataset": dataset,
        "reports": list(values),
        "comparison": {key: dataclasses.asdict(test) for key, test in tests.items()},
    }
    write_json(folder / COMPARISON, json_value(comparison))
