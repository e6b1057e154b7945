"""Exact search: the k passages that score highest, over an index that is sharded or streamed.

Dimension key: Q queries, P passages, R some of them, D width, B queries of a block, K places,
S rows of a step.

The index goes to the devices in chunks, each device holding its rows of a chunk. There a scan
scores a block of queries against a few rows at a time and keeps the k best so far; the devices'
lists are then merged, so that no more than [B, S] scores stand anywhere (but where so many rows
have one score that it takes all of them to tell which come first). Every chunk travels once: while
the devices search one, a thread reads the next from disk and sends it.

Equal scores are put in order at the very end (`_break_ties`), so that neither the number of devices
nor the sizes of chunks, blocks and steps show in the result.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from jaxir.errors import UserError

DTYPES = ("float32", "bfloat16", "int8")
QUERIES_AT_ONCE = 256
CHUNK_BYTES = 1 << 28  # of the index on one device
STEP_ROWS = 16_384  # scored at once; their scores stay in a processor's cache
ALIGNED_ROWS = 256  # an index of fewer is padded to a multiple of this
GROUP = 32  # neighbouring rows whose highest score stands for them
FEW_GROUPS = 32


class Found(NamedTuple):
    """The best passages of each query, best first; fewer than k where the index has fewer rows."""

    scores: Float[np.ndarray, "Q K"]
    places: Int[np.ndarray, "Q K"]  # rows of the index


@dataclass(frozen=True, eq=False)
class Vectors:
    """Embeddings to search: in memory, or memory-mapped and larger than it.

    int8 rows are numbers from -127 to 127 times their `scales`.
    """

    embeddings: Float[np.ndarray, "P D"] | Int[np.ndarray, "P D"]
    scales: Float[np.ndarray, "P"] | None = None

    def __post_init__(self):
        rows = np.shape(self.embeddings)
        name = self.embeddings.dtype.name
        if len(rows) != 2 or name not in DTYPES or not all(rows):
            raise UserError(
                f"index: {name} of shape {rows}; rows of {', '.join(DTYPES)} are needed"
            )
        if (name == "int8") != (self.scales is not None):
            raise UserError("index: int8 rows need scales, and other rows have none")
        if self.scales is not None and np.shape(self.scales) != rows[:1]:
            raise UserError(f"index: {np.shape(self.scales)} scales for {rows[0]} rows")

    def __len__(self) -> int:
        return len(self.embeddings)

    @property
    def width(self) -> int:
        """Length of an embedding."""
        return self.embeddings.shape[1]

    def as_float32(self) -> Float[np.ndarray, "P D"]:
        """The embeddings that are searched, in memory."""
        rows = np.asarray(self.embeddings, np.float32)
        return rows if self.scales is None else rows * self.scales[:, None]


def make_vectors(embeddings: Float[np.ndarray, "P D"], dtype: str = "float32") -> Vectors:
    """An index of some dtype, in memory; int8 rounds each row to 255 steps of its largest entry."""
    if dtype == "float32":
        return Vectors(np.asarray(embeddings, np.float32))
    if dtype == "bfloat16":
        return Vectors(np.asarray(embeddings).astype(ml_dtypes.bfloat16))
    rounded = np.empty(embeddings.shape, np.int8)
    scales = np.empty(len(embeddings), np.float32)
    for first in range(0, len(rounded), STEP_ROWS):  # of millions no second copy in float32
        part = slice(first, first + STEP_ROWS)
        scales[part] = np.abs(embeddings[part]).max(axis=1) / 127
        steps = embeddings[part] / np.where(scales[part] > 0, scales[part], 1.0)[:, None]
        rounded[part] = np.rint(steps).clip(-127, 127)
    return Vectors(rounded, scales)


def rows_of(index: Vectors, rows: Int[np.ndarray, "R"]) -> Vectors:
    """An index of some of the rows, in memory."""
    return Vectors(index.embeddings[rows], None if index.scales is None else index.scales[rows])


@dataclass(frozen=True, eq=False)
class PlacedVectors:
    """An index that stays on the devices, for those that search it more than once."""

    index: Vectors
    chunk: "Chunk"
    mesh: Mesh
    step: int

    def __len__(self) -> int:
        return len(self.index)


class Chunk(NamedTuple):
    """Neighbouring rows of an index, split over the devices."""

    first: int  # number of the first row
    rows: Array
    scales: Array  # of int8 rows, else empty
    finite: Array  # of each row, whether all its entries are finite


def place(index: Vectors) -> PlacedVectors:
    """Send the whole of an index to the devices of the mesh, which must have room for it."""
    mesh, step, size = _layout(index, None)
    (chunk,) = _send_chunks(index, mesh, size)
    return PlacedVectors(index, chunk, mesh, step)


def search(
    queries: Float[np.ndarray, "Q D"],
    index: Vectors | PlacedVectors,
    k: int,
    *,
    tie_order: Int[np.ndarray, "P"] | None = None,
    approximate_recall: float | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> Found:
    """The k highest dot products of each query, in float32, on all devices of the mesh.

    Args:
        queries: finite embeddings.
        index: what is searched; one that is not placed is sent to the devices chunk by chunk.
        k: how many places; more than the index has rows gives all of them.
        tie_order: place of each row among equal scores, lowest first; without it, its number.
        approximate_recall: use `jax.lax.approx_max_k`, which may miss the others; None: exact.
        chunk_bytes: how much of an index that is not placed a device holds at a time.

    Raises:
        UserError: embeddings that are not finite or of another width than the index, or k < 1.
    """
    queries = np.asarray(queries, np.float32)
    width = (index.index if isinstance(index, PlacedVectors) else index).width
    if queries.ndim != 2 or queries.shape[1] != width:
        raise UserError(
            f"queries have shape {queries.shape}, the index has width {width}: "
            "encode both with one model"
        )
    if not np.isfinite(queries).all():
        row = int(np.argmin(np.isfinite(queries).all(axis=1)))
        raise UserError(f"the embedding of query {row} is not finite")
    if k < 1:
        raise UserError(f"k = {k}: must be 1 or more")
    chunks: Callable[[], Iterator[Chunk]]
    if isinstance(index, PlacedVectors):
        mesh, step, chunks = index.mesh, index.step, partial(iter, (index.chunk,))
    else:
        mesh, step, size = _layout(index, chunk_bytes)
        chunks = partial(_send_chunks, index, mesh, size)

    def scan(some: Float[np.ndarray, "Q D"], places: int) -> Found:
        return _scan(some, chunks(), places, len(index), mesh, step, approximate_recall)

    return _break_ties(scan, queries, k, len(index), tie_order)


def _break_ties(
    scan: Callable[[Float[np.ndarray, "Q D"], int], Found],
    queries: Float[np.ndarray, "Q D"],
    k: int,
    rows: int,
    tie_order: Int[np.ndarray, "P"] | None,
) -> Found:
    """Order equal scores by `tie_order`, also those that the k-th place cuts through.

    The scan may keep any rows of the lowest score. One place more than k tells where it had to
    choose; there twice as many are asked for, until all rows of that score are in sight.
    """
    k = min(k, rows)
    scores = np.empty((len(queries), k), np.float32)
    places = np.empty((len(queries), k), np.int64)

    def settle(some: Int[np.ndarray, "Q"], wanted: int) -> Int[np.ndarray, "Q"]:
        """Put in what is found; returns the queries whose last place is still open."""
        found = scan(queries[some], wanted)
        ties = found.places if tie_order is None else tie_order[found.places]
        order = np.lexsort((ties, -found.scores), axis=1)[:, :k]
        scores[some] = np.take_along_axis(found.scores, order, axis=1)
        places[some] = np.take_along_axis(found.places, order, axis=1)
        cut = found.scores[:, k - 1] == found.scores[:, -1]
        return some[cut] if wanted < rows else some[:0]

    wanted = min(k + 1, rows)
    open_queries = settle(np.arange(len(queries)), wanted)
    while len(open_queries):
        # rounds cost more than places in a small collection
        wanted = rows if rows <= 4 * STEP_ROWS else min(2 * wanted, rows)
        blocks = range(0, len(open_queries), QUERIES_AT_ONCE)
        still = [settle(open_queries[first : first + QUERIES_AT_ONCE], wanted) for first in blocks]
        open_queries = np.concatenate(still)
    return Found(scores, places)


def _scan(
    queries: Float[np.ndarray, "Q D"],
    chunks: Iterator[Chunk],
    k: int,
    rows: int,
    mesh: Mesh,
    step: int,
    approximate_recall: float | None,
) -> Found:
    """The k best rows of each query; which of equal ones is left open."""
    # few queries need no block of 256
    size = min(QUERIES_AT_ONCE, 1 << max(3, (len(queries) - 1).bit_length()))
    program = _program(mesh, step, k, approximate_recall)
    whole = NamedSharding(mesh, PartitionSpec())
    blocks = [
        jax.device_put(np.pad(part, ((0, size - len(part)), (0, 0))), whole)
        for part in (queries[first : first + size] for first in range(0, len(queries), size))
    ]
    nothing = np.full((size, k), -np.inf, np.float32), np.full((size, k), -1, np.int32)
    best = [jax.device_put(nothing, whole) for _ in blocks]
    for chunk in chunks:
        finite = np.asarray(chunk.finite)
        if not finite.all():
            row = chunk.first + int(np.argmin(finite))
            raise UserError(f"the embedding of passage {row} is not finite")
        best = [
            program(block, chunk.rows, chunk.scales, *carried, chunk.first, rows)
            for block, carried in zip(blocks, best)
        ]
        # two chunks are on the devices, this one and the one that is being sent, never three
        jax.block_until_ready(best)
    scores, places = (np.concatenate(jax.device_get(list(part))) for part in zip(*best))
    return Found(scores[: len(queries)], places[: len(queries)].astype(np.int64))


def _layout(index: Vectors, chunk_bytes: int | None) -> tuple[Mesh, int, int]:
    """The mesh, the rows of a step on each device, and the rows of a chunk on all of them.

    Without a limit the whole index is one chunk.
    """
    mesh = data_mesh()
    devices = mesh.size
    rows = -(-len(index) // devices)
    step = min(STEP_ROWS, -(-rows // ALIGNED_ROWS) * ALIGNED_ROWS)
    steps, chunks = -(-rows // step), 1
    if chunk_bytes is not None:
        step_bytes = step * index.width * index.embeddings.dtype.itemsize
        chunks = -(-steps // max(1, chunk_bytes // step_bytes))
    # even chunks: the last one is padded to the size of the others
    return mesh, step, step * -(-steps // chunks) * devices


def _send_chunks(index: Vectors, mesh: Mesh, size: int) -> Iterator[Chunk]:
    """Chunks on the devices; while one is used, a thread reads and sends the next."""
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    finite = _finite_rows(mesh)
    scales = np.empty(0, np.float32) if index.scales is None else index.scales

    def sharded(whole: np.ndarray, first: int) -> Array:
        if not len(whole):
            return jax.device_put(whole, sharding)

        def read(place: Any) -> np.ndarray:  # the slice of each axis that a device holds
            begin, end, _ = place[0].indices(size)
            rows = np.zeros((end - begin, *whole.shape[1:]), whole.dtype)
            part = whole[first + begin : first + end]
            rows[: len(part)] = part
            return rows

        return jax.make_array_from_callback((size, *whole.shape[1:]), sharding, read)

    def send(first: int) -> Chunk:
        rows, row_scales = sharded(index.embeddings, first), sharded(scales, first)
        return Chunk(first, rows, row_scales, finite(rows, row_scales))

    with ThreadPoolExecutor(1) as sender:
        starts = range(0, len(index), size)
        following = sender.submit(send, starts[0])
        for start in (*starts[1:], None):
            chunk = following.result()
            if start is not None:
                following = sender.submit(send, start)
            yield chunk


@cache
def _finite_rows(mesh: Mesh) -> Callable[[Array, Array], Array]:
    def finite(rows: Array, scales: Array) -> Array:
        if rows.dtype == jnp.int8:
            return jnp.isfinite(scales)
        return jnp.isfinite(jnp.sum(jnp.abs(rows.astype(jnp.float32)), axis=1))

    by_row, whole = PartitionSpec(mesh.axis_names), NamedSharding(mesh, PartitionSpec())
    sharded = jax.shard_map(finite, mesh=mesh, in_specs=(by_row, by_row), out_specs=by_row)
    return jax.jit(sharded, out_shardings=whole)


class Best(NamedTuple):
    """The best so far, best first."""

    scores: Float[Array, "B K"]
    places: Int[Array, "B K"]

    def merged(self, scores: Float[Array, "B M"], places: Int[Array, "B M"]) -> "Best":
        """With others, of which equal ones stand behind."""
        all_scores = jnp.concatenate((self.scores, scores), axis=1)
        all_places = jnp.concatenate((self.places, places), axis=1)
        kept, chosen = jax.lax.top_k(all_scores, self.scores.shape[1])
        return Best(kept, jnp.take_along_axis(all_places, chosen, axis=1))


def _merge_step(
    best: Best,
    floor: Float[Array, "B 1"],
    scores: Float[Array, "B S"],
    first: Int[Array, ""],
    total: Int[Array, ""],
    recall: float | None,
) -> Best:
    """Merge the scores of neighbouring rows, the first of number `first`, into the best so far.

    Rows from `total` on are padding. To sort out k of a thousand rows costs as much as to score
    them. But after a few steps hardly any row beats the k-th best, here or before (`floor`): if
    those that do lie in few groups of neighbours, which the groups' highest scores tell, only these
    groups are looked at.
    """
    k = best.scores.shape[1]
    queries, rows = scores.shape

    def masked(scores: Float[Array, "B *n"], number: Int[Array, "*n"]) -> Float[Array, "B *n"]:
        # where it is used, so that the scores are written and read once
        return jnp.where((number < total)[None], scores, -jnp.inf)

    numbers = first + jnp.arange(rows, dtype=jnp.int32)

    def from_all(best: Best) -> Best:
        some = masked(scores, numbers)
        if recall is None:
            return best.merged(*_numbered(jax.lax.top_k(some, min(k, rows)), first))
        found = jax.lax.approx_max_k(some, min(k, rows), recall_target=recall)
        return best.merged(*_numbered(found, first))

    grouped, grouped_numbers = scores.reshape(queries, -1, GROUP), numbers.reshape(-1, GROUP)
    highest = masked(grouped, grouped_numbers).max(axis=2)

    def from_few_groups(best: Best) -> Best:
        _, groups = jax.lax.top_k(highest, FEW_GROUPS)
        chosen = jnp.take_along_axis(grouped, groups[:, :, None], axis=1).reshape(queries, -1)
        number = jnp.take(grouped_numbers, groups, axis=0).reshape(queries, -1)
        return best.merged(jnp.where(number < total, chosen, -jnp.inf), number)

    if recall is not None or highest.shape[1] <= FEW_GROUPS:
        return from_all(best)
    better = (highest > jnp.maximum(best.scores[:, -1:], floor)).sum(axis=1)
    return jax.lax.cond((better <= FEW_GROUPS).all(), from_few_groups, from_all, best)


def _numbered(found: tuple[Array, Array], first: Int[Array, ""]) -> tuple[Array, Array]:
    return found[0], first + found[1]


@cache
def _program(mesh: Mesh, step: int, k: int, recall: float | None) -> Callable:
    """Compiled: the best of a chunk merged into the best so far."""

    def local(queries, rows, scales, scores, places, first, total):
        before = Best(scores, places)
        begin = first + jax.lax.axis_index(mesh.axis_names) * rows.shape[0]

        def body(best: Best, number: Array) -> tuple[Best, None]:
            start = number * step
            part = jax.lax.dynamic_slice_in_dim(rows, start, step).astype(jnp.float32)
            found = jnp.einsum("bd,sd->bs", queries, part, precision=jax.lax.Precision.HIGHEST)
            if scales.size:
                found = found * jax.lax.dynamic_slice_in_dim(scales, start, step)[None, :]
            return _merge_step(best, scores[:, -1:], found, begin + start, total, recall), None

        nothing = Best(jnp.full_like(scores, -jnp.inf), jnp.full_like(places, -1))
        numbers = jnp.arange(rows.shape[0] // step, dtype=jnp.int32)
        mine, _ = jax.lax.scan(body, nothing, numbers)
        everyone = (
            jnp.moveaxis(jax.lax.all_gather(part, mesh.axis_names), 0, 1).reshape(len(part), -1)
            for part in mine
        )
        return tuple(before.merged(*everyone))

    by_row, whole = PartitionSpec(mesh.axis_names), PartitionSpec()
    sharded = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(whole, by_row, by_row, whole, whole, whole, whole),
        out_specs=(whole, whole),
        check_vma=False,  # all devices merge the same lists, which the checker cannot see
    )
    return jax.jit(sharded, donate_argnums=(3, 4))


def data_mesh() -> Mesh:
    """The mesh that is set, or one of all devices."""
    mesh = jax.sharding.get_mesh()
    return jax.make_mesh((jax.device_count(),), ("data",)) if mesh.empty else mesh
