"""MIRACL: passages of Wikipedia that answer a question in the same language (arXiv 2210.09984).

Retrieval is monolingual, a dataset for each language, on the development set. The folder has the
files of `miracl/miracl` and `miracl/miracl-corpus` on the hub:

    miracl-v1.0-sw/topics/topics.miracl-v1.0-sw-dev.tsv   id, question
    miracl-v1.0-sw/qrels/qrels.miracl-v1.0-sw-dev.tsv     id, Q0, passage, relevance
    miracl-corpus-v1.0-sw/docs-0.jsonl.gz ...             {"docid", "title", "text"}
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxir.benchmarks.download import local_dataset
from jaxir.benchmarks.judged import judged_dataset
from jaxir.data.files import json_records, read_lines
from jaxir.data.texts import Text, text_field, title_and_text
from jaxir.errors import UserError
from jaxir.evaluation.dataset import RetrievalDataset

# numbers of questions of the development set and of passages, from the paper's table 2 and the
# project's README
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
    """Read languages one after the other, each when it is asked for: only one is in memory.

    Args:
        directory: the folder; "": downloaded from the hub.
        languages: their codes; empty: all.
        split: of topics and judgements.
        whole: require the published counts, of passages and in "dev" also of questions.

    Raises:
        UserError: names the language, file or line that is missing or wrong.
    """
    unknown = [language for language in languages if language not in MIRACL]
    if unknown:
        raise UserError(f"MIRACL has no language {unknown[0]!r}; it has {', '.join(MIRACL)}")
    if len(set(languages)) < len(languages):
        raise UserError(f"--languages {','.join(languages)}: names a language twice")
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
            yield Text(text_field(row, "docid", where), title_and_text(row, where), language)
        # checked here, before a judgement of an absent passage gives a less clear error
        if whole and count != passages_published:
            raise UserError(
                f"{corpus}: {count:,} passages, but MIRACL has {passages_published:,}: it is "
                "incomplete; --allow_partial reads it anyway"
            )

    name = f"MIRACL {language}" + ("" if split == "dev" else f" {split}")
    dataset = judged_dataset(
        name if whole else f"{name} (partial)",
        _topics(topics / "topics" / f"topics.{stem}", language),
        passages(),
        topics / "qrels" / f"qrels.{stem}",
        partial=not whole,
    )
    if whole and split == "dev" and len(dataset.queries) != questions_published:
        raise UserError(
            f"{topics}: {len(dataset.queries):,} judged questions, but MIRACL has "
            f"{questions_published:,}: it is incomplete; --allow_partial reads it anyway"
        )
    return dataset


def _topics(file: Path, language: str) -> Iterator[Text]:
    for where, line in read_lines(file):
        if not line.strip():
            continue
        fields = line.rstrip("\r\n").split("\t")
        if len(fields) != 2:
            raise UserError(
                f"{where}: columns: {len(fields)}; an id and a question are needed, a tab between"
            )
        yield Text(fields[0], fields[1], language)


def _shards(corpus: Path) -> list[Path]:
    """The corpus's files in the order of their numbers.

    Raises:
        UserError: a number is missing, or there are two files of it.
    """
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
