"""The folder of a report: report.json, values.npz, TREC run and qrels files, and plots."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from jaxir.benchmarks.results import BenchmarkResults
from jaxir.errors import UserError
from jaxir.evaluation import plots
from jaxir.evaluation.dataset import RetrievalDataset
from jaxir.evaluation.per_query import write_values
from jaxir.evaluation.ranking import Ranking
from jaxir.evaluation.trec import write_qrels, write_run

REPORT, VALUES = "report.json", "values.npz"


def read_report(folder: Path) -> dict[str, Any]:
    """The fields of a report by which it is compared: fingerprint, systems and ranking.

    Raises:
        UserError: the folder holds no report.
    """
    try:
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        if not isinstance(report, dict) or not report["systems"]:
            raise ValueError("it holds no systems")
        return {name: report[name] for name in ("fingerprint", "systems", "ranking")}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: holds no {REPORT} of jaxir.evaluate ({error})") from error


def is_report(folder: Path) -> bool:
    """True for the folder of a report."""
    try:
        read_report(folder)
    except UserError:
        return False
    return True


def write_report_files(
    folder: Path, model: str, results: BenchmarkResults, runs: tuple[str, ...]
) -> None:
    """Write the files of a report but report.json, which comes last.

    Args:
        folder: exists.
        model: its name.
        results: of the model.
        runs: settings of which run and qrels files are written.
    """
    tag = "_".join(Path(model).name.split()) or "jaxir"  # columns of run files end at a space
    _write_runs(folder, tag, results, runs)
    write_values(folder / VALUES, results.systems[model].values)
    _draw_plots(folder, tag, model, results)


def _write_runs(
    folder: Path, tag: str, results: BenchmarkResults, settings: tuple[str, ...]
) -> None:
    files: dict[str, tuple[RetrievalDataset, list[Ranking]]] = {}
    has_several = len({id(dataset) for dataset, _ in results.runs}) > 1
    for dataset, run in results.runs:
        if run.setting in settings:
            # across languages a query has a ranking for each passage language, but a run file
            # takes only one ranking of a query
            by_language = has_several or run.setting == "cross_lingual"
            language = f".{dataset.languages[run.language]}" if by_language else ""
            files.setdefault(f"{run.setting}{language}", (dataset, []))[1].append(run)
    for name, (dataset, runs) in files.items():
        write_run(folder / f"run.{name}.trec", dataset, runs, tag)
        write_qrels(folder / f"qrels.{name}.trec", dataset, runs)


def _draw_plots(folder: Path, tag: str, model: str, results: BenchmarkResults) -> None:
    report = results.systems[model]
    title = f"{tag} on {report.name}"
    if len(report.languages) > 1 and "cross_lingual" in report.values.settings:
        maps = {tag: report.matrix["map"]}
        path = folder / "heat_map.png"
        plots.draw_heat_maps(maps, report.languages, f"mAP, {report.name}", path)
    # absent without a multilingual pool, and where only the top of each ranking is known
    if np.isfinite(report.multilingual.get("rank_distance", np.nan)):
        distances = {
            (tag if name == model else name): system.pool["rank_distance"]
            for name, system in results.systems.items()
        }
        path = folder / "rank_distance.png"
        plots.draw_rank_distances(report.languages, distances, title, path)
    for k, shares in results.language_shares.items():
        path = folder / f"language_shares_{k}.png"
        plots.draw_language_shares(
            report.languages, shares, results.pool_shares, f"{title}: top {k}", path
        )
