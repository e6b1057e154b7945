"""Shards of an index: neighbouring passages, their embeddings beside them, as two files each.

Dimension key: P passages, D width.

A shard's `.arrow` file has columns `id`, `text` and `language`, its `.safetensors` file the
embeddings. Both are memory-mapped, so an index may be larger than memory.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pyarrow as pa

from jaxir.errors import UserError
from jaxir.retrieval.topk import Vectors
from jaxir.runtime.files import writing

_SAFETENSORS = {"F32": np.float32, "BF16": ml_dtypes.bfloat16, "I8": np.int8}
SCHEMA = pa.schema({"id": pa.large_string(), "text": pa.large_string(), "language": pa.string()})


@dataclass(frozen=True)
class Shard:
    """Neighbouring passages of an index."""

    vectors: Vectors
    passages: pa.Table


def shard_name(number: int) -> str:
    """What the files of a shard are called, but for their endings."""
    return f"shard-{number:05}"


def write_shard(folder: Path, name: str, shard: Shard) -> None:
    """Write a shard, whole or not at all; its `.safetensors` file is the last.

    Raises:
        OSError: it cannot be written.
    """
    from safetensors.numpy import save

    with (
        writing(folder / f"{name}.arrow", "wb") as file,
        pa.ipc.new_file(file, shard.passages.schema) as writer,
    ):
        writer.write_table(shard.passages.combine_chunks())
    tensors = {"embeddings": np.ascontiguousarray(shard.vectors.embeddings[:])}
    if shard.vectors.scales is not None:
        tensors["scales"] = np.ascontiguousarray(shard.vectors.scales)
    with writing(folder / f"{name}.safetensors", "wb") as file:
        file.write(save(tensors))


def read_shard(folder: Path, name: str) -> Shard:
    """Memory-map a shard.

    Raises:
        UserError: names the file that is missing or damaged.
    """
    path = folder / f"{name}.arrow"
    try:
        with pa.memory_map(str(path)) as source:
            passages = pa.ipc.open_file(source).read_all()
        if passages.schema != SCHEMA:
            raise ValueError("other columns than those of an index")
        path = folder / f"{name}.safetensors"
        tensors = _map_tensors(path)
        vectors = Vectors(tensors["embeddings"], tensors.get("scales"))
        if len(vectors) != len(passages):
            raise ValueError(f"{len(vectors)} embeddings for {len(passages)} passages")
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise UserError(f"{path}: missing or damaged ({error}); encode it again") from None
    return Shard(vectors, passages)


def _map_tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file, memory-mapped, which its own reader does not do."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > 1 << 20:
            raise ValueError("no safetensors file")
        header = json.loads(file.read(size))
    tensors: dict[str, np.ndarray] = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            dtype, shape = np.dtype(_SAFETENSORS[entry["dtype"]]), tuple(entry["shape"])
            if end - begin != dtype.itemsize * np.prod(shape):
                raise ValueError(f"{name} has another size than its shape")
            tensors[name] = np.memmap(path, dtype, "r", 8 + size + begin, shape)
    return tensors


class _Rows:
    """Rows of several arrays as if they were one; a slice or some rows are read on demand."""

    def __init__(self, parts: Sequence[np.ndarray]):
        self.parts, self.dtype = parts, parts[0].dtype
        self.starts = np.cumsum([0, *map(len, parts)])
        self.shape = (int(self.starts[-1]), *parts[0].shape[1:])
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        if isinstance(rows, slice):
            begin, end, step = rows.indices(len(self))
            if step != 1:
                raise IndexError("only neighbouring rows")
            touched = [
                part[max(begin - start, 0) : max(end - start, 0)]
                for part, start in zip(self.parts, self.starts)
            ]
            touched = [part for part in touched if len(part)] or [self.parts[0][:0]]
            return touched[0] if len(touched) == 1 else np.concatenate(touched)
        read = np.empty((len(rows), *self.shape[1:]), self.dtype)
        number = np.searchsorted(self.starts, rows, side="right") - 1
        for part in np.unique(number):
            read[number == part] = self.parts[part][rows[number == part] - self.starts[part]]
        return read


def stacked(parts: Sequence[Vectors]) -> Vectors:
    """The rows of several, as one."""
    if len(parts) == 1:
        return parts[0]
    if len({(part.width, part.embeddings.dtype) for part in parts}) > 1:
        raise UserError("index: shards of different width or dtype; encode it again")
    scales = [part.scales for part in parts if part.scales is not None]
    embeddings: Any = _Rows([part.embeddings for part in parts])
    return Vectors(embeddings, np.concatenate(scales) if scales else None)
