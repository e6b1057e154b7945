"""Shards of an index: neighbouring passages and their embeddings, as two files each.

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
from jaxir.retrieval.vectors import Vectors
from jaxir.runtime.files import writing

_SAFETENSORS = {"F32": np.float32, "BF16": ml_dtypes.bfloat16, "I8": np.int8}
SCHEMA = pa.schema({"id": pa.large_string(), "text": pa.large_string(), "language": pa.string()})


@dataclass(frozen=True)
class Shard:
    """Neighbouring passages of an index."""

    vectors: Vectors
    passages: pa.Table


def shard_name(index: int) -> str:
    """Name of a shard's files, without their endings."""
    return f"shard-{index:05}"


def write_shard(folder: Path, name: str, shard: Shard) -> None:
    """Write each file of a shard whole or not at all; `.safetensors`, the last, completes it.

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
            raise ValueError("its columns are not those of an index")
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


class _ConcatenatedRows:
    """Rows of several arrays as one array; a slice or rows by index are read on demand."""

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
                raise IndexError("a slice must have step 1")
            slices = [
                part[max(begin - start, 0) : max(end - start, 0)]
                for part, start in zip(self.parts, self.starts)
            ]
            slices = [rows for rows in slices if len(rows)] or [self.parts[0][:0]]
            # within one part a view of the mapped file, without a copy
            return slices[0] if len(slices) == 1 else np.concatenate(slices)
        read = np.empty((len(rows), *self.shape[1:]), self.dtype)
        part_of_row = np.searchsorted(self.starts, rows, side="right") - 1
        for part in np.unique(part_of_row):
            chosen = part_of_row == part
            read[chosen] = self.parts[part][rows[chosen] - self.starts[part]]
        return read


def concatenate(parts: Sequence[Vectors]) -> Vectors:
    """Concatenate vectors; memory-mapped rows are not read.

    Raises:
        UserError: their widths or dtypes differ.
    """
    if len(parts) == 1:
        return parts[0]
    if len({(part.width, part.embeddings.dtype) for part in parts}) > 1:
        raise UserError("index: shards differ in width or dtype; encode the passages again")
    scales = [part.scales for part in parts if part.scales is not None]
    embeddings: Any = _ConcatenatedRows([part.embeddings for part in parts])
    return Vectors(embeddings, np.concatenate(scales) if scales else None)
