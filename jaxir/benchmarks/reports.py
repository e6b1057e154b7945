"""A model's report on a benchmark: made, written, read again and compared."""

import dataclasses
import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxir
from jaxir.benchmarks.download import cache_folder
from jaxir.benchmarks.run import Benchmark, Result, read_benchmark, run_benchmark
from jaxir.errors import UserError
from jaxir.evaluation import plots
from jaxir.evaluation.dataset import SETTINGS, RetrievalDataset
from jaxir.evaluation.measuring import Ranking, Run
from jaxir.evaluation.per_query import read_values, write_values
from jaxir.evaluation.settings import PerQueryMetrics, plain, summarize
from jaxir.evaluation.significance import Comparison, compare, confidence_intervals
from jaxir.evaluation.tables import print_measures, print_paired, print_settings
from jaxir.evaluation.trec import write_qrels, write_run
from jaxir.models.trained import TrainedModel
from jaxir.retrieval.text_encoder import TextEncoder
from jaxir.retrieval.topk import DTYPES, data_mesh
from jaxir.runtime.files import replacing, write_json
from jaxir.runtime.versions import made_with

logger = logging.getLogger(__name__)

REPORT, VALUES, COMPARISON = "report.json", "values.npz", "comparison.json"


def evaluate(
    model: str,
    read: Callable[[str], TrainedModel],
    benchmark: Benchmark,
    output: Path,
    ranking: Ranking,
    *,
    query_prefix: str | None,
    passage_prefix: str | None,
    max_query_tokens: int | None,
    max_passage_tokens: int | None,
    batch_tokens: int,
    compute_dtype: str,
    runs: tuple[str, ...],
    with_bm25: bool,
    resamples: int,
) -> None:
    """Measure a model, print the tables and write the report.

    Args:
        model: its name or folder.
        read: how a model of that name is read.
        benchmark: what it is measured on.
        output: folder for the report.
        ranking: how passages are ranked.
        query_prefix: None: the model's, as with the next three.
        passage_prefix: before each passage.
        max_query_tokens: longer ones are cut.
        max_passage_tokens: longer ones are cut.
        batch_tokens: encoded at a time, padding included.
        compute_dtype: of matrix products.
        runs: settings that run files are written of.
        with_bm25: measure BM25 too.
        resamples: of the bootstrap.

    Raises:
        UserError: one line; what was written before `report.json`, the last file, counts nothing.
    """
    began = time.perf_counter()
    output = output.absolute()
    _check(ranking, compute_dtype, runs)
    _check_output(output)
    tasks = read_benchmark(benchmark)
    reading = time.perf_counter() - began
    trained = read(model).adjusted(
        compute_dtype,
        query_prefix=query_prefix,
        passage_prefix=passage_prefix,
        max_query_tokens=max_query_tokens,
        max_passage_tokens=max_passage_tokens,
    )
    with jax.set_mesh(data_mesh()):
        encoder = TextEncoder(trained, batch_tokens)
        seconds = {"reading": reading, "loading": time.perf_counter() - began - reading}
        result = run_benchmark(
            encoder,
            model,
            tasks,
            ranking,
            with_bm25=with_bm25,
            with_runs=bool(runs),
            cache=cache_folder() / "tokens",
        )
    for part, spent in result.seconds.items():
        seconds[part] = seconds.get(part, 0.0) + spent
    parts = time.perf_counter()
    report = _report(model, trained, benchmark, ranking, encoder.batch_tokens, result, resamples)
    seconds["intervals and p values"] = time.perf_counter() - parts
    with replacing(output) as folder:
        parts = time.perf_counter()
        _write(folder, model, result, runs)
        seconds["writing"] = time.perf_counter() - parts
        seconds["all"] = time.perf_counter() - began
        write_json(folder / REPORT, report | {"seconds": seconds})
    _print(model, report | {"seconds": seconds}, output)


def _check(ranking: Ranking, compute_dtype: str, runs: tuple[str, ...]) -> None:
    ranking.check()
    for name, value, allowed in (
        ("compute_dtype", compute_dtype, ("float32", "bfloat16")),
        ("index_dtype", ranking.dtype, DTYPES),
        *(("runs", run, SETTINGS) for run in runs),
    ):
        if value not in allowed:
            raise UserError(f"--{name} {value}: must be one of {', '.join(allowed)}")
    if "cross_lingual" in runs and not ranking.depth:
        raise UserError("--runs cross_lingual: needs --depth, the places kept of each language")


