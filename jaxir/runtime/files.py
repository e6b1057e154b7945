"""Atomic files: whole or not there, on disk or in a bucket."""

import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from etils import epath

from jaxir.errors import UserError

# TensorFlow would take seconds to import, and answers for a bucket that it cannot reach in minutes
os.environ.setdefault("EPATH_USE_TF", "false")


def path_of(name: str | os.PathLike) -> epath.Path:
    """A path on disk, or one in a bucket, `gs://BUCKET/...`.

    Raises:
        UserError: another kind of address, or what reads buckets is not installed.
    """
    scheme = str(name).partition("://")[0] if "://" in str(name) else ""
    if scheme not in ("", "gs"):
        raise UserError(f"{name}: must be a local path or begin with gs://")
    if scheme and importlib.util.find_spec("gcsfs") is None:
        raise UserError(f'{name}: reading buckets needs gcsfs; run: pip install "jaxir[tpu]"')
    if scheme:
        import fsspec

        # other processes write to a folder after it was listed
        fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
    return epath.Path(name)


def is_remote(path: os.PathLike) -> bool:
    """True for a path in a bucket."""
    return "://" in os.fspath(path)


def entries(folder: epath.Path) -> list[epath.Path]:
    """Paths in a folder; none if there is no such folder, as in a bucket an empty one."""
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []


def bucket_files(path: os.PathLike) -> Any:
    """The fsspec file system of the bucket that a path is in."""
    import fsspec

    return fsspec.core.url_to_fs(os.fspath(path))[0]


@contextmanager
def writing(path: os.PathLike, mode: str = "w") -> Iterator[IO]:
    """Open a file for writing that takes its name when it is complete, or is removed.

    Raises:
        OSError: it cannot be written; the error names the file, which that of a full disk does not.
    """
    encoding = None if "b" in mode else "utf-8"
    if is_remote(path):
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder) / "file"
            with local.open(mode, encoding=encoding) as file:
                yield file
            bucket_files(path).put_file(str(local), os.fspath(path))
        return
    whole = Path(path)
    unfinished = whole.with_name(whole.name + ".unfinished")
    try:
        with unfinished.open(mode, encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(whole)
    except OSError as error:
        if error.filename in (None, str(unfinished)):
            error.filename = str(whole)
        raise
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Make a local folder that replaces `folder` when it is complete, or is removed.

    Raises:
        UserError: it cannot be written; what was there is there still.
    """
    new, old = (folder.with_name(f".{folder.name}.{word}") for word in ("unfinished", "replaced"))
    try:
        shutil.rmtree(new, ignore_errors=True)  # of a process that was killed
        new.mkdir(parents=True)
        yield new
        for file in (path for path in new.rglob("*") if path.is_file()):
            file.chmod(0o644)  # safetensors writes files that only their owner can read
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    except OSError as error:
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def write_json(path: os.PathLike, value: Any) -> None:
    """Write a value as indented JSON."""
    with writing(path) as file:
        json.dump(value, file, indent=1, ensure_ascii=False)


def create(path: os.PathLike, text: str) -> bool:
    """Write a small file if there is none of that name; if several processes try, one gets True."""
    if is_remote(path):
        try:
            bucket_files(path).pipe_file(os.fspath(path), text.encode(), mode="create")
        except FileExistsError:
            return False
        return True
    whole = Path(path)
    descriptor, unfinished = tempfile.mkstemp(prefix=f"{whole.name}.unfinished-", dir=whole.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.link(unfinished, whole)
    except FileExistsError:
        return False
    finally:
        os.unlink(unfinished)
    return True


def publish(folder: Path, target: os.PathLike, last: str = "") -> None:
    """Move a finished local folder to where others look for it.

    Locally that is one rename. In a bucket the files arrive one by one, `last` after all others:
    where it is, the folder is whole.

    Raises:
        OSError: there is such a folder, locally, or no space.
    """
    if not is_remote(target):
        folder.rename(target)
        return
    files = bucket_files(target)
    for file in sorted(folder.rglob("*"), key=lambda file: (file.name == last, file)):
        if file.is_file():
            files.put_file(str(file), f"{os.fspath(target)}/{file.relative_to(folder)}")
    shutil.rmtree(folder)


@contextmanager
def as_local(folder: epath.Path) -> Iterator[Path]:
    """A folder on the local disk; one in a bucket is downloaded and removed afterwards."""
    if not is_remote(folder):
        yield Path(folder)
        return
    with tempfile.TemporaryDirectory() as local:
        bucket_files(folder).get(os.fspath(folder).rstrip("/") + "/", local + "/", recursive=True)
        yield Path(local)


def check_target(folder: Path, kind: str, is_replaceable: Callable[[Path], bool]) -> None:
    """Check that a folder may be written: it is absent, empty, or holds an earlier one of its kind.

    Args:
        folder: to be written, by `replacing`.
        kind: of what it will hold, for the message: "export", "index", "report".
        is_replaceable: True for a folder that holds an earlier one.

    Raises:
        UserError: the folder holds something else.
    """
    is_empty = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not is_empty and not is_replaceable(folder):
        raise UserError(f"{folder}: exists and is no {kind} of jaxir; name another folder")
