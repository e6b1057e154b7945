"""Files of a source: looked up by path, folder or glob, and read by lines or as JSON.

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


def find_files(directory: Path, path: str, suffix: str = "") -> list[Path]:
    """The files that a path, folder or glob names, in alphabetical order.

    Args:
        directory: that a relative path starts from.
        path: of a file, of a folder, or a glob.
        suffix: of the files that are taken from a folder, e.g. ".json"; "": a folder is an error.

    Raises:
        UserError: there is no such file, or one of them is empty.
    """
    full_path = directory / path
    if full_path.is_file():
        files = [full_path]
    elif full_path.is_dir():
        files = sorted(full_path.glob(f"*{suffix}")) if suffix else []
    else:
        root = Path(full_path.anchor)
        pattern = str(full_path.relative_to(root))
        files = sorted(file for file in root.glob(pattern) if file.is_file())
    if not files:
        in_folder = full_path.is_dir() and suffix
        problem = f"no *{suffix} file in this folder" if in_folder else "no such file"
        raise UserError(f"{full_path}: {problem}; mend the path of the source or data.directory")
    for file in files:
        if file.stat().st_size == 0:
            raise UserError(f"{file}: empty file; remove it or fetch it again")
    return files


def source_files(
    source: Source, directory: Path, suffix: str
) -> Iterator[tuple[Path, str, tuple[str, str]]]:
    """Files of a source: path, name shared by parallel files, query and passage language.

    A language is the file's code, "" if the source names none. "{language}" in the path is replaced
    by each of the source's languages; without it they are those of the queries and the passages.
    """
    if "{language}" in source.path:
        for code in source.languages:
            path = source.path.replace("{language}", code)
            # files of other languages have other names: parallel ones share their rank
            for number, file in enumerate(find_files(directory, path, suffix), start=1):
                yield file, str(number), (code, code)
        if not source.languages:
            raise UserError(f"source {source.path}: set `languages`, to fill in {{language}}")
        return
    codes = language_pair(source)
    for file in find_files(directory, source.path, suffix):
        yield file, os.path.relpath(file, directory), codes


def language_pair(source: Source) -> tuple[str, str]:
    """Codes of the languages of a source's queries and passages, "" if it names none.

    Raises:
        UserError: it names more than two.
    """
    if len(source.languages) > 2:
        raise UserError(
            f"source {source.path}: {len(source.languages)} languages; name that of the queries "
            "and that of the passages, or put {language} into the path"
        )
    return (source.languages[0], source.languages[-1]) if source.languages else ("", "")


def _open(file: Path) -> IO[bytes]:
    match file.suffix:
        case ".gz":
            return cast(IO[bytes], gzip.open(file))
        case ".xz":
            return lzma.open(file)
    return file.open("rb")


def read_lines(file: Path) -> Iterator[tuple[str, str]]:
    """Location "file:number" and text of each line of a UTF-8 file; unpacks .gz and .xz.

    Raises:
        UserError: names file and line.
    """
    with _open(file) as lines:
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
    """Parse JSON text; messages count its lines from where it begins.

    Raises:
        UserError: names the location, and line and column if the text has several lines.
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
    """Number, location and object of each line of a JSON lines file; blank lines are skipped.

    Raises:
        UserError: names the file and the line that is no object, or the file that is cut off.
    """
    for number, (where, line) in enumerate(read_lines(file), start=1):
        if line.strip():
            record = parse_json(line, where)
            if not isinstance(record, dict):
                raise UserError(f"{where}: a {type(record).__name__}; each line must be an object")
            yield number, where, record


def parquet_records(
    file: Path, columns: Set[str] = frozenset()
) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Number, location and fields of each row of a Parquet file, read by batches of rows.

    Args:
        file: the file.
        columns: to read, if the file has them; none: all.

    Raises:
        UserError: names the file and the last row that could be read.
    """
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        table = pyarrow.parquet.ParquetFile(file)
        names = [name for name in table.schema_arrow.names if not columns or name in columns]
        for batch in table.iter_batches(batch_size=4096, columns=names):
            for record in batch.to_pylist():
                number += 1
                yield number, f"{file}: row {number}", record
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(
            f"{file}: not readable as Parquet after row {number} ({error}); fetch it again"
        ) from None


def read_json(file: Path) -> Any:
    """Parse a UTF-8 file of JSON.

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
    """Line number, and (location, line) in each file, of line-aligned files."""
    end = ("", "")
    rows = zip_longest(*(read_lines(file) for file in files), fillvalue=end)
    for number, lines in enumerate(rows, start=1):
        if end in lines:
            short = files[lines.index(end)]
            where = next(location for location, _ in lines if location)
            raise UserError(
                f"{where}: {short} ends at line {number - 1}; "
                "parallel files need as many lines as each other"
            )
        yield number, lines