def _check_output(output: Path) -> None:
    """Only an earlier report may be replaced."""
    try:
        if not _is_empty(output):
            _read_report(output)
    except UserError:
        raise _something_else(output) from None


def _check_comparison_output(output: Path) -> None:
    """Only an earlier comparison may be replaced."""
    try:
        if not _is_empty(output):
            found = json.loads((output / COMPARISON).read_text(encoding="utf-8"))
            if not {"task", "reports", "comparison"} <= found.keys():
                raise ValueError("it is of something else")
    except (OSError, ValueError, AttributeError):
        raise _something_else(output) from None


def _is_empty(output: Path) -> bool:
    return not output.exists() or (output.is_dir() and not any(output.iterdir()))


def _something_else(output: Path) -> UserError:
    return UserError(f"--output {output}: holds something else; name another folder")


def _report(
    model: str,
    trained: TrainedModel,
    benchmark: Benchmark,
    ranking: Ranking,
    batch_tokens: int,
    result: Result,
    resamples: int,
) -> dict[str, Any]:
    """Everything that is needed to do it again."""
    figures = result.systems[model]
    logger.info("intervals of %s bootstrap samples, and p values", f"{resamples:,}")
    intervals = confidence_intervals(figures.values.totals(), resamples)
    texts = {
        name: getattr(trained, name)
        for name in ("query_prefix", "passage_prefix", "max_query_tokens", "max_passage_tokens")
    }
    return {
        "command": [f"python -m {jaxir.__name__}.evaluate", *sys.argv[1:]],
        **made_with(),
        "model": {"name": model, "sha256": trained.weights_digest()}
        | texts
        | {"batch_tokens": batch_tokens, "shape": dataclasses.asdict(trained.config)},
        "benchmark": dataclasses.asdict(benchmark),
        "fingerprint": result.fingerprint,
        "queries_without_answer": result.unanswered,
        "empty_passages": result.empty_passages,
        "ranking": dataclasses.asdict(ranking),
        "resamples": resamples,
        "systems": {name: one.to_dict() for name, one in result.systems.items()},
        "intervals": plain(intervals),
        "against": {
            name: {key: dataclasses.asdict(one) for key, one in compare(other, ours).items()}
            for name, other, ours in (
                (system, one.values, figures.values)
                for system, one in result.systems.items()
                if system != model
            )
        },
        "language_shares": {str(k): plain(share) for k, share in result.shares.items()},
        "pool_shares": plain(result.pool),
    }


def _write(output: Path, model: str, result: Result, runs: tuple[str, ...]) -> None:
    tag = "_".join(Path(model).name.split()) or "jaxir"  # a run file has columns
    files: dict[str, tuple[RetrievalDataset, list[Run]]] = {}
    apart = len({id(task) for task, _ in result.runs}) > 1
    for task, run in result.runs:
        if run.setting in runs:
            # a query has a ranking for each language of passages, but a run file takes only one
            language = apart or run.setting == "cross_lingual"
            name = f"{run.setting}.{task.languages[run.language]}" if language else run.setting
            files.setdefault(name, (task, []))[1].append(run)
    for name, (task, some) in files.items():
        write_run(output / f"run.{name}.trec", task, some, tag)
        write_qrels(output / f"qrels.{name}.trec", task, some)
    figures = result.systems[model]
    write_values(output / VALUES, figures.values)
    title = f"{tag} on {figures.name}"
    if len(figures.languages) > 1 and "cross_lingual" in figures.values.settings:
        maps, what = {tag: figures.matrix["map"]}, f"mAP, {figures.name}"
        plots.draw_heat_maps(maps, figures.languages, what, output / "heat_map.png")
    if np.isfinite(figures.multilingual.get("rank_distance", np.nan)):
        distances = {
            (tag if name == model else name): one.pool["rank_distance"]
            for name, one in result.systems.items()
        }
        path = output / "rank_distance.png"
        plots.draw_rank_distances(figures.languages, distances, title, path)
    for k, shares in result.shares.items():
        path = output / f"language_shares_{k}.png"
        plots.draw_language_shares(
            figures.languages, shares, result.pool, f"{title}: the first {k} places", path
        )


