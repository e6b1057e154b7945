"""Token ids of texts, made once for each (tokenizer, text) and memory-mapped from then on.

Dimension key: T texts, R texts asked for, L token limit.

The cache has a folder for each tokenizer, on disk or in a bucket, of immutable segments. A segment
holds the ids of many texts, uncut and without special tokens, so that no option of a run but the
prefixes makes it stale, and the hash of each of these texts. A segment appears whole or not at all.
Texts that are in no segment yet are divided into new ones by a plan that the first process writes;
all processes that need them, on however many hosts, share the work, and a build that was killed
resumes with the segments that are still missing. A marker file then lists the segments that a list
of texts needs. From a bucket, ids are read by range.
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

from jaxir.data.bucket_array import RangedArray
from jaxir.errors import UserError
from jaxir.progress import progress_bar
from jaxir.runtime.claims import Claims, make_together
from jaxir.runtime.files import create, entries, is_remote, path_of, publish

TEXTS_PER_SEGMENT = 200_000
TEXTS_PER_CALL = 4_000  # the tokenizer's own threads share these
LAST_FILE = "hashes.npy"  # of a segment to arrive in a bucket: it marks the segment as complete


@dataclass(frozen=True)
class Tokens:
    """Ids of T texts, and the special tokens that a tokenizer puts around them.

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

    def lengths_with_special_tokens(self, texts: Int[np.ndarray, "R"]) -> Int[np.ndarray, "R"]:
        """Lengths of the texts, uncut, special tokens included."""
        return self.length[texts] + len(self.before) + len(self.after)

    def padded(
        self, texts: Int[np.ndarray, "R"], limit: int
    ) -> tuple[Int32[np.ndarray, "R L"], Int32[np.ndarray, "R"]]:
        """Ids of the texts, cut to `limit` tokens with the special ones, and their lengths.

        A text of index -1 is absent: nothing but padding, length 0.
        """
        present = texts >= 0
        first, last = len(self.before), len(self.after)
        content = np.minimum(self.length[texts], limit - first - last) * present
        columns = np.arange(limit)[None, :] - first
        inside = (columns >= 0) & (columns < content[:, None])
        ids = np.full((len(texts), limit), self.pad_id, np.int32)
        # one gather from each segment, of all tokens whose text is in it
        for segment in np.unique(self.segment[texts[present]]):
            mask = inside & (self.segment[texts] == segment)[:, None]
            ids[mask] = self.segments[segment][(self.start[texts][:, None] + columns)[mask]]
        for position, token in enumerate(self.before):
            ids[present, position] = token
        for position, token in enumerate(self.after):
            ids[present, first + content[present] + position] = token
        return ids, ((content + first + last) * present).astype(np.int32)


def read_tokens(texts: Sequence[str], tokenizer: Any, cache: os.PathLike) -> Tokens:
    """Token ids of `texts` from the cache; those that it lacks are tokenized and added first.

    Raises:
        UserError: the disk is full, or the cache was damaged.
    """
    folder = path_of(cache) / fingerprint(tokenizer)[:32]
    hashes = _hashes(texts)
    set_hash = hashlib.sha256(np.unique(hashes, axis=0).tobytes()).hexdigest()[:32]
    finished = folder / f"finished-{set_hash}.json"
    if not all((folder / name / LAST_FILE).exists() for name in _read_names(finished) or [""]):
        try:
            _build(texts, hashes, tokenizer, folder, set_hash)
        except OSError as error:
            raise UserError(
                f"{folder}: cannot write the token cache ({error.strerror or error}); "
                "free some space or set config.data.cache to another folder"
            ) from error
    stored = [_open(folder / name) for name in _read_names(finished)]
    segment, start, length = _look_up(hashes, stored)
    if (segment < 0).any():
        raise UserError(f"{finished}: does not name every segment; delete it")
    before, after = _special_tokens(tokenizer)
    ids = tuple(entry.ids for entry in stored)
    return Tokens(ids, segment, start, length, before, after, tokenizer.pad_token_id)


def tokenize(texts: Sequence[str], tokenizer: Any) -> Tokens:
    """Token ids of `texts`, made in memory."""
    ids = _tokenize(texts, tokenizer, None)
    length = np.array([len(row) for row in ids], np.int64)
    flat = np.concatenate([*ids, np.empty(0, np.int32)])
    before, after = _special_tokens(tokenizer)
    segment, start = np.zeros(len(ids), np.int64), np.cumsum(length) - length
    return Tokens((flat,), segment, start, length, before, after, tokenizer.pad_token_id)


