"""An index on the devices, in chunks: kept there, or streamed through them.

Dimension key: P passages, D width, S rows of a chunk on one device.

Each device holds its rows of a chunk. All chunks have one size, so that one compiled program serves
them all. A streamed index is sent once: while the devices search one chunk, a thread reads the next
from disk and sends it.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from jaxir.errors import UserError
from jaxir.retrieval.vectors import Vectors

CHUNK_BYTES = 1 << 26  # of a streamed index on one device
CHUNK_ROWS = 1 << 18  # on one device: fewer cost more merging, the scores of more fill the memory
ALIGNED_ROWS = 256  # a chunk's rows on one device are a multiple of this


class Chunk(NamedTuple):
    """Neighbouring rows of an index, split over the devices."""

    start: int  # index of the first row
    rows: Array
    scales: Array  # of int8 rows, else empty


@dataclass(frozen=True, eq=False)
class DeviceVectors:
    """Vectors that stay on the devices, for those that search them more than once."""

    vectors: Vectors
    chunks: tuple[Chunk, ...]
    mesh: Mesh

    def __len__(self) -> int:
        return len(self.vectors)


def put_on_devices(vectors: Vectors) -> DeviceVectors:
    """Send all vectors to the devices of the mesh, which must have room for them.

    Raises:
        UserError: an embedding is not finite.
    """
    mesh = data_mesh()
    return DeviceVectors(vectors, tuple(stream_chunks(vectors, mesh)), mesh)


def stream_chunks(vectors: Vectors, mesh: Mesh, chunk_bytes: int | None = None) -> Iterator[Chunk]:
    """Chunks on the devices; while one is used, a thread reads and sends the next.

    Args:
        vectors: the index, of which each row is sent once.
        mesh: the devices.
        chunk_bytes: size of a chunk on one device, before its rows are rounded up to
            `ALIGNED_ROWS`; None: `CHUNK_ROWS` is the only bound.

    Raises:
        UserError: an embedding is not finite.
    """
    row_bytes = vectors.width * vectors.embeddings.dtype.itemsize
    max_rows = CHUNK_ROWS if chunk_bytes is None else min(CHUNK_ROWS, chunk_bytes // row_bytes)
    size = _chunk_size(len(vectors), mesh.size, max_rows)
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    finite_rows = _compile_finite_rows(mesh)
    scales = np.empty(0, np.float32) if vectors.scales is None else vectors.scales

    def sharded(array: np.ndarray, start: int) -> Array:
        if not len(array):
            return jax.device_put(array, sharding)

        def read(index: Any) -> np.ndarray:  # the slice of each axis that a device holds
            begin, end, _ = index[0].indices(size)
            rows = np.zeros((end - begin, *array.shape[1:]), array.dtype)
            part = array[start + begin : start + end]
            rows[: len(part)] = part
            return rows

        return jax.make_array_from_callback((size, *array.shape[1:]), sharding, read)

    def send(start: int) -> Chunk:
        return Chunk(start, sharded(vectors.embeddings, start), sharded(scales, start))

    # a single thread: the next chunk travels while the caller's devices search this one
    with ThreadPoolExecutor(1) as sender:
        starts = range(0, len(vectors), size)
        following = sender.submit(send, starts[0])
        for next_start in (*starts[1:], None):
            chunk = following.result()
            if next_start is not None:
                following = sender.submit(send, next_start)
            finite = np.asarray(finite_rows(chunk.rows, chunk.scales))
            if not finite.all():
                row = chunk.start + int(np.argmin(finite))
                raise UserError(f"the embedding of passage {row} is not finite")
            yield chunk


def _chunk_size(rows: int, devices: int, max_rows: int) -> int:
    """Rows of a chunk over all devices.

    The rows of a device are divided into chunks as even as alignment allows, so that the last chunk
    needs little padding.
    """
    device_rows = -(-rows // devices)
    chunks = -(-device_rows // max(1, max_rows))
    even = -(-device_rows // chunks)
    return -(-even // ALIGNED_ROWS) * ALIGNED_ROWS * devices


@cache
def _compile_finite_rows(mesh: Mesh) -> Callable[[Array, Array], Array]:
    def finite_rows(rows: Array, scales: Array) -> Array:
        if rows.dtype == jnp.int8:
            return jnp.isfinite(scales)
        return jnp.isfinite(jnp.sum(jnp.abs(rows.astype(jnp.float32)), axis=1))

    by_row, replicated = PartitionSpec(mesh.axis_names), NamedSharding(mesh, PartitionSpec())
    sharded = jax.shard_map(finite_rows, mesh=mesh, in_specs=(by_row, by_row), out_specs=by_row)
    return jax.jit(sharded, out_shardings=replicated)


def data_mesh() -> Mesh:
    """The mesh that is set, or one of all devices."""
    mesh = jax.sharding.get_mesh()
    return jax.make_mesh((jax.device_count(),), ("data",)) if mesh.empty else mesh
