"""Texts with ids, one a record: of a collection to search, or queries.

JSON lines (`.jsonl`) and Parquet name their fields, as BEIR's files do: `_id` or `id` (also
`docid`), `text`, optionally `title`, which stands before the text, and `language`. Other files are
plain text, one a line. All but Parquet may be gzipped.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxir.data.checks import MAX_TEXT, check_unicode
from jaxir.data.files import json_records, parquet_records, read_lines
from jaxir.errors import UserError

_IDS = ("_id", "id", "docid")


@dataclass(frozen=True, slots=True)
class Text:
    """A query or a passage with its id."""

    id: str
    text: str
    language: str = ""  # a code; "": unknown
    question: str = ""  # what queries of the same question have in common; "": nothing


@dataclass(frozen=True)
class TextFields:
    """Names of a record's fields; "": the usual ones."""

    id: str = ""
    text: str = ""
    language: str = ""


def text_field(row: dict[str, Any], name: str, where: str) -> str:
    """Text of a field.

    Raises:
        UserError: it is missing or something else.
    """
    value = row.get(name)
    if not isinstance(value, str):
        raise UserError(f"{where}: field {name!r} is missing or not a text")
    return check_unicode(value, f"{where}: field {name!r}")


def title_and_text(row: dict[str, Any], where: str) -> str:
    """Title and text of a passage, joined as the field's tools join them."""
    title = text_field(row, "title", where) if row.get("title") else ""
    return f"{title} {text_field(row, 'text', where)}".strip()


def check_language_code(code: object, where: str) -> str:
    """The value, if it looks like the code of a language.

    Raises:
        UserError: it does not.
    """
    if not isinstance(code, str) or not re.fullmatch(r"[\w-]{1,35}", code, re.ASCII):
        raise UserError(f"{where}: language {code!r}: must be a code, e.g. en or zh-Hant")
    return code


def read_texts(
    files: Iterable[Path],
    fields: TextFields = TextFields(),
    *,
    language: str = "",
    drop_empty: bool = False,
) -> Iterator[Text]:
    """Texts of several files, one after the other; one without an id gets its number, from 1.

    Args:
        files: JSON lines, Parquet, or plain text.
        fields: names of the records' fields.
        language: of texts that name none.
        drop_empty: leave out blank texts, which are an error otherwise.

    Raises:
        UserError: names the file, the line or row, and what is wrong with it.
    """
    number = 0
    for file in files:
        for where, record in _records(file, fields):
            number += 1
            text = _parse(record, fields, where, number, language)
            if not text.text.strip():
                if drop_empty:
                    continue
                raise UserError(f"{where}: empty text; remove it, or --drop_empty leaves it out")
            if len(text.text) > MAX_TEXT:
                raise UserError(f"{where}: {len(text.text):,} characters; at most {MAX_TEXT:,}")
            yield text


def _records(file: Path, fields: TextFields) -> Iterator[tuple[str, dict[str, Any]]]:
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    name = file.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        for _, where, record in parquet_records(file):
            yield where, record
    elif name.endswith((".jsonl", ".json", ".ndjson")):
        for _, where, record in json_records(file):
            yield where, record
    else:
        for where, line in read_lines(file):
            if line.strip():
                yield where, {fields.text or "text": line.strip()}


def _parse(
    record: dict[str, Any], fields: TextFields, where: str, number: int, language: str
) -> Text:
    name = fields.id or next((name for name in _IDS if name in record), "")
    text_id = record.get(name, number)
    if isinstance(text_id, bool) or not isinstance(text_id, str | int) or text_id == "":
        raise UserError(f"{where}: the id {text_id!r} is neither a text nor a whole number")
    check_unicode(str(text_id), f"{where}: the id")
    # a field that was named holds all of the text
    text = text_field(record, fields.text, where) if fields.text else title_and_text(record, where)
    code = record.get(fields.language or "language") or language
    return Text(str(text_id), text, check_language_code(code, where) if code else "")