def fingerprint(tokenizer: Any) -> str:
    """SHA-256 of everything that determines a tokenizer's ids."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    # truncation and padding are left over from the tokenizer's last call, so they must not count
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
    """Names of the segments that a file lists; none if there is no such file."""
    if not path.exists():
        return []
    try:
        return [str(name) for name in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: damaged token cache ({error}); delete that file") from error


def _hashes(texts: Sequence[str]) -> UInt64[np.ndarray, "T 2"]:
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts)
    return np.frombuffer(digests, np.uint64).reshape(-1, 2)


def _look_up(
    hashes: UInt64[np.ndarray, "T 2"], stored: Sequence[_Segment]
) -> tuple[Int[np.ndarray, "T"], Int[np.ndarray, "T"], Int[np.ndarray, "T"]]:
    """Segment (-1: none), start and length of every text."""
    segment, start, length = np.full((3, len(hashes)), -1)
    for index, entry in enumerate(stored):
        row = np.searchsorted(entry.hashes[:, 0], hashes[:, 0]).clip(max=len(entry.hashes) - 1)
        known: Bool[np.ndarray, T] = (entry.hashes[row] == hashes).all(axis=1)
        segment[known] = index
        start[known], length[known] = entry.starts[row[known]], entry.lengths[row[known]]
    return segment, start, length


def _special_tokens(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Special tokens before and after a text, read off a sample."""
    complete = tokenizer("a")["input_ids"]
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    for first in range(len(complete) - len(bare) + 1):
        if complete[first : first + len(bare)] == bare:
            return tuple(complete[:first]), tuple(complete[first + len(bare) :])
    raise UserError(
        f"the tokenizer {tokenizer.name_or_path!r} gives a text other ids between its special "
        "tokens than alone; use another tokenizer"
    )


def _build(
    texts: Sequence[str],
    hashes: UInt64[np.ndarray, "T 2"],
    tokenizer: Any,
    folder: epath.Path,
    set_hash: str,
) -> None:
    """Put every text into a segment, together with all processes that need the same texts."""
    folder.mkdir(parents=True, exist_ok=True)
    # The plan lists the segments that count as known. The process that creates it decides for all,
    # so all divide the missing texts alike, even if another segment appears in the meantime.
    plan = folder / f"plan-{set_hash}.json"
    complete = _complete_segments(folder)
    if not set(_read_names(plan)) <= set(complete):  # a segment has been deleted since
        plan.unlink(missing_ok=True)
    create(plan, json.dumps(complete))
    known = _read_names(plan)
    segment = _look_up(hashes, [_open(folder / name) for name in known])[0]
    first = np.unique(hashes, axis=0, return_index=True)[1]
    missing = np.sort(first[segment[first] < 0])
    shares = [missing[i : i + TEXTS_PER_SEGMENT] for i in range(0, len(missing), TEXTS_PER_SEGMENT)]
    # sorted by hash, so that texts are looked up by binary search
    shares = [share[np.argsort(hashes[share, 0], kind="stable")] for share in shares]
    to_make = {_segment_name(hashes[share]): share for share in shares}
    with (
        progress_bar("tokenizing", len(missing), "texts") as progress,
        Claims(folder) as claims,
    ):

        def make(name: str) -> None:
            share = to_make[name]
            ids = _tokenize([texts[i] for i in share], tokenizer, progress)
            _write(folder / name, hashes[share], ids)

        # a segment is complete when its last file is there
        make_together({name: folder / name / LAST_FILE for name in to_make}, make, claims)
    used = [known[i] for i in np.unique(segment[segment >= 0])]
    finished = folder / f"finished-{set_hash}.json"
    if finished.exists() and set(_read_names(finished)) - set(_complete_segments(folder)):
        finished.unlink(missing_ok=True)
    create(finished, json.dumps([*used, *to_make]))


def _complete_segments(folder: epath.Path) -> list[str]:
    """Names of the complete segments in a folder."""
    names = (path.name for path in entries(folder) if path.name.startswith("segment-"))
    return sorted(name for name in names if (folder / name / LAST_FILE).exists())


def _segment_name(hashes: UInt64[np.ndarray, "T 2"]) -> str:
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
    # NumPy writes small arrays to a buffer whose last flush may fail without an error
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
    parent = None if is_remote(target) else target.parent
    temporary = Path(tempfile.mkdtemp(prefix="unfinished-", dir=parent))
    try:
        for part, array in arrays.items():
            _save(temporary / f"{part}.npy", array)
        publish(temporary, target, LAST_FILE)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        # another process was faster with the same texts
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
