"""Token ids of texts, made once for each (tokenizer, text) and memory-mapped from then on.

Dimension key: T texts, R texts asked for, L token limit.

The cache is a folder a tokenizer, on disk or in a bucket, of segments that are never changed: a
segment holds the ids of some texts without special tokens and uncut, so that prefixes aside no
option of a run makes it stale, and the hash of every text it knows. A segment appears whole or not
at all. Texts that no segment knows are divided into segments by a plan that the first process
writes; all processes that need them, on however many hosts, share the building, and a build that
was killed goes on with the segments that are still missing. A marker then says which segments a
list of texts needs. From a bucket, ids are read by range.
"""

import errno
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Bool, Int, Int32, UInt64
from tqdm import tqdm

from jaxir.data.ranged import RangedArray
from jaxir.errors import UserError
from jaxir.progress import progress_bar
from jaxir.runtime.claims import Claims, make_together
from jaxir.runtime.files import create, entries, is_remote, path_of, publish

TEXTS_PER_SEGMENT = 200_000
TEXTS_PER_CALL = 4_000  # the tokenizer's own threads share these
LAST = "hashes.npy"  # of a segment, to arrive in a bucket


@dataclass(frozen=True)
class Tokens:
    """Ids of T texts, and what a tokenizer puts around and after them.

    A text's ids are the slice [start, start + length) of its segment, which is memory-mapped or
    read from a bucket.
    """

    segments: tuple[Int32[np.ndarray, "_"] | RangedArray, ...]
    segment: Int[np.ndarray, "T"]
    start: Int[np.ndarray, "T"]
    length: Int[np.ndarray, "T"]
    before: tuple[int, ...]  # special tokens, e.g. <s>
    after: tuple[int, ...]  # e.g. </s>
    pad_id: int

    def lengths_with_frame(self, texts: Int[np.ndarray, "R"]) -> Int[np.ndarray, "R"]:
        """Lengths of some texts, uncut, with the special tokens."""
        return self.length[texts] + len(self.before) + len(self.after)

    def padded(
        self, texts: Int[np.ndarray, "R"], limit: int
    ) -> tuple[Int32[np.ndarray, "R L"], Int32[np.ndarray, "R"]]:
        """Ids of some texts, cut to `limit` tokens with the special ones, and their lengths.

        A text of number -1 is absent: nothing but padding, length 0.
        """
        present = texts >= 0
        first, last = len(self.before), len(self.after)
        content = np.minimum(self.length[texts], limit - first - last) * present
        columns = np.arange(limit)[None, :] - first
        inside = (columns >= 0) & (columns < content[:, None])
        ids = np.full((len(texts), limit), self.pad_id, np.int32)
        for number in np.unique(self.segment[texts[present]]):
            mine = inside & (self.segment[texts] == number)[:, None]
            ids[mine] = self.segments[number][(self.start[texts][:, None] + columns)[mine]]
        for place, token in enumerate(self.before):
            ids[present, place] = token
        for place, token in enumerate(self.after):
            ids[present, first + content[present] + place] = token
        return ids, ((content + first + last) * present).astype(np.int32)


def read_tokens(texts: Sequence[str], tokenizer: Any, cache: os.PathLike) -> Tokens:
    """Token ids of `texts`, equal to the tokenizer's own; what the cache lacks is tokenized first.

    Raises:
        UserError: the disk is full, or the cache was damaged.
    """
    folder = path_of(cache) / fingerprint(tokenizer)[:32]
    hashes = _hashes(texts)
    wanted = hashlib.sha256(np.unique(hashes, axis=0).tobytes()).hexdigest()[:32]
    finished = folder / f"finished-{wanted}.json"
    if not all((folder / name / LAST).exists() for name in _read_names(finished) or [""]):
        try:
            _build(texts, hashes, tokenizer, folder, wanted)
        except OSError as error:
            raise UserError(
                f"{folder}: cannot write the token cache ({error.strerror or error}); "
                "free some space or set config.data.cache to another folder"
            ) from error
    stored = [_open(folder / name) for name in _read_names(finished)]
    segment, start, length = _find(hashes, stored)
    if (segment < 0).any():
        raise UserError(f"{finished}: does not name every segment; delete it")
    before, after = _frame(tokenizer)
    ids = tuple(part.ids for part in stored)
    return Tokens(ids, segment, start, length, before, after, tokenizer.pad_token_id)


def tokenize(texts: Sequence[str], tokenizer: Any) -> Tokens:
    """Token ids of `texts`, made in memory."""
    ids = _tokenize(texts, tokenizer, None)
    length = np.array([len(row) for row in ids], np.int64)
    flat = np.concatenate([*ids, np.empty(0, np.int32)])
    before, after = _frame(tokenizer)
    segment, start = np.zeros(len(ids), np.int64), np.cumsum(length) - length
    return Tokens((flat,), segment, start, length, before, after, tokenizer.pad_token_id)


