"""Exact search: the k passages that score highest, over an index that is sharded or streamed.

Dimension key: Q queries, P passages, R some of them, D width, B queries of a block, K places,
S rows of a chunk on one device.

The index goes to the devices in chunks, each device holding its rows of a chunk. There a block of
queries is scored against them, and the k best so far are kept; the devices' lists are then merged,
so that no more than [B, S] scores stand anywhere (but where so many rows have one score that it
takes all of them to tell which come first). Every chunk travels once: while the devices search one,
a thread reads the next from disk and sends it.

Equal scores are put in order at the very end (`_break_ties`), so that neither the number of devices
nor the sizes of chunks and blocks show in the result.
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
CHUNK_BYTES = 1 << 26  # of the index on one device, where it does not stay there
CHUNK_ROWS = 1 << 18  # on one device: fewer cost more merging, more have scores for the most memory
ALIGNED_ROWS = 256  # a chunk's rows on one device are a multiple of this
GROUP = 32  # neighbouring rows whose highest score stands for them
FEW_GROUPS = 16, 32, 64  # with which a chunk may get by
SMALL_COLLECTION = 1 << 16  # in which the order of all costs less than another round


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
    for first in range(0, len(rounded), CHUNK_ROWS):  # of millions no second copy in float32
        part = slice(first, first + CHUNK_ROWS)
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
    chunks: "tuple[Chunk, ...]"
    mesh: Mesh

    def __len__(self) -> int:
        return len(self.index)


class Chunk(NamedTuple):
    """Neighbouring rows of an index, split over the devices."""

    first: int  # number of the first row
    rows: Array
    scales: Array  # of int8 rows, else empty


def place(index: Vectors) -> PlacedVectors:
    """Send the whole of an index to the devices of the mesh, which must have room for it."""
    mesh = data_mesh()
    return PlacedVectors(index, tuple(_send_chunks(index, mesh, CHUNK_ROWS)), mesh)


def search(
    queries: Float[np.ndarray, "Q D"],
    index: Vectors | PlacedVectors,
    k: int,
    *,
    tie_order: Int[np.ndarray, "P"] | None = None,
    approximate_recall: float | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> Found:
    """The k highest dot products of each query, on all devices of the mesh.

    Products are exact and sums in float32. But where the index is not in float32, queries are first
    rounded to bfloat16, which holds all numbers of such an index: their rounding is no coarser than
    its own, and matrix units take both as they are.

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
    vectors = index.index if isinstance(index, PlacedVectors) else index
    width = vectors.width
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
    if vectors.embeddings.dtype != np.float32:
        queries = queries.astype(ml_dtypes.bfloat16)
    chunks: Callable[[], Iterator[Chunk]]
    if isinstance(index, PlacedVectors):
        mesh, chunks = index.mesh, partial(iter, index.chunks)
    else:
        mesh, row_bytes = data_mesh(), width * vectors.embeddings.dtype.itemsize
        chunks = partial(_send_chunks, index, mesh, min(CHUNK_ROWS, chunk_bytes // row_bytes))

    def scan(some: Float[np.ndarray, "Q D"], places: int) -> Found:
        streamed = vectors is index
        return _scan(some, chunks(), places, len(index), mesh, approximate_recall, streamed)

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
        wanted = rows if rows <= SMALL_COLLECTION else min(2 * wanted, rows)
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
    approximate_recall: float | None,
    streamed: bool,
) -> Found:
    """The k best rows of each query; which of equal ones is left open."""
    # few queries need no block of 256
    size = min(QUERIES_AT_ONCE, 1 << max(3, (len(queries) - 1).bit_length()))
    program = _program(mesh, k, approximate_recall)
    whole = NamedSharding(mesh, PartitionSpec())
    blocks = [
        jax.device_put(np.pad(part, ((0, size - len(part)), (0, 0))), whole)
        for part in (queries[first : first + size] for first in range(0, len(queries), size))
    ]
    nothing = np.full((size, k), -np.inf, np.float32), np.full((size, k), -1, np.int32)
    best = [jax.device_put(nothing, whole) for _ in blocks]
    for chunk in chunks:
        best = [
            program(block, chunk.rows, chunk.scales, *aux_state, chunk.first, rows)
            for block, aux_state in zip(blocks, best)
        ]
        if streamed:
            # two chunks are on the devices, this one and the one that is being sent, never three
            jax.block_until_ready(best)
    scores, places = (np.concatenate(jax.device_get(list(part))) for part in zip(*best))
    return Found(scores[: len(queries)], places[: len(queries)].astype(np.int64))


def _send_chunks(index: Vectors, mesh: Mesh, most_rows: int) -> Iterator[Chunk]:
    """Chunks on the devices; while one is used, a thread reads and sends the next.

    They are of one size, so that one program serves all and the last one needs little padding.

    Args:
        index: the rows, of which each goes once.
        mesh: the devices.
        most_rows: of a chunk on one device, apart from rounding up to `ALIGNED_ROWS`.

    Raises:
        UserError: an embedding is not finite.
    """
    rows = -(-len(index) // mesh.size)
    even = -(-rows // -(-rows // max(1, most_rows)))
    size = -(-even // ALIGNED_ROWS) * ALIGNED_ROWS * mesh.size
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
        return Chunk(first, sharded(index.embeddings, first), sharded(scales, first))

    with ThreadPoolExecutor(1) as sender:
        starts = range(0, len(index), size)
        following = sender.submit(send, starts[0])
        for start in (*starts[1:], None):
            chunk = following.result()
            if start is not None:
                following = sender.submit(send, start)
            good = np.asarray(finite(chunk.rows, chunk.scales))
            if not good.all():
                row = chunk.first + int(np.argmin(good))
                raise UserError(f"the embedding of passage {row} is not finite")
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


def _merge(
    best: Best,
    floor: Float[Array, "B 1"],
    scores: Float[Array, "B S"],
    first: Int[Array, ""],
    total: Int[Array, ""],
    recall: float | None,
) -> Best:
    """Merge the scores of neighbouring rows, the first of number `first`, into the best so far.

    Rows from `total` on are padding. To sort out k of all rows costs as much as to score them. But
    the k best lie in k groups of neighbours, those with the highest bests; and as chunks go by,
    hardly any row beats the k-th best so far (`floor`), so that a few groups will do.
    """
    k = best.scores.shape[1]
    queries, rows = scores.shape
    numbers = first + jnp.arange(rows, dtype=jnp.int32)
    if recall is not None or 4 * k * GROUP > rows:
        some = jnp.where((numbers < total)[None], scores, -jnp.inf)
        few = min(k, rows)
        if recall is None:
            found, chosen = jax.lax.top_k(some, few)
        else:
            found, chosen = jax.lax.approx_max_k(some, few, recall_target=recall)
        return best.merged(found, first + chosen)
    grouped = scores.reshape(queries, -1, GROUP)
    highest = _highest(grouped, total - first)

    def from_groups(few: int, best: Best) -> Best:
        _, groups = jax.lax.top_k(highest, few)
        chosen = jnp.take_along_axis(grouped, groups[:, :, None], axis=1)
        number = jnp.take(numbers.reshape(-1, GROUP), groups, axis=0)
        chosen = jnp.where(number < total, chosen, -jnp.inf)
        return best.merged(chosen.reshape(queries, -1), number.reshape(queries, -1))

    ladder = [*(few for few in FEW_GROUPS if few < k), k]
    better = (highest > floor).sum(axis=1).max()
    branch = sum(better > few for few in ladder[:-1])
    return jax.lax.switch(branch, [partial(from_groups, few) for few in ladder], best)


def _highest(grouped: Float[Array, "B G M"], filled: Int[Array, ""]) -> Float[Array, "B G"]:
    """Each group's highest score; rows from number `filled` on are padding.

    To look at each row's number takes three times as long as to take the highest. Only in one group
    may there be padding beside rows.
    """
    groups, size = grouped.shape[1:]
    number = jnp.arange(groups, dtype=jnp.int32)
    mixed = jnp.clip(filled // size, 0, groups - 1)
    inside = jax.lax.dynamic_index_in_dim(grouped, mixed, axis=1, keepdims=False)
    real = mixed * size + jnp.arange(size, dtype=jnp.int32) < filled
    of_mixed = jnp.where(real[None], inside, -jnp.inf).max(axis=1, keepdims=True)
    others = jnp.where(((number + 1) * size <= filled)[None], grouped.max(axis=2), -jnp.inf)
    return jnp.where((number == mixed)[None], of_mixed, others)


def _has_matrix_units(mesh: Mesh) -> bool:
    return mesh.devices.flat[0].platform != "cpu"


@cache
def _program(mesh: Mesh, k: int, recall: float | None) -> Callable:
    """Compiled: the best of a chunk merged into the best so far."""

    has_matrix_units = _has_matrix_units(mesh)

    def local(queries, rows, scales, scores, places, first, total):
        device = jax.lax.axis_index(mesh.axis_names)
        # without matrix units float32, which gives the same, is faster
        kind = queries.dtype if has_matrix_units else jnp.float32
        found = jnp.einsum(
            "bd,sd->bs",
            queries.astype(kind),
            rows.astype(kind),
            precision=jax.lax.Precision.HIGHEST,
            preferred_element_type=jnp.float32,
        )
        if scales.size:
            found = found * scales[None, :]
        before = Best(jnp.where(device == 0, scores, -jnp.inf), places)  # each of them once
        number = first + device * rows.shape[0]
        best = _merge(before, scores[:, -1:], found, number, total, recall)
        if mesh.size == 1:
            return tuple(best)
        everyone = Best(
            *(
                jnp.moveaxis(jax.lax.all_gather(part, mesh.axis_names), 0, 1).reshape(len(part), -1)
                for part in best
            )
        )
        kept, chosen = jax.lax.top_k(everyone.scores, k)
        return kept, jnp.take_along_axis(everyone.places, chosen, axis=1)

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
