"""A collection of one's own, in BEIR's files (arXiv 2104.08663).

    corpus.jsonl    {"_id": ..., "title": ..., "text": ...}
    queries.jsonl   {"_id": ..., "text": ...}
    qrels/test.tsv  query-id, corpus-id, score

A corpus or queries in several languages name each row's in `language`; queries that ask the same in
different languages share a `question`. The first two files may be gzipped.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from jaxir.benchmarks.download import local_dataset
from jaxir.benchmarks.judged import judged_set
from jaxir.data.files import json_records
from jaxir.data.texts import Text, language_of, passage_of, text_of
from jaxir.errors import UserError
from jaxir.evaluation.dataset import RetrievalDataset

UNKNOWN_LANGUAGE = "und"  # ISO 639's code for it


def read_beir(directory: str, split: str = "test", language: str = "") -> RetrievalDataset:
    """Read a folder, or a dataset of the hub, in BEIR's layout.

    Args:
        directory: the folder, or OWNER/NAME.
        split: which judgements: `qrels/SPLIT.tsv`.
        language: of rows that name none.

    Raises:
        UserError: names the file, line or id that is wrong.
    """
    folder = local_dataset(directory, ("corpus.jsonl*", "queries.jsonl*", "qrels/*.tsv"))
    qrels = folder / "qrels" / f"{split}.tsv"
    if not qrels.is_file():
        there = ", ".join(sorted(file.stem for file in qrels.parent.glob("*.tsv"))) or "none"
        raise UserError(f"{qrels}: no such file; --split takes one of: {there}")

    def rows(stem: str, text: str) -> Iterator[Text]:
        for _, where, row in json_records(_file(folder, stem)):
            spoken = str(row.get("language") or language or UNKNOWN_LANGUAGE)
            body = passage_of(row, where) if text == "passage" else text_of(row, "text", where)
            question = "" if row.get("question") is None else str(row["question"])
            yield Text(text_of(row, "_id", where), body, language_of(spoken, where), question)

    name = Path(os.path.abspath(directory)).name  # a folder of the hub's is called by its commit
    return judged_set(name, rows("queries", "query"), rows("corpus", "passage"), qrels)


def _file(folder: Path, stem: str) -> Path:
    for name in (f"{stem}.jsonl", f"{stem}.jsonl.gz"):
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder}: {stem}.jsonl is missing; a collection needs it")
