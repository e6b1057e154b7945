"""Files that are whole or not there."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def writing(path: Path, mode: str = "w") -> Iterator[IO]:
    """A file that takes its name when all is written, or vanishes."""
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        with unfinished.open(mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON."""
    with writing(path) as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
