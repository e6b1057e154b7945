"""Files of a source: found by path, folder or glob, and read by lines or as JSON.

Every mistake in them is a `UserError` that names file and line.
"""

import gzip
import json
import lzma
import os
import zlib
from collections.abc import Iterator, Sequence, Set
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any, cast

from jaxir.config import Source
from jaxir.errors import UserError

MAX_LINE = 2**24  # bytes; longer lines are those of binary files or files without line breaks


def resolve(directory: Path, path: str, suffix: str = "") -> list[Path]:
    """The files that a path, folder or glob names, in alphabetical order.

    Args:
        directory: where a relative path starts.
        path: of a file, of a folder, or a glob.
        suffix: of the files of a folder to take, e.g. ".json"; "": a folder is a mistake.

    Raises:
        UserError: there is no such file, or one of them is empty.
    """
    whole = directory / path
    if whole.is_file():
        found = [whole]
    elif whole.is_dir():
        found = sorted(whole.glob(f"*{suffix}")) if suffix else []
    else:
        base = Path(whole.anchor)
        found = sorted(file for file in base.glob(str(whole.relative_to(base))) if file.is_file())
    if not found:
        what = f"no *{suffix} file in this folder" if whole.is_dir() and suffix else "no such file"
        raise UserError(f"{whole}: {what}; mend the path of the source or data.directory")
    for file in found:
        if file.stat().st_size == 0:
            raise UserError(f"{file}: empty file; remove it or fetch it again")
    return found


def files_of(
    source: Source, directory: Path, suffix: str
) -> Iterator[tuple[Path, str, tuple[str, str]]]:
    """Each file, a name that its parallel files share, and the codes of its two languages.

    A code is "" where the source names none. "{language}" in the path stands for each of the
    source's languages in turn; without it they are those of the queries and of the passages.
    """
    if "{language}" in source.path:
        for code in source.languages:
            path = source.path.replace("{language}", code)
            for number, file in enumerate(resolve(directory, path, suffix), start=1):
                yield file, str(number), (code, code)
        if not source.languages:
            raise UserError(f"source {source.path}: set `languages`, to fill in {{language}}")
        return
    codes = two_languages(source)
    for file in resolve(directory, source.path, suffix):
        yield file, os.path.relpath(file, directory), codes


def two_languages(source: Source) -> tuple[str, str]:
    """The source's codes for the languages of its queries and its passages, "" if it has none.

    Raises:
        UserError: it names more than two.
    """
    if len(source.languages) > 2:
        raise UserError(
            f"source {source.path}: {len(source.languages)} languages; name that of the queries "
            "and that of the passages, or put {language} into the path"
        )
    return (source.languages[0], source.languages[-1]) if source.languages else ("", "")


def _opened(file: Path) -> IO[bytes]:
    match file.suffix:
        case ".gz":
            return cast(IO[bytes], gzip.open(file))
        case ".xz":
            return lzma.open(file)
    return file.open("rb")


def lines_of(file: Path) -> Iterator[tuple[str, str]]:
    """The lines of a UTF-8 file, each after its place "file:number"; .gz and .xz are unpacked.

    Raises:
        UserError: names file and line.
    """
    with _opened(file) as lines:
        for number in range(1, 2**63):
            try:
                line = lines.readline(MAX_LINE + 1)
            except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
                raise UserError(
                    f"{file}: cut off or damaged after line {number - 1} ({error}); fetch it again"
                ) from None
            if not line:
                return
            where = f"{file}:{number}"
            if len(line) > MAX_LINE:
                raise UserError(f"{where}: line of over {MAX_LINE:,} bytes; is it a text file?")
            try:
                yield where, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise UserError(f"{where}: not UTF-8 ({error.reason}); convert the file") from None


def parse_json(text: str, where: str) -> Any:
    """What JSON text stands for; line numbers of messages count from where the text begins.

    Raises:
        UserError: names the place, and line and column if the text has several lines.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = f"{where}:{error.lineno}" if "\n" in text.rstrip() else where
        raise UserError(
            f"{line}: invalid JSON ({error.msg}, column {error.colno}); mend it or fetch it again"
        ) from None
    except (RecursionError, ValueError) as error:  # ValueError: a number of thousands of digits
        raise UserError(f"{where}: JSON that cannot be read ({error}); mend it") from None


def json_records(file: Path) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Number, place and object of each line of a JSON lines file; blank lines are no records.

    Raises:
        UserError: names the file and the line that is no object, or the file that is cut off.
    """
    for number, (where, line) in enumerate(lines_of(file), start=1):
        if line.strip():
            record = parse_json(line, where)
            if not isinstance(record, dict):
                raise UserError(f"{where}: a {type(record).__name__}; each line must be an object")
            yield number, where, record


def parquet_records(
    file: Path, wanted: Set[str] = frozenset()
) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Number, place and fields of each row of a Parquet file, read by batches of rows.

    Args:
        file: the file.
        wanted: columns that are read where they are there; none: all.

    Raises:
        UserError: names the file and the last row that could be read.
    """
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        table = pyarrow.parquet.ParquetFile(file)
        columns = [name for name in table.schema_arrow.names if not wanted or name in wanted]
        for batch in table.iter_batches(batch_size=4096, columns=columns):
            for record in batch.to_pylist():
                number += 1
                yield number, f"{file}: row {number}", record
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(
            f"{file}: not readable as Parquet after row {number} ({error}); fetch it again"
        ) from None


def read_json(file: Path) -> Any:
    """What a whole UTF-8 file of JSON stands for.

    Raises:
        UserError: names file and line.
    """
    data = file.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"{file}:{line}: not UTF-8 ({error.reason}); convert the file") from None
    return parse_json(text, str(file))


def aligned_lines(files: Sequence[Path]) -> Iterator[tuple[int, tuple[tuple[str, str], ...]]]:
    """Line number, and (place, line) of each file, of line-aligned files."""
    ended = ("", "")
    together = zip_longest(*(lines_of(file) for file in files), fillvalue=ended)
    for number, lines in enumerate(together, start=1):
        if ended in lines:
            short = files[lines.index(ended)]
            other = next(place for place, _ in lines if place)
            raise UserError(
                f"{other}: {short} ends at line {number - 1}; "
                "parallel files need as many lines as each other"
            )
        yield number, lines
