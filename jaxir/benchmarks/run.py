"""A benchmark from its files to its figures.

Dimension key: N languages.
"""

import dataclasses
import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jaxir.benchmarks.beir import read_beir
from jaxir.benchmarks.bm25 import bm25
from jaxir.benchmarks.cldr import cldr_dataset
from jaxir.benchmarks.download import local_dataset, xquad_r_folder
from jaxir.benchmarks.lareqa import read_mlqa_r, read_xquad_r
from jaxir.benchmarks.miracl import read_miracl
from jaxir.errors import UserError
from jaxir.evaluation.dataset import RetrievalDataset
from jaxir.evaluation.measuring import Ranking, Run, join, measure
from jaxir.evaluation.settings import SettingsReport
from jaxir.evaluation.trec import check_ids
from jaxir.progress import still_at
from jaxir.retrieval.text_encoder import TextEncoder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Benchmark:
    """What is to be read."""

    name: str  # of BENCHMARKS, or a folder or hub name in BEIR's layout
    directory: str = ""  # where it lies; "": downloaded
    languages: tuple[str, ...] = ()  # none: all
    split: str = ""  # "": the one that is usually reported
    passage: str = "sentence"  # of XQuAD-R and MLQA-R: or "sentence_with_paragraph"
    allow_partial: bool = False  # less than the published counts will do, and is called a part


def _xquad_r(benchmark: Benchmark) -> Iterator[RetrievalDataset]:
    folder = _folder(benchmark) if benchmark.directory else xquad_r_folder()
    return iter([read_xquad_r(folder, benchmark.passage, not benchmark.allow_partial)])


def _mlqa_r(benchmark: Benchmark) -> Iterator[RetrievalDataset]:
    if not benchmark.directory:
        raise UserError("--directory is missing: where MLQA-R's ar.json ... zh.json lie")
    whole = not benchmark.allow_partial
    return iter([read_mlqa_r(_folder(benchmark), benchmark.passage, whole)])


def _folder(benchmark: Benchmark) -> Path:
    return local_dataset(benchmark.directory, ("*.json",))


def _miracl(benchmark: Benchmark) -> Iterator[RetrievalDataset]:
    whole = not benchmark.allow_partial
    split = benchmark.split or "dev"
    return read_miracl(benchmark.directory, benchmark.languages, split, whole)


def _cldr(benchmark: Benchmark) -> Iterator[RetrievalDataset]:
    return iter([cldr_dataset(benchmark.languages)])


BENCHMARKS: dict[str, Callable[[Benchmark], Iterator[RetrievalDataset]]] = {
    "xquad_r": _xquad_r,
    "mlqa_r": _mlqa_r,
    "miracl": _miracl,
    "cldr": _cldr,
}


# what each of them can be told, besides its name; and what files in BEIR's layout can
TAKEN = {
    "xquad_r": ("directory", "passage", "allow_partial"),
    "mlqa_r": ("directory", "passage", "allow_partial"),
    "miracl": ("directory", "languages", "split", "allow_partial"),
    "cldr": ("languages",),
}
TAKEN_OF_FILES = ("languages", "split")


def read_benchmark(benchmark: Benchmark) -> Iterator[RetrievalDataset]:
    """The benchmark's tasks: one, or one a language where each has a collection of its own.

    Raises:
        UserError: names what is missing, wrong, not the whole, or does not belong together.
    """
    taken = TAKEN.get(benchmark.name, TAKEN_OF_FILES)
    for option in dataclasses.fields(benchmark)[1:]:
        if getattr(benchmark, option.name) != option.default and option.name not in taken:
            raise UserError(
                f"--{option.name}: {benchmark.name} takes no such thing, but "
                f"{', '.join(f'--{name}' for name in taken)}"
            )
    if benchmark.name in BENCHMARKS:
        return BENCHMARKS[benchmark.name](benchmark)
    if not (Path(benchmark.name).is_dir() or benchmark.name.count("/") == 1):
        raise UserError(
            f"--benchmark {benchmark.name}: one of {', '.join(BENCHMARKS)}, or a folder with "
            "corpus.jsonl, queries.jsonl and qrels/"
        )
    if len(benchmark.languages) > 1:
        raise UserError("--languages: a collection of files names each row's `language` itself")
    language = "".join(benchmark.languages)
    return iter([read_beir(benchmark.name, benchmark.split or "test", language)])


