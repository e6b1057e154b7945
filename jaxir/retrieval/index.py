"""The index: embeddings, texts, ids and languages of passages, in memory or in a folder.

Dimension key: T texts, Q queries, D width, K top-k.

A folder holds `index.json`, which names the model and the shards, and the files of each shard.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from jaxtyping import Array, Float, Int

from jaxir.errors import UserError
from jaxir.retrieval.chunks import DeviceVectors, put_on_devices
from jaxir.retrieval.shards import SCHEMA, Shard, concatenate, read_shard, shard_name, write_shard
from jaxir.retrieval.topk import search
from jaxir.retrieval.vectors import DTYPES, Vectors, make_vectors, select_rows
from jaxir.runtime.files import check_target, replacing, write_json

INDEX_FILE = "index.json"
DEVICE_INDEX_BYTES = 4 << 30  # an index up to this size stays on the devices after a search
CACHED_LANGUAGES = 32  # whose passages stay there as indexes of their own


class TextEmbedder(Protocol):
    """The model that an index is built and searched by."""

    def encode_queries(self, texts: Sequence[str]) -> Float[np.ndarray, "T D"]:
        """Embeddings of queries."""

    def encode_passages(
        self, texts: Sequence[str], *, progress: str | None = None
    ) -> Float[np.ndarray, "T D"]:
        """Embeddings of passages; `progress` names a bar."""

    @property
    def fingerprint(self) -> str:
        """A digest; it differs between models that embed passages differently."""


@dataclass(frozen=True, slots=True)
class Result:
    """A passage that a search returns."""

    id: str
    text: str
    score: float
    language: str  # "": unknown


class Index:
    """Passages embedded by one model, and their exact search; made by `jaxir.Retriever`.

    Args:
        embedder: the model.
        shards: the passages, in their order.
    """

    def __init__(self, embedder: TextEmbedder, shards: Sequence[Shard]):
        self._embedder, self._shards = embedder, list(shards)
        self._concatenate_shards()

    def _concatenate_shards(self) -> None:
        self._vectors = concatenate([shard.vectors for shard in self._shards])
        self._passages = pa.concat_tables([shard.passages for shard in self._shards])
        counts = self._passages["language"].value_counts().to_pylist()
        ordered = sorted(counts, key=lambda entry: (-entry["counts"], entry["values"]))
        self._languages = {entry["values"]: entry["counts"] for entry in ordered}
        # per instance, and emptied by `add`: vectors that were searched once stay on the devices
        self._vectors_of: Callable[[str | None], tuple[Vectors | DeviceVectors, np.ndarray | None]]
        self._vectors_of = lru_cache(CACHED_LANGUAGES)(self._load_vectors)

    def __len__(self) -> int:
        return len(self._vectors)

    @property
    def languages(self) -> dict[str, int]:
        """Number of passages by language, the most frequent first; "" is unknown."""
        return dict(self._languages)

    def search(
        self, queries: Sequence[str], k: int = 10, *, language: str | None = None
    ) -> list[list[Result]]:
        """The top-k passages of each query, best first; of equal scores the earlier passage.

        Args:
            queries: texts, without the model's prefix.
            k: number of results; an index of fewer passages gives all.
            language: search the passages of this language alone; None: all passages.

        Raises:
            UserError: a query is no text, k < 1, or no passage has that language.
        """
        return self.search_embeddings(self._embedder.encode_queries(queries), k, language=language)

    def search_embeddings(
        self,
        queries: Float[np.ndarray, "Q D"] | Float[Array, "Q D"],
        k: int = 10,
        *,
        language: str | None = None,
    ) -> list[list[Result]]:
        """Search by query embeddings; otherwise as `search`."""
        if language is not None and language not in self._languages:
            known = ", ".join(filter(None, self._languages)) or "none"
            raise UserError(f"language {language!r}: no passage has it; known are: {known}")
        vectors, rows = self._vectors_of(language)
        if not len(queries):
            return []
        top = search(np.asarray(queries), vectors, k)
        indices = top.indices if rows is None else rows[top.indices]
        return [
            [Result(**passage, score=score) for passage, score in zip(passages, scores.tolist())]
            for passages, scores in zip(map(self._read_passages, indices), top.scores)
        ]

    def _read_passages(self, indices: Int[np.ndarray, "K"]) -> list[dict[str, str]]:
        return self._passages.take(indices).to_pylist()

    def _load_vectors(
        self, language: str | None
    ) -> tuple[Vectors | DeviceVectors, np.ndarray | None]:
        """Vectors to search; for a language also the indices of its rows in the whole index."""
        if language is None:
            rows, vectors = None, self._vectors
        else:
            rows = np.flatnonzero(self._passages["language"].to_numpy() == language)
            vectors = select_rows(self._vectors, rows)
        size = len(vectors) * vectors.width * vectors.embeddings.dtype.itemsize
        return (put_on_devices(vectors) if size <= DEVICE_INDEX_BYTES else vectors), rows

    def add(
        self,
        passages: Sequence[str],
        ids: Sequence[str] | None = None,
        languages: Sequence[str] | str = "",
    ) -> None:
        """Append passages; arguments as of `jaxir.Retriever.index`.

        Raises:
            UserError: a passage is no text or empty, or an id is there already.
        """
        present = self._passages["id"].to_pylist()
        shard = make_shard(self._embedder, passages, ids, languages, self.dtype, present)
        self._shards.append(shard)
        self._concatenate_shards()

    @property
    def dtype(self) -> str:
        """Dtype of the embeddings: float32, bfloat16 or int8."""
        return self._vectors.embeddings.dtype.name

    def save(self, folder: str | Path) -> None:
        """Write a folder, whole or not at all; an earlier index there is replaced.

        Raises:
            UserError: the folder holds something else, or cannot be written.
        """
        folder = Path(folder).absolute()
        check_target(folder, "index", lambda earlier: (earlier / INDEX_FILE).exists())
        with replacing(folder) as new:
            names = [shard_name(index) for index in range(len(self._shards))]
            for name, shard in zip(names, self._shards):
                write_shard(new, name, shard)
            write_index_file(new, self._embedder, names)

    @classmethod
    def load(cls, folder: str | Path, embedder: TextEmbedder) -> "Index":
        """Open a folder; embeddings and texts are read when they are needed.

        Raises:
            UserError: the folder is no index, is unfinished or damaged, or another model built it.
        """
        folder = Path(folder)
        header = read_index_file(folder)
        if header["fingerprint"] != embedder.fingerprint:
            raise UserError(
                f"{folder}: built by another model than this one, or with another passage prefix "
                f"or length (it was made by {header['model']!r}); encode the passages again"
            )
        return cls(embedder, [read_shard(folder, name) for name in header["shards"]])


def make_shard(
    embedder: TextEmbedder,
    passages: Sequence[str],
    ids: Sequence[str] | None,
    languages: Sequence[str] | str,
    dtype: str,
    present: Sequence[str] = (),
    progress: str | None = None,
) -> Shard:
    """Embed passages.

    Args:
        embedder: the model.
        passages: texts, without the model's prefix.
        ids: one a passage; None: their positions in the index.
        languages: one for all, or one a passage.
        dtype: of the embeddings.
        present: ids of the passages that are in the index already.
        progress: name of a progress bar; None: none is shown.

    Raises:
        UserError: a passage is no text or empty, an id is there already, lengths differ, or the
            dtype is unknown.
    """
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r}: must be one of {', '.join(DTYPES)}")
    if ids is None:
        ids = list(map(str, range(len(present), len(present) + len(passages))))
    else:
        ids = list(map(str, ids))
    languages = [languages] * len(passages) if isinstance(languages, str) else list(languages)
    for name, values in (("ids", ids), ("languages", languages)):
        if len(values) != len(passages):
            raise UserError(f"{len(passages)} passages come with {len(values)} {name}")
    if not len(passages):
        raise UserError("there are no passages")
    check_unique_ids([*present, *ids])
    blank = (isinstance(text, str) and not text.strip() for text in passages)
    empty = next((id_ for id_, is_blank in zip(ids, blank) if is_blank), None)
    if empty is not None and not isinstance(passages, str):
        raise UserError(f"passage {empty!r} is empty; leave it out of the index")
    vectors = make_vectors(embedder.encode_passages(passages, progress=progress), dtype)
    columns = {"id": ids, "text": list(passages), "language": languages}
    return Shard(vectors, pa.table(columns, schema=SCHEMA))


def check_unique_ids(ids: Sequence[str], texts: str = "passages") -> None:
    """Refuse ids of which two are equal.

    Raises:
        UserError: names the id; `texts` says what has it.
    """
    if len(set(ids)) < len(ids):
        duplicate = Counter(ids).most_common(1)[0][0]
        raise UserError(f"id {duplicate!r}: two {texts} have it")


def write_index_file(folder: Path, embedder: TextEmbedder, shards: Sequence[str]) -> None:
    """Write the file that makes a folder an index: model and names of the shards."""
    header = {
        "fingerprint": embedder.fingerprint,
        "model": getattr(embedder, "name", ""),
        "shards": list(shards),
    }
    write_json(folder / INDEX_FILE, header)


def read_index_file(folder: Path) -> dict[str, Any]:
    """Read the `fingerprint`, `model` and `shards` of an index.

    Raises:
        UserError: the folder is no index, or an unfinished one, or its file is damaged.
    """
    path = folder / INDEX_FILE
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
        whole = isinstance(header, Mapping) and {"fingerprint", "model", "shards"} <= {*header}
        if not (whole and all(Path(name).name == name for name in header["shards"])):
            raise ValueError("fields are missing")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{folder}: no index, or not finished: {INDEX_FILE} is missing; "
            "python -m jaxir.encode makes one, and the same command goes on with an unfinished one"
        ) from None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}); encode the passages again") from None
    return header