def _print(model: str, report: dict[str, Any], output: Path) -> None:
    systems = report["systems"]
    figures = systems[model]
    size = f"{figures['queries']:,} queries, {figures['passages']:,} passages"
    print_settings(f"{figures['name']}: {size}", systems)
    intervals = {
        name: (np.nan if low is None else low, np.nan if high is None else high)
        for name, (low, high) in report["intervals"].items()
    }
    level = f"95 % intervals of {report['resamples']:,} bootstrap samples"
    print_measures(f"{model}: {level}", figures, intervals)
    for name, found in report["against"].items():
        said = []
        for setting in SETTINGS:
            one = found.get(f"{setting}/map")
            if one:
                p = "< 0.001" if one["p_value"] < 0.001 else f"= {one['p_value']:.3f}"
                difference = one["second"] - one["first"]
                said.append(f"{setting.replace('_', '-')} {difference:+.3f} (p {p})")
        print(f"mAP against {name}: {', '.join(said)}")
    notes = []
    if report["ranking"]["approximate_recall"] is not None:
        notes.append(f"approximate search, recall {report['ranking']['approximate_recall']}")
    if report["ranking"]["dtype"] != "float32":
        notes.append(f"passages in {report['ranking']['dtype']}")
    if report["ranking"]["depth"]:
        notes.append(
            f"ranked to place {report['ranking']['depth']:,} only: an answer beyond it counts as "
            "not found"
        )
    if report["queries_without_answer"]:
        notes.append(
            f"{report['queries_without_answer']} queries without a right answer do not count"
        )
    if report["empty_passages"]:
        notes.append(f"{report['empty_passages']} passages are empty")
    parts = report["seconds"]
    notes.append(f"encoding {parts['encoding']:,.0f} s of {parts['all']:,.0f} s")
    print("; ".join(notes))
    print(f"{output / REPORT}, run and qrels files and pictures beside it")


def compare_reports(first: Path, second: Path, output: Path | None = None) -> dict[str, Comparison]:
    """Print two reports side by side, with p values.

    Args:
        first: folder of a report.
        second: of another one, of the same texts, languages and judgements.
        output: folder for the figures as JSON and both heat maps; None: nothing is written.

    Raises:
        UserError: a folder holds no report, they are of different tasks, or the output holds
            something else.
    """
    reports = [_read_report(folder) for folder in (first, second)]
    names = [next(iter(one["systems"].values()))["name"] for one in reports]
    if reports[0]["fingerprint"] != reports[1]["fingerprint"]:
        raise UserError(
            f"{first} is of {names[0]} and {second} of {names[1]}: their texts, languages or "
            "judgements differ, so they cannot be compared"
        )
    rankings = [one["ranking"] for one in reports]
    if rankings[0]["depth"] != rankings[1]["depth"]:
        raise UserError(
            f"{first} was ranked with --depth {rankings[0]['depth']}, {second} with "
            f"{rankings[1]['depth']}: evaluate one again"
        )
    if output is not None:
        _check_comparison_output(output)
    values = tuple(read_values(folder / VALUES) for folder in (first, second))
    found = compare(values[0], values[1])
    one, other = (str(folder) for folder in (first, second))
    print_paired(one, other, f"{names[0]}: paired randomisation test", found)
    for field in ("dtype", "approximate_recall"):
        if rankings[0][field] != rankings[1][field]:
            print(f"they differ in {field}: {rankings[0][field]} and {rankings[1][field]}")
    if output is not None:
        with replacing(output.absolute()) as folder:
            _write_comparison(folder, {one: values[0], other: values[1]}, names[0], found)
        print(f"{output / COMPARISON}, and heat maps beside it if there are several languages")
    return found


def _write_comparison(
    output: Path, values: Mapping[str, PerQueryMetrics], task: str, found: Mapping[str, Comparison]
) -> None:
    described = {
        "command": [f"python -m {jaxir.__name__}.evaluate", *sys.argv[1:]],
        "task": task,
        "reports": list(values),
        "comparison": {key: dataclasses.asdict(one) for key, one in found.items()},
    }
    one = next(iter(values.values()))
    if len(one.languages) > 1 and "cross_lingual" in one.settings:
        apart = len({Path(name).name for name in values}) == len(values)
        maps = {
            Path(name).name if apart else name: summarize(some, task, 0, 0).matrix["map"]
            for name, some in values.items()
        }
        plots.draw_heat_maps(maps, one.languages, f"mAP, {task}", output / "heat_map.png")
    write_json(output / COMPARISON, plain(described))


def _read_report(folder: Path) -> dict[str, Any]:
    try:
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        if not isinstance(report, dict) or not report["systems"]:
            raise ValueError("it holds no figures")
        return {name: report[name] for name in ("fingerprint", "systems", "ranking")}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: holds no {REPORT} of jaxir.evaluate ({error})") from error
