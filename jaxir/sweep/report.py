"""The report of a sweep: tests, surfaces, plots and a page from the results of its runs."""

import csv
from collections.abc import Mapping
from typing import Any

from etils import epath

from jaxir.errors import UserError
from jaxir.evaluation.comparison import MetricSet
from jaxir.evaluation.settings import json_value
from jaxir.runtime.files import write_json, writing
from jaxir.sweep.mixtures import UNIFORM, Mixture
from jaxir.sweep.page import page
from jaxir.sweep.report_plots import draw_all
from jaxir.sweep.response_surface import fit
from jaxir.sweep.significance_tests import FEWEST_SEEDS, SIGNIFICANT, mixture_differences
from jaxir.sweep.study import Study, overall_metrics, read_study, run_rows
from jaxir.sweep.summary import mixture_rows, summarize
from jaxir.sweep.tradeoff import shares_of, trade_off
from jaxir.sweep.workers import UNFINISHED


def report(
    workdir: epath.Path,
    output: epath.Path,
    quality_weight: float,
    against: str | None,
    dataset: str | None,
) -> None:
    """Write the report of a sweep, finished or still running, and print its main findings.

    Args:
        workdir: of the sweep.
        output: folder to write.
        quality_weight: see `jaxir.sweep.tradeoff`.
        against: name of the mixture that the others are tested against; None: uniform shares.
        dataset: one of those that the runs are evaluated on; None: the last.

    Raises:
        UserError: no results to report, or `against` cannot be tested against.
    """
    study = read_study(workdir, dataset)
    reference, why_no_test = _reference(study, against)
    differences = mixture_differences(study, reference) if reference is not None else []
    if reference is not None and not differences:
        why_no_test = (
            f"no mixture has two finished seeds in common with {reference.name}; a single seed "
            "does not show how much results vary between seeds"
        )
    if against is not None and why_no_test:
        raise UserError(f"--against {against}: {why_no_test}")
    shares = shares_of(study)
    surfaces = {
        metric.key: fit(shares, study.scaled(metric.key)) for metric in overall_metrics(study)
    }
    # a dataset may lack parallel passages, and with them the rank distance
    measured = {metric.key for metric in study.metrics}
    has_both = {study.metric_set.quality, study.metric_set.bias} <= measured
    trade = trade_off(study, quality_weight) if has_both else None
    summary = summarize(study, differences, why_no_test, surfaces, trade, reference)
    output.mkdir(parents=True, exist_ok=True)
    plots = draw_all(study, surfaces, trade, summary["pareto_front"])
    for name, png in plots.items():
        with writing(output / f"{name}.png", "wb") as file:
            file.write(png)
    _write_csv(output / "runs.csv", list(run_rows(study)))
    _write_csv(output / "mixtures.csv", list(mixture_rows(study, differences)))
    write_json(output / "report.json", json_value(summary))
    with writing(output / "report.html") as file:
        file.write(page(study, summary, plots))
    _print(summary, study.metric_set, output)


def _reference(study: Study, against: str | None) -> tuple[Mixture | None, str]:
    """The mixture that others are tested against, or the reason why there is no test."""
    name = against or UNIFORM
    by_name = {mixture.name: mixture for mixture in study.mixtures}
    if name not in by_name:
        if against is not None:
            raise UserError(
                f"--against {against}: no such mixture; the sweep has {', '.join(by_name)}"
            )
        return None, f"the sweep has no mixture {UNIFORM}; name another one with --against"
    if len(study.seeds) < FEWEST_SEEDS:
        return None, (
            f"config.sweep.seeds = {len(study.seeds)}: a test needs at least two seeds, to tell "
            "how much results vary between seeds"
        )
    return by_name[name], ""


def _write_csv(path: epath.Path, rows: list[dict[str, Any]]) -> None:
    with writing(path) as file:
        table = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def _print(summary: Mapping[str, Any], metric_set: MetricSet, output: epath.Path) -> None:
    missing = summary["missing"]
    if missing:
        failed = [f"{name} {reason}" for name, reason in missing.items() if reason != UNFINISHED]
        unfinished = len(missing) - len(failed)
        print(f"runs without results: {len(missing)} ({unfinished} of them {UNFINISHED})")
        print("".join(f"without results: {line}\n" for line in failed), end="")
    if summary["why_no_test"]:
        print(f"no test: {summary['why_no_test']}")
    for metric in metric_set.main:
        significant = [
            test
            for test in summary["tests"]
            if test["metric"] == metric.key and test["p_holm"] < SIGNIFICANT
        ]
        for word, sign in (("better", 1), ("worse", -1)):
            sign = sign if metric.higher_is_better else -sign
            names = [test["mixture"] for test in significant if test["difference"] * sign > 0]
            if names:
                print(
                    f"{metric.title}: significantly {word} than {summary['against']}: "
                    f"{', '.join(names)}"
                )
    if summary["pareto_front"]:
        print(f"Pareto front: {', '.join(summary['pareto_front'])}")
    best = (summary["trade_off"] or {}).get("best")
    if best:
        shares = ", ".join(f"{kind} {share:.2f}" for kind, share in best["shares"].items())
        weight = summary["trade_off"]["quality_weight"]
        print(f"predicted best shares at quality weight {weight:g}: {shares}")
    print(f"{output / 'report.html'}; CSV, JSON and PNG files are beside it")
