"""A user's own collection in BEIR's format (arXiv 2104.08663).

    corpus.jsonl    {"_id": ..., "title": ..., "text": ...}
    queries.jsonl   {"_id": ..., "text": ...}
    qrels/test.tsv  query-id, corpus-id, score

In a collection of several languages each row names its own in `language`; queries that ask the same
in different languages share a `question`. The first two files may be gzipped.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from jaxir.benchmarks.download import local_dataset
from jaxir.benchmarks.judged import judged_dataset
from jaxir.data.files import json_records
from jaxir.data.texts import Text, check_language_code, text_field, title_and_text
from jaxir.errors import UserError
from jaxir.evaluation.dataset import RetrievalDataset

UNKNOWN_LANGUAGE = "und"  # ISO 639's code for it


def read_beir(directory: str, split: str = "test", language: str = "") -> RetrievalDataset:
    """Read a folder, or a dataset of the hub, in BEIR's format.

    Args:
        directory: the folder, or OWNER/NAME on the hub.
        split: of the judgements, `qrels/SPLIT.tsv`.
        language: of rows that name none.

    Raises:
        UserError: names the file, line or id that is missing or wrong.
    """
    folder = local_dataset(directory, ("corpus.jsonl*", "queries.jsonl*", "qrels/*.tsv"))
    qrels = folder / "qrels" / f"{split}.tsv"
    if not qrels.is_file():
        splits = ", ".join(sorted(file.stem for file in qrels.parent.glob("*.tsv"))) or "none"
        raise UserError(f"{qrels}: no such file; --split takes one of: {splits}")

    def rows(stem: str, text: str) -> Iterator[Text]:
        for _, where, row in json_records(_file(folder, stem)):
            code = str(row.get("language") or language or UNKNOWN_LANGUAGE)
            body = (
                title_and_text(row, where) if text == "passage" else text_field(row, "text", where)
            )
            question = "" if row.get("question") is None else str(row["question"])
            yield Text(
                text_field(row, "_id", where), body, check_language_code(code, where), question
            )

    # not the folder's name: a dataset of the hub is cached in a folder named by its commit
    name = Path(os.path.abspath(directory)).name
    return judged_dataset(name, rows("queries", "query"), rows("corpus", "passage"), qrels)


def _file(folder: Path, stem: str) -> Path:
    for name in (f"{stem}.jsonl", f"{stem}.jsonl.gz"):
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder}: {stem}.jsonl is missing; a collection needs it")
