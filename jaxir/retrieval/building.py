"""Building of an index on disk, shard by shard, from more passages than memory holds.

Until the last shard is written, the folder holds `unfinished.json` in place of `index.json`. It
names the model and the settings, so that a build that was killed resumes only with the same ones.
Existing shards are compared with the input, which is read again from its beginning.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np

from jaxir.data.texts import Text
from jaxir.errors import UserError
from jaxir.progress import progress_bar
from jaxir.retrieval.index import INDEX_FILE, TextEmbedder, make_shard, write_index_file
from jaxir.retrieval.shards import read_shard, shard_name, write_shard
from jaxir.runtime.files import write_json

UNFINISHED_FILE = "unfinished.json"


def build_index(
    embedder: TextEmbedder, texts: Iterable[Text], folder: Path, dtype: str, shard_rows: int
) -> int:
    """Embed passages into a folder, resuming where an earlier call was stopped.

    Args:
        embedder: the model.
        texts: the passages, the same ones in every call.
        folder: of the index.
        dtype: of the embeddings.
        shard_rows: passages of a shard; a build that is killed loses the shard it was making.

    Returns:
        The number of passages.

    Raises:
        UserError: the folder holds something else or the beginning of another index, an id is there
            twice, or the input has a mistake.
        OSError: a shard cannot be written, as on a full disk; earlier shards are kept, and the next
            call resumes after them.
    """
    settings = {"fingerprint": embedder.fingerprint, "dtype": dtype, "shard_rows": shard_rows}
    _begin_or_resume(folder, settings)
    remaining = iter(texts)
    known = np.empty(0, np.uint64)
    names: list[str] = []
    with progress_bar("encoding", None, "texts") as progress:
        while chunk := list(islice(remaining, shard_rows)):
            known = _with_new_ids(known, chunk)
            name = shard_name(len(names))
            # the `.safetensors` file is written last: where it is, the shard is whole
            if (folder / f"{name}.safetensors").exists():
                _check_same(folder, name, chunk)
            else:
                passages, ids = [text.text for text in chunk], [text.id for text in chunk]
                languages = [text.language for text in chunk]
                shard = make_shard(embedder, passages, ids, languages, dtype, progress=name)
                write_shard(folder, name, shard)
            names.append(name)
            progress.update(len(chunk))
    if not names:
        raise UserError("the input holds no passages")
    later = folder / f"{shard_name(len(names))}.safetensors"
    if later.exists():
        raise UserError(
            f"{later}: the index was begun with more passages than the input has now; "
            f"delete {folder} to begin again"
        )
    # `index.json` makes the folder an index, so it comes before the mark of a build is removed
    write_index_file(folder, embedder, names)
    (folder / UNFINISHED_FILE).unlink(missing_ok=True)
    return len(known)


def _begin_or_resume(folder: Path, settings: dict[str, object]) -> None:
    """Begin an index in a folder, or resume one of the same settings."""
    path = folder / UNFINISHED_FILE
    if (folder / INDEX_FILE).exists() and not path.exists():
        raise UserError(f"{folder}: holds a finished index; name another folder, or delete it")
    if path.exists():
        try:
            earlier = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: damaged ({error}); delete {folder} to begin again") from None
        different = [name for name in settings if earlier.get(name) != settings[name]]
        if different:
            raise UserError(
                f"{folder}: begun with another {', '.join(different)}; "
                "name another folder, or delete it to begin again"
            )
        return
    if folder.is_file() or (folder.exists() and not all(map(_is_temporary, folder.iterdir()))):
        raise UserError(f"{folder}: exists and is no index; name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, settings)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror or error}); "
            "mend that, or name another folder"
        ) from None


def _is_temporary(file: Path) -> bool:
    """True for the file of a build that was killed before its first file was whole."""
    return file.name == f"{UNFINISHED_FILE}.unfinished"


def _with_new_ids(known: np.ndarray, texts: list[Text]) -> np.ndarray:
    """Sorted hashes of all ids so far; refuses an id that is there twice."""
    # eight bytes an id, since an index may be larger than memory
    digests = b"".join(hashlib.blake2b(x.id.encode(), digest_size=8).digest() for x in texts)
    hashes = np.frombuffer(digests, np.uint64)
    order = np.argsort(hashes, kind="stable")
    duplicate = np.isin(hashes, known)
    duplicate[order[1:]] |= hashes[order[1:]] == hashes[order[:-1]]
    if duplicate.any():
        raise UserError(f"id {texts[int(np.argmax(duplicate))].id!r}: two passages have it")
    return np.insert(known, np.searchsorted(known, hashes[order]), hashes[order])


def _check_same(folder: Path, name: str, texts: list[Text]) -> None:
    """Refuse to resume where a shard was made of other passages than the input has now."""
    passages = read_shard(folder, name).passages
    same = (
        passages["id"].to_pylist() == [text.id for text in texts]
        and passages["text"].to_pylist() == [text.text for text in texts]
        and passages["language"].to_pylist() == [text.language for text in texts]
    )
    if not same:
        raise UserError(
            f"{folder / name}: made of other passages than the input has now; "
            f"delete {os.fspath(folder)} to begin again"
        )
