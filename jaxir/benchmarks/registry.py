"""The benchmarks by name, and a reader for each."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from jaxir.benchmarks.beir import read_beir
from jaxir.benchmarks.cldr import cldr_dataset
from jaxir.benchmarks.download import local_dataset, xquad_r_folder
from jaxir.benchmarks.miracl import read_miracl
from jaxir.benchmarks.xquad_r import read_mlqa_r, read_xquad_r
from jaxir.errors import UserError
from jaxir.evaluation.dataset import RetrievalDataset


@dataclass(frozen=True)
class Benchmark:
    """A benchmark's name and the options of its reader, which are flags of the same names."""

    name: str  # of BENCHMARKS, or a folder or hub name in BEIR's layout
    directory: str = ""  # of its files; "": downloaded
    languages: tuple[str, ...] = ()  # none: all
    split: str = ""  # "": the one that papers report
    passage: str = "sentence"  # of XQuAD-R and MLQA-R: or "sentence_with_paragraph"
    allow_partial: bool = False  # read files with fewer texts than published, as "(partial)"


def _xquad_r(benchmark: Benchmark) -> Iterator[RetrievalDataset]:
    folder = _folder(benchmark) if benchmark.directory else xquad_r_folder()
    return iter([read_xquad_r(folder, benchmark.passage, not benchmark.allow_partial)])


def _mlqa_r(benchmark: Benchmark) -> Iterator[RetrievalDataset]:
    if not benchmark.directory:
        raise UserError("--directory is missing: the folder with MLQA-R's ar.json ... zh.json")
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

# the options of each reader, and of a folder in BEIR's layout
OPTIONS = {
    "xquad_r": ("directory", "passage", "allow_partial"),
    "mlqa_r": ("directory", "passage", "allow_partial"),
    "miracl": ("directory", "languages", "split", "allow_partial"),
    "cldr": ("languages",),
}
BEIR_OPTIONS = ("languages", "split")


def read_benchmark(benchmark: Benchmark) -> Iterator[RetrievalDataset]:
    """The benchmark's datasets: one, or one a language if each has a collection of its own.

    Raises:
        UserError: an option does not apply, or a file is missing, incomplete or wrong.
    """
    options = OPTIONS.get(benchmark.name, BEIR_OPTIONS)
    for option in dataclasses.fields(benchmark)[1:]:
        if getattr(benchmark, option.name) != option.default and option.name not in options:
            raise UserError(
                f"--{option.name}: {benchmark.name} does not take it, only "
                f"{', '.join(f'--{name}' for name in options)}"
            )
    if benchmark.name in BENCHMARKS:
        return BENCHMARKS[benchmark.name](benchmark)
    if not (Path(benchmark.name).is_dir() or benchmark.name.count("/") == 1):
        raise UserError(
            f"--benchmark {benchmark.name}: one of {', '.join(BENCHMARKS)}, or a folder with "
            "corpus.jsonl, queries.jsonl and qrels/"
        )
    if len(benchmark.languages) > 1:
        raise UserError(
            "--languages: give one language or none; in files of several languages each row names "
            "its own in `language`"
        )
    language = "".join(benchmark.languages)
    return iter([read_beir(benchmark.name, benchmark.split or "test", language)])
