"""A sweep's report, from what its runs have left: figures, tests, surfaces, pictures, a page."""

import csv
from collections.abc import Mapping
from typing import Any

from etils import epath

from jaxir.errors import UserError
from jaxir.evaluation.comparison import Comparison
from jaxir.evaluation.settings import plain
from jaxir.runtime.files import write_json, writing
from jaxir.sweep.differences import FEWEST_SEEDS, differences
from jaxir.sweep.page import page
from jaxir.sweep.pictures import draw_all
from jaxir.sweep.points import UNIFORM, Point
from jaxir.sweep.results import Study, as_rows, read_study, without_languages
from jaxir.sweep.summary import point_rows, summarize
from jaxir.sweep.surface import fit
from jaxir.sweep.tradeoff import shares_of, trade_off
from jaxir.sweep.workers import UNFINISHED

SURE = 0.05  # a difference whose p value is under that is told


def report(
    workdir: epath.Path,
    output: epath.Path,
    quality_weight: float,
    against: str | None,
    task: str | None,
) -> None:
    """Write the report of a sweep, finished or under way, and say in short what it found.

    Args:
        workdir: of the sweep.
        output: folder to write.
        quality_weight: see `jaxir.sweep.tradeoff`.
        against: name of the point that the others are tested against; None: uniform shares.
        task: which of those that the runs measure; None: the last.

    Raises:
        UserError: nothing to report on, or a test was asked for that cannot be made.
    """
    study = read_study(workdir, task)
    reference, why_no_test = _reference(study, against)
    found = differences(study, reference) if reference is not None else []
    if reference is not None and not found:
        why_no_test = (
            f"no point has two seeds in common with {reference.name}: from a single one nobody "
            "can tell how much seeds vary"
        )
    if against is not None and why_no_test:
        raise UserError(f"--against {against}: {why_no_test}")
    shares = shares_of(study)
    surfaces = {one.key: fit(shares, study.scaled(one.key)) for one in without_languages(study)}
    measured = {one.key for one in study.measures}
    both = {study.comparison.quality, study.comparison.bias}
    trade = trade_off(study, quality_weight) if both <= measured else None
    summary = summarize(study, found, why_no_test, surfaces, trade, reference)
    output.mkdir(parents=True, exist_ok=True)
    pictures = draw_all(study, surfaces, trade, summary["pareto_front"])
    for name, picture in pictures.items():
        with writing(output / f"{name}.png", "wb") as file:
            file.write(picture)
    _write_csv(output / "runs.csv", list(as_rows(study)))
    _write_csv(output / "points.csv", list(point_rows(study, found)))
    write_json(output / "report.json", plain(summary))
    with writing(output / "report.html") as file:
        file.write(page(study, summary, pictures))
    _print(summary, study.comparison, output)


def _reference(study: Study, against: str | None) -> tuple[Point | None, str]:
    """The point that others are tested against, or why there is no test."""
    name = against or UNIFORM
    named = {point.name: point for point in study.points}
    if name not in named:
        if against is not None:
            raise UserError(f"--against {against}: no point; there are {', '.join(named)}")
        return None, f"the sweep has no point {UNIFORM}; --against names another one"
    if len(study.seeds) < FEWEST_SEEDS:
        return None, (
            f"config.sweep.seeds = {len(study.seeds)}: a test needs two seeds at least, since from "
            "a single one nobody can tell how much seeds vary"
        )
    return named[name], ""


def _write_csv(path: epath.Path, rows: list[dict[str, Any]]) -> None:
    with writing(path) as file:
        table = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def _print(summary: Mapping[str, Any], comparison: Comparison, output: epath.Path) -> None:
    missing = summary["missing"]
    if missing:
        failed = [f"{name} {why}" for name, why in missing.items() if why != UNFINISHED]
        print(f"missing: {len(missing)} runs, {len(missing) - len(failed)} of them {UNFINISHED}")
        print("".join(f"missing: {line}\n" for line in failed), end="")
    if summary["why_no_test"]:
        print(f"no test: {summary['why_no_test']}")
    for measure in comparison.main:
        sure = [
            one
            for one in summary["tests"]
            if one["measure"] == measure.key and one["p_holm"] < SURE
        ]
        for word, sign in (("better", 1), ("worse", -1)):
            sign = sign if measure.more_is_better else -sign
            names = [one["point"] for one in sure if one["difference"] * sign > 0]
            if names:
                print(f"{measure.title}: {word} than {summary['against']}: {', '.join(names)}")
    if summary["pareto_front"]:
        print(f"Pareto front: {', '.join(summary['pareto_front'])}")
    best = (summary["trade_off"] or {}).get("best")
    if best:
        shares = ", ".join(f"{kind} {share:.2f}" for kind, share in best["shares"].items())
        print(f"best shares at quality weight {summary['trade_off']['quality_weight']:g}: {shares}")
    print(f"{output / 'report.html'}, CSV, JSON and pictures beside it")
