"""Exact top-k search over an index that is sharded over the devices, or streamed through them.

Dimension key: Q queries, P passages, D width, B queries of a block, K top-k.

The index is searched chunk by chunk (`chunks`): a block of queries is scored against the rows of
each device and the top-k so far are updated (`scoring`), so that no more scores than a block's
against one chunk are in memory (but where so many rows have one score that it takes all of them to
tell which come first).

Equal scores are put in order at the very end (`_break_ties`), so that the result depends neither on
the number of devices nor on the sizes of chunks and blocks.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import ml_dtypes
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, Int

from jaxir.errors import UserError
from jaxir.retrieval.chunks import CHUNK_BYTES, Chunk, DeviceVectors, data_mesh, stream_chunks
from jaxir.retrieval.scoring import compile_update
from jaxir.retrieval.vectors import Vectors

QUERY_BLOCK = 256  # queries scored together
SMALL_INDEX = 1 << 16  # rows: to rank them all costs less than another round of search


class TopK(NamedTuple):
    """The top-k passages of each query, best first; fewer than k where the index has fewer rows."""

    scores: Float[np.ndarray, "Q K"]
    indices: Int[np.ndarray, "Q K"]  # rows of the index


def search(
    queries: Float[np.ndarray, "Q D"],
    index: Vectors | DeviceVectors,
    k: int,
    *,
    tie_order: Int[np.ndarray, "P"] | None = None,
    approximate_recall: float | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> TopK:
    """The k highest dot products of each query, on all devices of the mesh.

    Products are exact and sums in float32. But where the index is not in float32, queries are first
    rounded to bfloat16, which holds all numbers of such an index: their rounding is no coarser than
    its own, and matrix units take both as they are.

    Args:
        queries: finite embeddings.
        index: the passages; `Vectors` are sent to the devices chunk by chunk.
        k: length of the list; more than the index has rows gives all of them.
        tie_order: rank of each row among equal scores, lowest first; None: its index.
        approximate_recall: use `jax.lax.approx_max_k`, which may miss the others; None: exact.
        chunk_bytes: size of a streamed chunk on one device.

    Raises:
        UserError: embeddings that are not finite or of another width than the index, or k < 1.
    """
    queries = np.asarray(queries, np.float32)
    vectors = index.vectors if isinstance(index, DeviceVectors) else index
    _check_queries(queries, vectors.width, k)
    if vectors.embeddings.dtype != np.float32:
        queries = queries.astype(ml_dtypes.bfloat16)
    chunks: Callable[[], Iterator[Chunk]]
    if isinstance(index, DeviceVectors):
        mesh, chunks = index.mesh, partial(iter, index.chunks)
    else:
        mesh = data_mesh()
        chunks = partial(stream_chunks, index, mesh, chunk_bytes)

    def scan(block: Float[np.ndarray, "B D"], count: int) -> TopK:
        streamed = vectors is index
        return _scan(block, chunks(), count, len(index), mesh, approximate_recall, streamed)

    return _break_ties(scan, queries, k, len(index), tie_order)


def _check_queries(queries: Float[np.ndarray, "Q D"], width: int, k: int) -> None:
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


def _break_ties(
    scan: Callable[[Float[np.ndarray, "Q D"], int], TopK],
    queries: Float[np.ndarray, "Q D"],
    k: int,
    rows: int,
    tie_order: Int[np.ndarray, "P"] | None,
) -> TopK:
    """Order equal scores by `tie_order`, also where the k-th score is shared.

    The scan may keep any rows of its lowest score, so ties at the end of its list are undecided. A
    list one longer than k shows where the k-th score goes on behind it; there the scan is repeated
    for twice as many rows, until all rows of that score are in the list.
    """
    k = min(k, rows)
    scores = np.empty((len(queries), k), np.float32)
    indices = np.empty((len(queries), k), np.int64)

    def settle(block: Int[np.ndarray, "B"], count: int) -> Int[np.ndarray, "B"]:
        """Fill in the rows of these queries; returns the queries whose k-th row is undecided."""
        top = scan(queries[block], count)
        ties = top.indices if tie_order is None else tie_order[top.indices]
        order = np.lexsort((ties, -top.scores), axis=1)[:, :k]
        scores[block] = np.take_along_axis(top.scores, order, axis=1)
        indices[block] = np.take_along_axis(top.indices, order, axis=1)
        # decided where the list goes on below the k-th score, or holds every row there is
        undecided = top.scores[:, k - 1] == top.scores[:, -1]
        return block[undecided] if count < rows else block[:0]

    count = min(k + 1, rows)
    pending = settle(np.arange(len(queries)), count)
    while len(pending):
        # in a small index another round costs more than longer lists
        count = rows if rows <= SMALL_INDEX else min(2 * count, rows)
        starts = range(0, len(pending), QUERY_BLOCK)
        undecided = [settle(pending[start : start + QUERY_BLOCK], count) for start in starts]
        pending = np.concatenate(undecided)
    return TopK(scores, indices)


def _scan(
    queries: Float[np.ndarray, "Q D"],
    chunks: Iterator[Chunk],
    k: int,
    rows: int,
    mesh: Mesh,
    approximate_recall: float | None,
    streamed: bool,
) -> TopK:
    """The k best rows of each query; which rows of the lowest score are kept is undefined."""
    # few queries need no block of 256
    size = min(QUERY_BLOCK, 1 << max(3, (len(queries) - 1).bit_length()))
    update = compile_update(mesh, k, approximate_recall)
    replicated = NamedSharding(mesh, PartitionSpec())
    blocks = [
        jax.device_put(np.pad(part, ((0, size - len(part)), (0, 0))), replicated)
        for part in (queries[start : start + size] for start in range(0, len(queries), size))
    ]
    empty = np.full((size, k), -np.inf, np.float32), np.full((size, k), -1, np.int32)
    tops = [jax.device_put(empty, replicated) for _ in blocks]
    # chunks outside, blocks inside: a streamed chunk is sent once and meets all queries
    for chunk in chunks:
        tops = [
            update(block, chunk.rows, chunk.scales, *top, chunk.start, rows)
            for block, top in zip(blocks, tops)
        ]
        if streamed:
            # two chunks are on the devices, this one and the one that is being sent, never three
            jax.block_until_ready(tops)
    scores, indices = (np.concatenate(jax.device_get(list(part))) for part in zip(*tops))
    return TopK(scores[: len(queries)], indices[: len(queries)].astype(np.int64))