@dataclass(eq=False)
class Result:
    """A model's figures on a benchmark, beside BM25's, and its rankings."""

    systems: dict[str, SettingsReport]
    runs: list[tuple[RetrievalDataset, Run]] = field(default_factory=list)
    shares: dict[int, Float[np.ndarray, "N N"]] = field(default_factory=dict)
    pool: Float[np.ndarray, "N"] = field(
        default_factory=lambda: np.empty(0)
    )  # its languages' shares
    empty_passages: int = 0
    unanswered: int = 0  # queries without a right answer, which count nowhere
    fingerprint: str = ""  # of ids and judgements: equal where results can be compared
    seconds: dict[str, float] = field(default_factory=dict)


def run_benchmark(
    encoder: TextEncoder,
    name: str,
    tasks: Iterable[RetrievalDataset],
    ranking: Ranking,
    *,
    with_bm25: bool,
    with_runs: bool,
    cache: Path,
) -> Result:
    """Encode, rank and measure every task, and join those that have languages of their own.

    Args:
        encoder: the model.
        name: what it is called.
        tasks: of `read_benchmark`.
        ranking: how.
        with_bm25: measure BM25 too.
        with_runs: ids are to stand in run files, which not all can.
        cache: where token ids are kept.

    Raises:
        UserError: an embedding is not finite, or the parts do not fit together.
    """
    reports: dict[str, list[SettingsReport]] = {}
    result = Result({})
    digest = hashlib.sha256()
    timed = partial(_timed, result.seconds)
    remaining = iter(tasks)
    while True:
        with timed("reading"), still_at("reading"):
            task = next(remaining, None)
        if task is None:
            break
        if with_runs:
            check_ids(task)
        with timed("encoding"):
            queries = encoder.encode_queries(
                task.queries, progress=f"{task.name}: queries", cache=cache
            )
            passages = encoder.encode_passages(
                task.passages, progress=f"{task.name}: passages", cache=cache
            )
        with timed("ranking and measuring"), still_at(f"{task.name}: ranking"):
            size = f"{len(task.passages):,} passages for {len(task.queries):,} queries"
            logger.info("%s: ranking %s", task.name, size)
            measured = measure(queries, passages, task, ranking)
        reports.setdefault(name, []).append(measured.report)
        if with_bm25:
            with timed("BM25"), still_at(f"{task.name}: BM25"):
                logger.info("%s: BM25", task.name)
                reports.setdefault("BM25", []).append(bm25(task, depth=ranking.depth))
        digest.update(_fingerprint(task))
        result.empty_passages += sum(not text.strip() for text in task.passages)
        result.unanswered += int((task.gains == 0).all(axis=1).sum())
        result.shares = measured.shares
        counts = np.bincount(task.passage_language, minlength=len(task.languages))
        result.pool = counts / counts.sum()
        # texts are of no use to a run file, and may be many
        slim = dataclasses.replace(task, queries=task.query_ids, passages=task.passage_ids)
        result.runs.extend((slim, run) for run in measured.runs)
        del task, queries, passages, measured  # the next language needs the memory
    if len(reports[name]) > 1:  # of pools that are searched apart
        result.shares, result.pool = {}, np.empty(0)
    title = ", ".join(one.name for one in reports[name])
    result.systems = {system: join(many, title) for system, many in reports.items()}
    result.fingerprint = digest.hexdigest()
    return result


@contextmanager
def _timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    """Add what the part takes."""
    began = time.perf_counter()
    yield
    seconds[part] = seconds.get(part, 0.0) + time.perf_counter() - began


def _fingerprint(task: RetrievalDataset) -> bytes:
    digest = hashlib.sha256()
    for texts in (task.query_ids, task.passage_ids, task.queries, task.passages, task.languages):
        for text in texts:
            digest.update(text.encode() + b"\0")
    for numbers in (task.relevant, task.gains, task.query_language, task.passage_language):
        digest.update(np.asarray(numbers, np.int64).tobytes())
    digest.update(np.unique(task.question, return_inverse=True)[1].astype(np.int64).tobytes())
    return digest.digest()
