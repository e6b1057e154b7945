"""Exact ranks of the relevant passages, from counts of the passages that score above them.

Dimension key: Q queries, P passages, D width, R relevant passages of a query at most, N languages,
B queries of a block, K columns (the passages, each language padded to whole chunks), C chunks.

The rank of a relevant passage is one more than the number of passages above it, so nothing is
sorted, and counts by passage language give the ranks of all settings: among the passages of one
language, or in the pool of all. Equal scores are ordered by descending id, as in trec_eval.

The scores of a block are [K, B]: every step is elementwise or sums over the middle axis of
[C, CHUNK, B], which vectorises over queries on any kind of device.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from jaxir.errors import UserError
from jaxir.evaluation.dataset import RetrievalDataset
from jaxir.retrieval.chunks import data_mesh

HIGHEST = jax.lax.Precision.HIGHEST
CHUNK = 32  # columns of one language that are counted together
# Fixed, so that a device does the same arithmetic whatever the number of devices.
QUERIES_PER_DEVICE = 128
MAX_SCORES = 1 << 27  # on a device: half a gigabyte
PADDING = np.iinfo(np.int32).max  # tie order of a padding column


class Columns(NamedTuple):
    """Layout of the passages as columns of scores: every chunk holds passages of one language."""

    passage: Int[np.ndarray, "K"]  # of each column; -1: padding
    column: Int[np.ndarray, "P"]  # of each passage
    tie_order: Int[np.ndarray, "K"]  # rank among equal scores, from 0; PADDING
    chunk_language: Float[np.ndarray, "C N"]  # one-hot


def count_ranked_above(
    query_embeddings: Float[np.ndarray, "Q D"],
    passage_embeddings: Float[np.ndarray, "P D"],
    dataset: RetrievalDataset,
) -> Int[np.ndarray, "Q R N"]:
    """Count, for every relevant passage, the passages of each language that rank above it.

    The score is the dot product in float32. Runs on all devices of the mesh that is set, or of the
    machine, with the queries of a block sharded over them.

    Returns:
        Counts by passage language; -1 where `relevant` is padding.

    Raises:
        UserError: embeddings are not finite or do not fit the dataset.
    """
    query_embeddings = np.asarray(query_embeddings, np.float32)
    passage_embeddings = np.asarray(passage_embeddings, np.float32)
    check_embeddings(query_embeddings, passage_embeddings, dataset)
    mesh = data_mesh()
    columns = _columns(dataset)
    # padding columns get a copy of row 0; their scores are masked
    passages = jax.device_put(
        passage_embeddings[np.maximum(columns.passage, 0)], NamedSharding(mesh, PartitionSpec())
    )
    count = _compile_count(mesh, from_embeddings=True)
    return _count_blocks(
        lambda block: query_embeddings[block], passages, count, mesh, columns, dataset
    )


def count_ranked_above_by_scores(
    score: Callable[[slice], Float[np.ndarray, "B P"]], dataset: RetrievalDataset
) -> Int[np.ndarray, "Q R N"]:
    """Count as `count_ranked_above`, from scores that a function computes block by block.

    Args:
        score: returns the finite scores of a slice of the queries against every passage.
        dataset: queries, passages and judgements.

    Returns:
        Counts by passage language; -1 where `relevant` is padding.
    """
    mesh = data_mesh()
    columns = _columns(dataset)
    count = _compile_count(mesh, from_embeddings=False)

    def rows(block: slice) -> Float[np.ndarray, "B K"]:
        return np.asarray(score(block), np.float32)[:, np.maximum(columns.passage, 0)]

    return _count_blocks(rows, None, count, mesh, columns, dataset)


def ranks_within_language(
    above: Int[np.ndarray, "Q R N"], dataset: RetrievalDataset
) -> Int[np.ndarray, "Q R"]:
    """Ranks, from 1, of relevant passages among the passages of their language; 0 is padding."""
    language = dataset.passage_language[dataset.relevant]
    return np.take_along_axis(above, language[:, :, None], axis=2)[:, :, 0] + 1


def ranks_in_pool(above: Int[np.ndarray, "Q R N"]) -> Int[np.ndarray, "Q R"]:
    """Ranks, from 1, of relevant passages among the passages of all languages; 0 is padding."""
    return np.where(above[:, :, 0] < 0, 0, above.sum(axis=2) + 1)


def tie_order_of(passage_ids: list[str]) -> Int[np.ndarray, "P"]:
    """Rank of each passage among equal scores, from 0: by descending id, as in trec_eval."""
    descending = sorted(range(len(passage_ids)), key=passage_ids.__getitem__, reverse=True)
    tie_order = np.empty(len(passage_ids), np.int32)
    tie_order[descending] = np.arange(len(passage_ids))
    return tie_order


def check_embeddings(
    query_embeddings: Float[np.ndarray, "Q D"],
    passage_embeddings: Float[np.ndarray, "P D"],
    dataset: RetrievalDataset,
) -> None:
    """Refuse embeddings that cannot be ranked.

    Raises:
        UserError: an embedding is not finite, or they do not fit the dataset or each other.
    """
    for side, embeddings, ids in (
        ("query", query_embeddings, dataset.query_ids),
        ("passage", passage_embeddings, dataset.passage_ids),
    ):
        if embeddings.ndim != 2 or len(embeddings) != len(ids):
            raise UserError(
                f"{side} embeddings have shape {embeddings.shape}; {len(ids)} rows are needed"
            )
        finite = np.isfinite(embeddings).all(axis=1)
        if not finite.all():
            text = ids[int(np.argmin(finite))]
            raise UserError(f"the embedding of {side} {text!r} is not finite")
    if query_embeddings.shape[1] != passage_embeddings.shape[1]:
        raise UserError(
            f"query embeddings have width {query_embeddings.shape[1]}, those of the passages "
            f"{passage_embeddings.shape[1]}: encode both with one model"
        )


def _columns(dataset: RetrievalDataset) -> Columns:
    passages = len(dataset.passage_ids)
    languages = len(dataset.languages)
    tie_order = tie_order_of(dataset.passage_ids)

    def padded(language: int) -> np.ndarray:
        rows = np.flatnonzero(dataset.passage_language == language)
        return np.pad(rows, (0, -len(rows) % CHUNK), constant_values=-1)

    segments = [padded(language) for language in range(languages)]
    passage = np.concatenate(segments)
    column = np.empty(passages, np.int32)
    column[passage[passage >= 0]] = np.flatnonzero(passage >= 0)
    chunks = [len(segment) // CHUNK for segment in segments]
    return Columns(
        passage=passage,
        column=column,
        tie_order=np.where(passage < 0, PADDING, tie_order[passage]).astype(np.int32),
        chunk_language=np.repeat(np.eye(languages, dtype=np.float32), chunks, axis=0),
    )


def _count_blocks(
    rows: Callable[[slice], np.ndarray],
    passages: Array | None,
    count: Callable,
    mesh: Mesh,
    columns: Columns,
    dataset: RetrievalDataset,
) -> Int[np.ndarray, "Q R N"]:
    """Count block by block; all blocks have one shape, so that one program serves them all."""
    replicated = NamedSharding(mesh, PartitionSpec())
    by_query = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    relevant = dataset.relevant
    relevant_columns = columns.column[np.maximum(relevant, 0)]
    tie_order = jax.device_put(columns.tie_order, replicated)
    chunk_language = jax.device_put(columns.chunk_language, replicated)
    counts = []
    # fewer queries where the pool is large, so that a block's scores fit on the device
    size = min(QUERIES_PER_DEVICE, max(1, MAX_SCORES // len(columns.passage)))
    size *= mesh.size
    for start in range(0, len(relevant), size):
        block = slice(start, min(start + size, len(relevant)))
        padded = (
            np.pad(array, ((0, size - len(array)), (0, 0)))
            for array in (rows(block), relevant_columns[block])
        )
        block_rows, block_relevant = jax.device_put(tuple(padded), by_query)
        counts.append(count(block_rows, block_relevant, passages, tie_order, chunk_language))
    above = np.concatenate(jax.device_get(counts))[: len(relevant)]
    return np.where(relevant[:, :, None] < 0, -1, above)


@functools.cache
def _compile_count(mesh: Mesh, from_embeddings: bool) -> Callable:
    """Compile the count of a block; replicated, since every process reads all of it."""

    def count(rows, relevant, passages, tie_order, chunk_language):
        scores = rows.T
        if from_embeddings:
            scores = jnp.einsum("kd,bd->kb", passages, rows, precision=HIGHEST)
        return count_above(scores, relevant, tie_order, chunk_language)

    by_query, replicated = PartitionSpec(mesh.axis_names), PartitionSpec()
    sharded = jax.shard_map(
        count,
        mesh=mesh,
        in_specs=(by_query, by_query, replicated, replicated, replicated),
        out_specs=by_query,
    )
    return jax.jit(sharded, out_shardings=NamedSharding(mesh, replicated))


def count_above(
    scores: Float[Array, "K B"],
    relevant: Int[Array, "B R"],
    tie_order: Int[Array, "K"],
    chunk_language: Float[Array, "C N"],
) -> Int[Array, "B R N"]:
    """Count, for the relevant columns of each query, the columns of each language above them.

    Args:
        scores: of each column for each query; those of padding columns are ignored.
        relevant: columns of the relevant passages.
        tie_order: rank of each column among equal scores, from 0; PADDING for padding.
        chunk_language: one-hot language of each chunk of columns.
    """
    scores = jnp.where((tie_order == PADDING)[:, None], -jnp.inf, scores)
    queries = jnp.arange(scores.shape[1])
    chunked = scores.reshape(-1, CHUNK, scores.shape[1])
    chunked_order = tie_order.reshape(-1, CHUNK, 1)

    def count_one(_, column):
        score = scores[column, queries][None, None, :]
        order = tie_order[column][None, None, :]
        # the tie rule of trec_eval: of equal scores the passage with the larger id ranks higher
        is_above = (chunked > score) | ((chunked == score) & (chunked_order < order))
        in_chunk = is_above.sum(axis=1, dtype=jnp.float32)
        # float32, since not every device multiplies integers; integers below 2**24 are exact
        in_language = jnp.einsum("cb,cn->bn", in_chunk, chunk_language, precision=HIGHEST)
        return None, in_language.astype(jnp.int32)

    # one relevant passage at a time: the comparisons of a block then stay in the processor's cache
    _, counts = jax.lax.scan(count_one, None, relevant.T)
    return jnp.moveaxis(counts, 0, 1)
