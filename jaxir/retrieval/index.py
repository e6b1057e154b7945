"""Passages to search: their embeddings, texts, ids and languages, in memory or in a folder.

Dimension key: P passages, D width.

A folder holds `index.json`, which names the model and the shards, and the files of each shard.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from jaxtyping import Array, Float, Int

from jaxir.errors import UserError
from jaxir.retrieval.shards import SCHEMA, Shard, read_shard, shard_name, stacked, write_shard
from jaxir.retrieval.topk import (
    DTYPES,
    PlacedVectors,
    Vectors,
    make_vectors,
    place,
    rows_of,
    search,
)
from jaxir.runtime.files import replacing, write_json

INDEX_FILE = "index.json"
PLACED_BYTES = 4 << 30  # an index of no more stays on the devices once it was searched
LANGUAGES_KEPT = 32  # of which the rows alone stay there too


class Encoder(Protocol):
    """What an index needs to know of the model that built it."""

    def encode_queries(self, texts: Sequence[str]) -> Float[np.ndarray, "T D"]:
        """Embeddings of queries."""

    def encode_passages(
        self, texts: Sequence[str], *, progress: str | None = None
    ) -> Float[np.ndarray, "T D"]:
        """Embeddings of passages; `progress` names a bar."""

    @property
    def fingerprint(self) -> str:
        """What differs between models that embed passages differently."""


@dataclass(frozen=True, slots=True)
class Result:
    """A passage that was found."""

    id: str
    text: str
    score: float
    language: str  # "": unknown


class Index:
    """Passages embedded by one model, and their exact search; made by `jaxir.Retriever`.

    Args:
        encoder: the model.
        shards: the passages.
    """

    def __init__(self, encoder: Encoder, shards: Sequence[Shard]):
        self._encoder, self._shards = encoder, list(shards)
        self._gather()

    def _gather(self) -> None:
        self._vectors = stacked([shard.vectors for shard in self._shards])
        self._passages = pa.concat_tables([shard.passages for shard in self._shards])
        counts = self._passages["language"].value_counts().to_pylist()
        ordered = sorted(counts, key=lambda entry: (-entry["counts"], entry["values"]))
        self._languages = {entry["values"]: entry["counts"] for entry in ordered}
        self._searched: Callable[[str | None], tuple[Vectors | PlacedVectors, np.ndarray | None]]
        self._searched = lru_cache(LANGUAGES_KEPT)(self._rows_to_search)

    def __len__(self) -> int:
        return len(self._vectors)

    @property
    def languages(self) -> dict[str, int]:
        """How many passages each language has, the most frequent first; "" are unknown."""
        return dict(self._languages)

    def search(
        self, queries: Sequence[str], k: int = 10, *, language: str | None = None
    ) -> list[list[Result]]:
        """The k best passages of each query, best first; of equal scores the earlier passage.

        Args:
            queries: texts, without the model's prefix.
            k: how many; an index of fewer passages gives all.
            language: look among the passages of this one alone; None: among all.

        Raises:
            UserError: a query is no text, k < 1, or no passage has that language.
        """
        return self.search_embeddings(self._encoder.encode_queries(queries), k, language=language)

    def search_embeddings(
        self,
        queries: Float[np.ndarray, "Q D"] | Float[Array, "Q D"],
        k: int = 10,
        *,
        language: str | None = None,
    ) -> list[list[Result]]:
        """As `search`, of queries that are embedded already."""
        if language is not None and language not in self._languages:
            known = ", ".join(filter(None, self._languages)) or "none"
            raise UserError(f"language {language!r}: no passage has it; known are: {known}")
        vectors, rows = self._searched(language)
        if not len(queries):
            return []
        found = search(np.asarray(queries), vectors, k)
        places = found.places if rows is None else rows[found.places]
        return [
            [Result(**passage, score=score) for passage, score in zip(passages, scores.tolist())]
            for passages, scores in zip(map(self._read, places), found.scores)
        ]

    def _read(self, places: Int[np.ndarray, "K"]) -> list[dict[str, str]]:
        return self._passages.take(places).to_pylist()

    def _rows_to_search(
        self, language: str | None
    ) -> tuple[Vectors | PlacedVectors, np.ndarray | None]:
        """All rows, or those of a language and their numbers."""
        if language is None:
            rows, vectors = None, self._vectors
        else:
            rows = np.flatnonzero(self._passages["language"].to_numpy() == language)
            vectors = rows_of(self._vectors, rows)
        size = len(vectors) * vectors.width * vectors.embeddings.dtype.itemsize
        return (place(vectors) if size <= PLACED_BYTES else vectors), rows

    def add(
        self,
        passages: Sequence[str],
        ids: Sequence[str] | None = None,
        languages: Sequence[str] | str = "",
    ) -> None:
        """Put more passages behind the others; arguments as of `jaxir.Retriever.index`.

        Raises:
            UserError: a passage is no text or empty, or an id is there already.
        """
        present = self._passages["id"].to_pylist()
        shard = make_shard(self._encoder, passages, ids, languages, self.dtype, present)
        self._shards.append(shard)
        self._gather()

    @property
    def dtype(self) -> str:
        """Of the embeddings."""
        return self._vectors.embeddings.dtype.name

    def save(self, folder: str | Path) -> None:
        """Write a folder, whole or not at all; an earlier index there is replaced.

        Raises:
            UserError: the folder holds something else, or cannot be written.
        """
        folder = Path(folder).absolute()
        empty = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
        if not empty and not (folder / INDEX_FILE).exists():
            raise UserError(f"{folder}: exists and is no index; name another folder")
        with replacing(folder) as new:
            names = [shard_name(number) for number in range(len(self._shards))]
            for name, shard in zip(names, self._shards):
                write_shard(new, name, shard)
            write_index_file(new, self._encoder, names)

    @classmethod
    def load(cls, folder: str | Path, encoder: Encoder) -> "Index":
        """Open a folder; nothing is read before it is needed.

        Raises:
            UserError: it is no index, is not finished or damaged, or was built by another model.
        """
        folder = Path(folder)
        described = read_index_file(folder)
        if described["fingerprint"] != encoder.fingerprint:
            raise UserError(
                f"{folder}: built by another model than this one, or with another passage prefix "
                f"or length (it was made by {described['model']!r}); encode the passages again"
            )
        return cls(encoder, [read_shard(folder, name) for name in described["shards"]])


def make_shard(
    encoder: Encoder,
    passages: Sequence[str],
    ids: Sequence[str] | None,
    languages: Sequence[str] | str,
    dtype: str,
    present: Sequence[str] = (),
    progress: str | None = None,
) -> Shard:
    """Embed some passages; without ids they get their numbers, behind those of the ids `present`.

    Raises:
        UserError: as `Index.add`; or the lengths differ, or the dtype is unknown.
    """
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r}: must be one of {', '.join(DTYPES)}")
    ids = (
        [str(len(present) + n) for n in range(len(passages))]
        if ids is None
        else list(map(str, ids))
    )
    languages = [languages] * len(passages) if isinstance(languages, str) else list(languages)
    for name, values in (("ids", ids), ("languages", languages)):
        if len(values) != len(passages):
            raise UserError(f"{len(passages)} passages come with {len(values)} {name}")
    if not len(passages):
        raise UserError("there are no passages")
    check_new_ids([*present, *ids])
    blank = (isinstance(text, str) and not text.strip() for text in passages)
    empty = next((one for one, is_blank in zip(ids, blank) if is_blank), None)
    if empty is not None and not isinstance(passages, str):
        raise UserError(f"passage {empty!r} is empty; leave it out of the index")
    vectors = make_vectors(encoder.encode_passages(passages, progress=progress), dtype)
    columns = {"id": ids, "text": list(passages), "language": languages}
    return Shard(vectors, pa.table(columns, schema=SCHEMA))


def check_new_ids(ids: Sequence[str]) -> None:
    """Refuse ids of which two are equal."""
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        twice = next(one for one in ids if one in seen or seen.add(one))  # type: ignore[func-returns-value]
        raise UserError(f"id {twice!r}: two passages have it")


def write_index_file(folder: Path, encoder: Encoder, shards: Sequence[str]) -> None:
    """Write the file that makes a folder an index."""
    described = {
        "fingerprint": encoder.fingerprint,
        "model": getattr(encoder, "name", ""),
        "shards": list(shards),
    }
    write_json(folder / INDEX_FILE, described)


def read_index_file(folder: Path) -> dict[str, Any]:
    """What an index says of itself.

    Raises:
        UserError: the folder is no index, or not finished.
    """
    path = folder / INDEX_FILE
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        whole = isinstance(described, Mapping) and {"fingerprint", "model", "shards"} <= {
            *described
        }
        if not (whole and all(Path(name).name == name for name in described["shards"])):
            raise ValueError("fields are missing")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{folder}: no index, or not finished: {INDEX_FILE} is missing; "
            "python -m jaxir.encode makes one, and the same command goes on with an unfinished one"
        ) from None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}); encode the passages again") from None
    return described
