"""Readers: text files and TFDS datasets in, one `Row` at a time out.

A reader is a generator function `(source, directory, make)`, where `make` is the source's
`RowMaker`. It yields rows, None for a row that is left out. It checks what can be seen in one row;
what takes several rows to see (duplicate ids) is checked by `jaxir.data.collection`.

A new reader is a function and one line in `READERS`.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from jaxir.config import Source
from jaxir.data.checks import find_reader
from jaxir.data.cldr import read_cldr
from jaxir.data.files import (
    aligned_lines,
    find_files,
    json_records,
    language_pair,
    parquet_records,
    read_json,
    read_lines,
    source_files,
)
from jaxir.data.rows import Row, RowMaker, read_answers
from jaxir.data.tfds import is_text, tfds_examples
from jaxir.errors import UserError

Reader = Callable[[Source, Path, RowMaker], Iterator[Row | None]]


def _squad_questions(document: Any, file: Path) -> Iterator[tuple[object, dict[str, Any]]]:
    """(paragraph, question object) of a SQuAD document."""
    if not isinstance(document, dict) or not isinstance(document.get("data"), list):
        raise UserError(f"{file}: not in SQuAD format; it must be an object with a list `data`")
    for number, article in enumerate(document["data"], start=1):
        try:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    yield paragraph["context"], dict(question)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{file}: article {number} is not in SQuAD format "
                f"(paragraphs > context, qas): {type(error).__name__} {error}"
            ) from None


def read_squad(source: Source, directory: Path, make: RowMaker) -> Iterator[Row | None]:
    """SQuAD-format JSON: a file, folder or glob.

    Questions without an answer in the file get the whole paragraph, those that SQuAD 2.0 marks as
    unanswerable are left out.
    """
    for file, shared_name, codes in source_files(source, directory, ".json"):
        document = read_json(file)
        for number, (paragraph, question) in enumerate(_squad_questions(document, file), start=1):
            row_id = question.get("id") if source.fields.id else f"{shared_name}:{number}"
            where = f"{file}: question {number}, id {row_id}"
            if question.get("is_impossible"):
                make.counts["unanswerable"] += 1
                continue
            answers = read_answers(question.get("answers"), where)
            yield make.row(where, (question.get("question"), paragraph), codes, row_id, answers)


def record_row(
    make: RowMaker, where: str, record: Mapping[str, Any], number_id: str, codes: tuple[str, str]
) -> Row | None:
    """Make a row of a JSON line or Parquet row, by the field names of the source."""
    fields = make.source.fields
    row_id = record.get(fields.id) if fields.id else number_id
    query_code = record.get(fields.query_language) or codes[0]
    if fields.text:
        texts = (record.get(fields.text),) * 2
        return make.row(where, texts, (query_code, query_code), row_id)
    hard_negatives = record.get(fields.hard_negatives) or []
    if not isinstance(hard_negatives, list):
        raise UserError(f"{where}: {fields.hard_negatives} must be a list of texts")
    return make.row(
        where,
        (record.get(fields.query), record.get(fields.passage)),
        (query_code, record.get(fields.passage_language) or codes[1]),
        row_id,
        read_answers(record.get(fields.answers), where) if fields.answers else [],
        hard_negatives,
    )


def read_jsonl(source: Source, directory: Path, make: RowMaker) -> Iterator[Row | None]:
    """JSON lines: a file, folder or glob, its fields named by `source.fields`.

    A row's own languages override those of the source. Blank lines are not rows.
    """
    for file, shared_name, codes in source_files(source, directory, ".jsonl"):
        for number, where, record in json_records(file):
            yield record_row(make, where, record, f"{shared_name}:{number}", codes)


def read_parquet(source: Source, directory: Path, make: RowMaker) -> Iterator[Row | None]:
    """Parquet: a file, folder or glob; fields as for JSON lines."""
    columns = {value for value in vars(source.fields).values() if value}
    for file, shared_name, codes in source_files(source, directory, ".parquet"):
        for number, where, record in parquet_records(file, columns):
            yield record_row(make, where, record, f"{shared_name}:{number}", codes)


def read_parallel_text(source: Source, directory: Path, make: RowMaker) -> Iterator[Row | None]:
    """Line-aligned files, one a language ("{language}" in the path).

    A line is both query and passage, and its number is its id.
    """
    if "{language}" not in source.path or len(source.languages) < 2:
        raise UserError(
            f"source {source.path!r}: parallel text needs {{language}} in the path and 2 languages"
        )
    paths = (source.path.replace("{language}", code) for code in source.languages)
    for number, lines in aligned_lines([find_files(directory, path)[0] for path in paths]):
        for code, (where, line) in zip(source.languages, lines, strict=True):
            yield make.row(where, (line, line), (code, code), number)


def read_parallel_tsv(source: Source, directory: Path, make: RowMaker) -> Iterator[Row | None]:
    """Parallel text in one file, a column a language, tabs between; line numbers are the ids."""
    for where, line in read_lines(find_files(directory, source.path)[0]):
        columns = line.rstrip("\r\n").split("\t")
        if len(columns) != len(source.languages):
            raise UserError(
                f"{where}: {len(columns)} columns for the {len(source.languages)} languages "
                f"{' '.join(source.languages)}; mend the line or `languages` of the source"
            )
        for code, text in zip(source.languages, columns, strict=True):
            yield make.row(where, (text, text), (code, code), where.rpartition(":")[2])


def read_line_aligned(source: Source, directory: Path, make: RowMaker) -> Iterator[Row | None]:
    """A folder with a file of queries and a file of passages, line by line.

    `fields.query` and `fields.passage` are the names of the two files; line numbers are the ids.
    """
    codes = language_pair(source)
    names = (source.fields.query, source.fields.passage)
    files = [find_files(directory, f"{source.path}/{name}")[0] for name in names]
    for number, ((where, query), (_, passage)) in aligned_lines(files):
        yield make.row(where, (query, passage), codes, number)


def _has_squad_features(features: Mapping[str, Any]) -> bool:
    answers = features.get("answers")
    lists = {"text": (None,), "answer_start": (None,)}
    return all(is_text(features.get(name)) for name in ("question", "context")) and (
        answers is None
        or (isinstance(answers.shape, Mapping) and lists.items() <= answers.shape.items())
    )


def read_tfds(source: Source, directory: Path, make: RowMaker) -> Iterator[Row | None]:
    """A question-answering dataset of TFDS with SQuAD's features: `xquad/ar`, `squad`, `mlqa/ar`.

    It is looked up in `directory`, then in TFDS's own data folder; TFDS fetches what is missing.
    """
    codes = language_pair(source)
    needed = "the texts question and context, and if any, lists of answers: text, answer_start"
    examples = tfds_examples(source.path, source.split, directory, _has_squad_features, needed)
    for number, example in enumerate(examples, start=1):
        where = f"TFDS {source.path}, split {source.split}: example {number}"
        example_id = example.get("id") if source.fields.id else None
        row_id = example_id.decode() if isinstance(example_id, bytes) else number
        encoded = example.get("answers", {"text": [], "answer_start": []})
        starts = [int(start) for start in encoded["answer_start"]]
        answers = {"text": [text.decode() for text in encoded["text"]], "answer_start": starts}
        texts = (example["question"].decode(), example["context"].decode())
        yield make.row(where, texts, codes, row_id, read_answers(answers, where))


READERS: dict[str, Reader] = {
    "squad": read_squad,
    "jsonl": read_jsonl,
    "parquet": read_parquet,
    "parallel_text": read_parallel_text,
    "parallel_tsv": read_parallel_tsv,
    "line_aligned": read_line_aligned,
    "tfds": read_tfds,
    "cldr": read_cldr,
}


def read_rows(
    source: Source, directory: Path, passage_unit: str, counts: Counter[str]
) -> Iterator[Row]:
    """Rows of a source.

    Args:
        source: where they are.
        directory: relative paths of the source are looked up here.
        passage_unit: one of `jaxir.config.PASSAGE_UNITS`.
        counts: what is repaired or left out (see `RowMaker`) is added to it.

    Raises:
        UserError: names file and line, row or id, and how to mend it.
    """
    make = RowMaker(source, passage_unit, counts)
    rows = find_reader(READERS, source.reader)(source, directory, make)
    for row in islice(rows, source.skip, None):
        if row is not None:
            yield row
