"""MIRACL: passages of Wikipedia that answer a question in the same language (arXiv 2210.09984).

Monolingual, a language at a time, on the development set. The folder holds what the hub's
`miracl/miracl` and `miracl/miracl-corpus` hold:

    miracl-v1.0-sw/topics/topics.miracl-v1.0-sw-dev.tsv   id, question
    miracl-v1.0-sw/qrels/qrels.miracl-v1.0-sw-dev.tsv     id, Q0, passage, relevance
    miracl-corpus-v1.0-sw/docs-0.jsonl.gz ...             {"docid", "title", "text"}
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxir.benchmarks.download import local_dataset
from jaxir.benchmarks.judged import judged_set
from jaxir.data.files import json_records, lines_of
from jaxir.data.texts import Text, passage_of, text_of
from jaxir.errors import UserError
from jaxir.evaluation.dataset import RetrievalDataset

# questions of the development set and passages, from the paper's table 2 and the project's README
MIRACL = {
    "ar": (2_896, 2_061_414),
    "bn": (411, 297_265),
    "de": (305, 15_866_222),
    "en": (799, 32_893_221),
    "es": (648, 10_373_953),
    "fa": (632, 2_207_172),
    "fi": (1_271, 1_883_509),
    "fr": (343, 14_636_953),
    "hi": (350, 506_264),
    "id": (960, 1_446_315),
    "ja": (860, 6_953_614),
    "ko": (213, 1_486_752),
    "ru": (1_252, 9_543_918),
    "sw": (482, 131_924),
    "te": (828, 518_079),
    "th": (733, 542_166),
    "yo": (119, 49_043),
    "zh": (393, 4_934_368),
}
TOPICS, CORPUS = "miracl/miracl", "miracl/miracl-corpus"  # on the hub


def read_miracl(
    directory: str = "", languages: Sequence[str] = (), split: str = "dev", whole: bool = True
) -> Iterator[RetrievalDataset]:
    """Read one language after the other, so that only one is in memory.

    Args:
        directory: the folder; "": downloaded from the hub.
        languages: their codes; none: all.
        split: of topics and judgements.
        whole: the published counts are asked for (of "dev"; other splits have the passages').

    Raises:
        UserError: names the language, file or line that is missing or wrong.
    """
    unknown = [language for language in languages if language not in MIRACL]
    if unknown:
        raise UserError(f"MIRACL has no language {unknown[0]!r}; it has {', '.join(MIRACL)}")
    if len(set(languages)) < len(languages):
        raise UserError(f"--languages {','.join(languages)}: names one twice")
    return (_read_language(directory, language, split, whole) for language in languages or MIRACL)


def _folder(directory: str, hub_name: str, name: str) -> Path:
    folder = local_dataset(directory or hub_name, (f"{name}/*",)) / name
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; MIRACL has it in {hub_name}")
    return folder


def _read_language(directory: str, language: str, split: str, whole: bool) -> RetrievalDataset:
    topics = _folder(directory, TOPICS, f"miracl-v1.0-{language}")
    corpus = _folder(directory, CORPUS, f"miracl-corpus-v1.0-{language}")
    stem = f"miracl-v1.0-{language}-{split}.tsv"
    for file in (topics / "topics" / f"topics.{stem}", topics / "qrels" / f"qrels.{stem}"):
        if not file.is_file():
            raise UserError(f"{file}: no such file; is {split!r} a split of MIRACL {language}?")
    shards = _shards(corpus)
    questions_published, passages_published = MIRACL[language]

    def passages() -> Iterator[Text]:
        count = 0
        for _, where, row in itertools.chain.from_iterable(map(json_records, shards)):
            count += 1
            yield Text(text_of(row, "docid", where), passage_of(row, where), language)
        if whole and count != passages_published:  # before a judgement misses one of them
            raise UserError(
                f"{corpus}: {count:,} passages, but MIRACL has {passages_published:,}: it is not "
                "whole (--allow_partial reads it as a part)"
            )

    name = f"MIRACL {language}" + ("" if split == "dev" else f" {split}")
    task = judged_set(
        name if whole else f"{name} (partial)",
        _topics(topics / "topics" / f"topics.{stem}", language),
        passages(),
        topics / "qrels" / f"qrels.{stem}",
        partial=not whole,
    )
    if whole and split == "dev" and len(task.queries) != questions_published:
        raise UserError(
            f"{topics}: {len(task.queries):,} judged questions, but MIRACL has "
            f"{questions_published:,}: it is not whole (--allow_partial reads it as a part)"
        )
    return task


def _topics(file: Path, language: str) -> Iterator[Text]:
    for where, line in lines_of(file):
        if not line.strip():
            continue
        fields = line.rstrip("\r\n").split("\t")
        if len(fields) != 2:
            raise UserError(
                f"{where}: columns: {len(fields)}; an id and a question are needed, a tab between"
            )
        yield Text(fields[0], fields[1], language)


def _shards(corpus: Path) -> list[Path]:
    """The corpus's files in the order of their numbers; none is missing or there twice."""
    shards: dict[int, Path] = {}
    for file in sorted(corpus.iterdir()):
        match = re.fullmatch(r"docs-(\d+)\.jsonl(\.gz)?", file.name)
        if match:
            other = shards.setdefault(int(match[1]), file)
            if other != file:
                raise UserError(f"{corpus}: remove one of {other.name} and {file.name}")
    for number in range(max(shards, default=0)):
        if number not in shards:
            raise UserError(f"{corpus}: docs-{number} is missing")
    if not shards:
        raise UserError(f"{corpus}: holds no docs-0.jsonl.gz")
    return [shards[number] for number in sorted(shards)]