def fingerprint(tokenizer: Any) -> str:
    """SHA-256 of all that decides a tokenizer's ids."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    # truncation and padding are state of the last call, not part of what the tokenizer is
    if backend is not None:
        backend.no_truncation()
        backend.no_padding()
        return hashlib.sha256(backend.to_str().encode()).hexdigest()
    with tempfile.TemporaryDirectory() as folder:
        digest = hashlib.sha256()
        for name in sorted(tokenizer.save_pretrained(folder)):
            digest.update(Path(name).read_bytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class _Segment:
    hashes: UInt64[np.ndarray, "T 2"]  # sorted by the first word
    starts: Int[np.ndarray, "T"]
    lengths: Int[np.ndarray, "T"]
    ids: Int32[np.ndarray, "_"]


def _open(path: epath.Path) -> _Segment:
    def part(name: str) -> Any:
        file = path / f"{name}.npy"
        if not is_remote(file):
            return np.load(file, mmap_mode="r")
        return RangedArray(file) if name == "ids" else np.load(io.BytesIO(file.read_bytes()))

    try:
        segment = _Segment(*map(part, _Segment.__annotations__))
        if int(segment.lengths.sum()) != len(segment.ids):
            raise ValueError("ids are missing")
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: damaged token cache ({error}); delete that folder") from error
    return segment


def _read_names(path: epath.Path) -> list[str]:
    """Names of segments that a file lists; none where there is no such file."""
    if not path.exists():
        return []
    try:
        return [str(name) for name in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: damaged token cache ({error}); delete that file") from error


def _hashes(texts: Sequence[str]) -> UInt64[np.ndarray, "T 2"]:
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts)
    return np.frombuffer(digests, np.uint64).reshape(-1, 2)


def _find(
    hashes: UInt64[np.ndarray, "T 2"], stored: Sequence[_Segment]
) -> tuple[Int[np.ndarray, "T"], Int[np.ndarray, "T"], Int[np.ndarray, "T"]]:
    """Segment (-1: none), start and length of every text."""
    segment, start, length = np.full((3, len(hashes)), -1)
    for number, part in enumerate(stored):
        place = np.searchsorted(part.hashes[:, 0], hashes[:, 0]).clip(max=len(part.hashes) - 1)
        known: Bool[np.ndarray, T] = (part.hashes[place] == hashes).all(axis=1)
        segment[known] = number
        start[known], length[known] = part.starts[place[known]], part.lengths[place[known]]
    return segment, start, length


def _frame(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Special tokens before and after a text."""
    framed = tokenizer("a")["input_ids"]
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    for first in range(len(framed) - len(bare) + 1):
        if framed[first : first + len(bare)] == bare:
            return tuple(framed[:first]), tuple(framed[first + len(bare) :])
    raise UserError(f"the tokenizer {tokenizer.name_or_path!r} changes a text between its markers")


def _build(
    texts: Sequence[str],
    hashes: UInt64[np.ndarray, "T 2"],
    tokenizer: Any,
    folder: epath.Path,
    wanted: str,
) -> None:
    """Have every text in some segment, together with all processes that want the same texts."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = folder / f"plan-{wanted}.json"
    whole = _segments(folder)
    if not set(_read_names(plan)) <= set(whole):  # somebody has deleted a segment since
        plan.unlink(missing_ok=True)
    create(plan, json.dumps(whole))
    known = _read_names(plan)
    segment = _find(hashes, [_open(folder / name) for name in known])[0]
    first = np.unique(hashes, axis=0, return_index=True)[1]
    missing = np.sort(first[segment[first] < 0])
    shares = [missing[i : i + TEXTS_PER_SEGMENT] for i in range(0, len(missing), TEXTS_PER_SEGMENT)]
    shares = [share[np.argsort(hashes[share, 0], kind="stable")] for share in shares]
    to_make = {_name(hashes[share]): share for share in shares}
    with (
        progress_bar("tokenizing", len(missing), "texts") as progress,
        Claims(folder) as claims,
    ):

        def make(name: str) -> None:
            share = to_make[name]
            ids = _tokenize([texts[i] for i in share], tokenizer, progress)
            _write(folder / name, hashes[share], ids)

        # a segment is there when its last file is
        make_together({name: folder / name / LAST for name in to_make}, make, claims)
    used = [known[i] for i in np.unique(segment[segment >= 0])]
    finished = folder / f"finished-{wanted}.json"
    if finished.exists() and set(_read_names(finished)) - set(_segments(folder)):
        finished.unlink(missing_ok=True)
    create(finished, json.dumps([*used, *to_make]))


def _segments(folder: epath.Path) -> list[str]:
    """Names of the whole segments in a folder."""
    found = (path.name for path in entries(folder) if path.name.startswith("segment-"))
    return sorted(name for name in found if (folder / name / LAST).exists())


def _name(hashes: UInt64[np.ndarray, "T 2"]) -> str:
    return "segment-" + hashlib.sha256(hashes.tobytes()).hexdigest()[:16]


def _tokenize(texts: Sequence[str], tokenizer: Any, progress: tqdm | None) -> list[np.ndarray]:
    ids: list[np.ndarray] = []
    for call in range(0, len(texts), TEXTS_PER_CALL):
        part = list(texts[call : call + TEXTS_PER_CALL])
        encoded = tokenizer(
            part,
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # texts longer than the model are cut when batches are made
        )
        ids.extend(np.array(row, np.int32) for row in encoded["input_ids"])
        if progress is not None:
            progress.update(len(part))
    return ids


def _save(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as stream:
        np.save(stream, array)
        os.fsync(stream.fileno())
    # NumPy hands small arrays to a buffer whose last flush may fail without a word
    if path.stat().st_size < array.nbytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _write(target: epath.Path, hashes: UInt64[np.ndarray, "T 2"], ids: list[np.ndarray]) -> None:
    lengths = np.array([len(row) for row in ids], np.int64)
    arrays = {
        "hashes": hashes,
        "starts": np.cumsum(lengths) - lengths,
        "lengths": lengths,
        "ids": np.concatenate([*ids, np.empty(0, np.int32)]),
    }
    near = None if is_remote(target) else target.parent
    temporary = Path(tempfile.mkdtemp(prefix="unfinished-", dir=near))
    try:
        for part, array in arrays.items():
            _save(temporary / f"{part}.npy", array)
        publish(temporary, target, LAST)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        # another process was faster with the same texts
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
