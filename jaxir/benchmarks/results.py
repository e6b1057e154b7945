"""A model's results on a benchmark: encoding, ranking and measuring of each dataset.

Dimension key: N languages.
"""

import dataclasses
import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jaxir.benchmarks.bm25 import bm25
from jaxir.evaluation.dataset import RetrievalDataset
from jaxir.evaluation.measuring import Evaluation, evaluate_embeddings, join_reports
from jaxir.evaluation.ranking import Ranking, RankingOptions
from jaxir.evaluation.settings import SettingsReport
from jaxir.evaluation.trec import check_ids
from jaxir.progress import still_at
from jaxir.retrieval.text_encoder import TextEncoder

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class BenchmarkResults:
    """The metrics and rankings of a model on a benchmark, and BM25's metrics."""

    systems: dict[str, SettingsReport]  # by the model's name and "BM25"
    runs: list[tuple[RetrievalDataset, Ranking]] = field(default_factory=list)
    language_shares: dict[int, Float[np.ndarray, "N N"]] = field(default_factory=dict)  # by depth
    pool_shares: Float[np.ndarray, "N"] = field(  # of each language in the multilingual pool
        default_factory=lambda: np.empty(0)
    )
    empty_passages: int = 0
    queries_without_relevant: int = 0  # they count in no metric
    fingerprint: str = ""  # of texts, ids and judgements: equal if results can be compared
    seconds: dict[str, float] = field(default_factory=dict)


def run_benchmark(
    encoder: TextEncoder,
    model: str,
    datasets: Iterable[RetrievalDataset],
    ranking: RankingOptions,
    *,
    with_bm25: bool,
    with_runs: bool,
    cache: Path,
) -> BenchmarkResults:
    """Encode, rank and measure each dataset, and join the results of datasets of one language.

    Args:
        encoder: the model.
        model: its name.
        datasets: from `read_benchmark`.
        ranking: depth, dtype and precision of the search.
        with_bm25: measure BM25 too.
        with_runs: check that ids fit into run files.
        cache: folder of token ids.

    Raises:
        UserError: an embedding is not finite, or an id does not fit into a run file.
    """
    reports: dict[str, list[SettingsReport]] = {}
    results = BenchmarkResults({})
    digest = hashlib.sha256()
    timed = partial(_timed, results.seconds)
    remaining = iter(datasets)
    while True:
        with timed("reading"), still_at("reading"):
            dataset = next(remaining, None)
        if dataset is None:
            break
        if with_runs:
            check_ids(dataset)
        measured = _measure_dataset(encoder, dataset, ranking, cache, timed)
        reports.setdefault(model, []).append(measured.report)
        if with_bm25:
            with timed("BM25"), still_at(f"{dataset.name}: BM25"):
                logger.info("%s: BM25", dataset.name)
                reports.setdefault("BM25", []).append(bm25(dataset, depth=ranking.depth))
        digest.update(_fingerprint(dataset))
        _add(results, dataset, measured)
        del dataset, measured  # the next language needs the memory
    if len(reports[model]) > 1:  # each language has its own pool: nothing is multilingual
        results.language_shares, results.pool_shares = {}, np.empty(0)
    title = ", ".join(report.name for report in reports[model])
    results.systems = {system: join_reports(parts, title) for system, parts in reports.items()}
    results.fingerprint = digest.hexdigest()
    return results


def _measure_dataset(
    encoder: TextEncoder,
    dataset: RetrievalDataset,
    ranking: RankingOptions,
    cache: Path,
    timed: Callable[[str], AbstractContextManager],
) -> Evaluation:
    with timed("encoding"):
        queries = encoder.encode_queries(
            dataset.queries, progress=f"{dataset.name}: queries", cache=cache
        )
        passages = encoder.encode_passages(
            dataset.passages, progress=f"{dataset.name}: passages", cache=cache
        )
    with timed("ranking and measuring"), still_at(f"{dataset.name}: ranking"):
        size = f"{len(dataset.passages):,} passages for {len(dataset.queries):,} queries"
        logger.info("%s: ranking %s", dataset.name, size)
        return evaluate_embeddings(queries, passages, dataset, ranking)


def _add(results: BenchmarkResults, dataset: RetrievalDataset, measured: Evaluation) -> None:
    results.empty_passages += sum(not text.strip() for text in dataset.passages)
    results.queries_without_relevant += int((dataset.gains == 0).all(axis=1).sum())
    results.language_shares = measured.shares
    counts = np.bincount(dataset.passage_language, minlength=len(dataset.languages))
    results.pool_shares = counts / counts.sum()
    # run files hold ids; the texts, which may be many, are let go
    ids_only = dataclasses.replace(dataset, queries=dataset.query_ids, passages=dataset.passage_ids)
    results.runs.extend((ids_only, run) for run in measured.rankings)


@contextmanager
def _timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    """Add the duration of the block to a part's."""
    start = time.perf_counter()
    yield
    seconds[part] = seconds.get(part, 0.0) + time.perf_counter() - start


def _fingerprint(dataset: RetrievalDataset) -> bytes:
    digest = hashlib.sha256()
    for texts in (
        *(dataset.query_ids, dataset.passage_ids, dataset.queries, dataset.passages),
        dataset.languages,
    ):
        for text in texts:
            digest.update(text.encode() + b"\0")
    for numbers in (
        *(dataset.relevant, dataset.gains, dataset.query_language, dataset.passage_language),
    ):
        digest.update(np.asarray(numbers, np.int64).tobytes())
    # question numbers count only by which queries share one
    digest.update(np.unique(dataset.question, return_inverse=True)[1].astype(np.int64).tobytes())
    return digest.digest()
