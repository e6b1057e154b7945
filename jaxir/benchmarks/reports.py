"""The evaluation of a model on a benchmark, from its name to the report."""

import dataclasses
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from jaxir.benchmarks.download import cache_folder
from jaxir.benchmarks.registry import Benchmark, read_benchmark
from jaxir.benchmarks.report_folder import REPORT, is_report, write_report_files
from jaxir.benchmarks.report_summary import print_report
from jaxir.benchmarks.results import BenchmarkResults, run_benchmark
from jaxir.errors import UserError
from jaxir.evaluation.dataset import SETTINGS
from jaxir.evaluation.ranking import RankingOptions
from jaxir.evaluation.settings import json_value
from jaxir.evaluation.significance import compare, confidence_intervals
from jaxir.models.trained import ModelSettings, TrainedModel
from jaxir.retrieval.chunks import data_mesh
from jaxir.retrieval.text_encoder import TextEncoder
from jaxir.retrieval.vectors import DTYPES
from jaxir.runtime.files import check_target, replacing, write_json
from jaxir.runtime.versions import made_with

logger = logging.getLogger(__name__)


def evaluate(
    model: str,
    read: Callable[[str], TrainedModel],
    benchmark: Benchmark,
    output: Path,
    ranking: RankingOptions,
    settings: ModelSettings,
    *,
    runs: tuple[str, ...],
    with_bm25: bool,
    resamples: int,
) -> None:
    """Evaluate a model, print the tables and write the report.

    Args:
        model: its name or folder.
        read: reads a model by that name.
        benchmark: to evaluate on.
        output: folder for the report.
        ranking: depth, dtype and precision of the search.
        settings: that differ from the model's own.
        runs: settings of which run files are written.
        with_bm25: evaluate BM25 too.
        resamples: of the bootstrap.

    Raises:
        UserError: an option is impossible, a file of model or benchmark is missing or damaged, or
            the output holds something else. No report is written.
    """
    began = time.perf_counter()
    output = output.absolute()
    _check(output, ranking, runs)
    datasets = read_benchmark(benchmark)
    reading = time.perf_counter() - began
    trained = read(model).adjusted(settings)
    with jax.set_mesh(data_mesh()):
        encoder = TextEncoder(trained, settings.batch_tokens)
        loading = time.perf_counter() - began - reading
        results = run_benchmark(
            encoder,
            model,
            datasets,
            ranking,
            with_bm25=with_bm25,
            with_runs=bool(runs),
            cache=cache_folder() / "tokens",
        )
    seconds = results.seconds | {"loading": loading}
    seconds["reading"] += reading
    start = time.perf_counter()
    report = _describe(model, trained, benchmark, ranking, encoder.batch_tokens)
    report |= _results_to_json(model, results, resamples)
    seconds["intervals and p values"] = time.perf_counter() - start
    with replacing(output) as folder:
        start = time.perf_counter()
        write_report_files(folder, model, results, runs)
        seconds["writing"] = time.perf_counter() - start
        seconds["all"] = time.perf_counter() - began
        write_json(folder / REPORT, report | {"seconds": seconds})
    print_report(model, report | {"seconds": seconds}, output)


def _check(output: Path, ranking: RankingOptions, runs: tuple[str, ...]) -> None:
    check_target(output, "report", is_report)
    ranking.check()
    for name, value, allowed in (
        ("index_dtype", ranking.dtype, DTYPES),
        *(("runs", run, SETTINGS) for run in runs),
    ):
        if value not in allowed:
            raise UserError(f"--{name} {value}: must be one of {', '.join(allowed)}")
    if "cross_lingual" in runs and not ranking.depth:
        raise UserError("--runs cross_lingual: needs --depth, the passages kept of each language")


def _describe(
    model: str,
    trained: TrainedModel,
    benchmark: Benchmark,
    ranking: RankingOptions,
    batch_tokens: int,
) -> dict[str, Any]:
    """All that is needed to repeat the evaluation."""
    text_fields = ("query_prefix", "passage_prefix", "max_query_tokens", "max_passage_tokens")
    return {
        "command": ["python -m jaxir.evaluate", *sys.argv[1:]],
        **made_with(),
        "model": {
            "name": model,
            "sha256": trained.weights_digest(),
            **{name: getattr(trained, name) for name in text_fields},
            "batch_tokens": batch_tokens,
            "shape": dataclasses.asdict(trained.config),
        },
        "benchmark": dataclasses.asdict(benchmark),
        "ranking": dataclasses.asdict(ranking),
    }


def _results_to_json(model: str, results: BenchmarkResults, resamples: int) -> dict[str, Any]:
    """The results, with confidence intervals and the tests against the other systems."""
    own_values = results.systems[model].values
    logger.info("intervals of %s bootstrap samples, and p values", f"{resamples:,}")
    intervals = confidence_intervals(own_values.metric_sums(), resamples)
    tests = {
        name: compare(report.values, own_values)
        for name, report in results.systems.items()
        if name != model
    }
    return {
        "fingerprint": results.fingerprint,
        "queries_without_relevant": results.queries_without_relevant,
        "empty_passages": results.empty_passages,
        "resamples": resamples,
        "systems": {name: report.to_dict() for name, report in results.systems.items()},
        "intervals": json_value(intervals),
        "against": {
            name: {key: dataclasses.asdict(test) for key, test in of_system.items()}
            for name, of_system in tests.items()
        },
        "language_shares": {
            str(k): json_value(share) for k, share in results.language_shares.items()
        },
        "pool_shares": json_value(results.pool_shares),
    }
