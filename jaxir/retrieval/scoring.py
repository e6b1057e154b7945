"""Scores of a chunk on the devices, merged into the top-k so far.

Dimension key: B queries of a block, D width, S rows of a chunk on one device, G groups of rows,
M rows of a group, K top-k.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

GROUP_ROWS = 32  # neighbouring rows whose highest score stands for them
GROUP_COUNTS = 16, 32, 64  # of groups that may do for a chunk, where k would be the safe number


class RunningTopK(NamedTuple):
    """The top-k of each query among the rows scored so far, best first."""

    scores: Float[Array, "B K"]
    indices: Int[Array, "B K"]

    def merged(self, scores: Float[Array, "B S"], indices: Int[Array, "B S"]) -> "RunningTopK":
        """The top-k with more rows; of equal scores those that are here already stay."""
        all_scores = jnp.concatenate((self.scores, scores), axis=1)
        all_indices = jnp.concatenate((self.indices, indices), axis=1)
        top, columns = jax.lax.top_k(all_scores, self.scores.shape[1])
        return RunningTopK(top, jnp.take_along_axis(all_indices, columns, axis=1))


@cache
def compile_update(mesh: Mesh, k: int, recall: float | None) -> Callable:
    """Compile the update of the top-k with a chunk.

    Args:
        mesh: the devices; each scores its rows of the chunk.
        k: length of the lists.
        recall: of `jax.lax.approx_max_k`; None: exact.

    Returns:
        A function of queries [B, D], the chunk's rows and scales, the scores and indices [B, K] so
        far (donated), the index of the chunk's first row, and the number of rows of the index. It
        returns the new scores and indices, the same on all devices.
    """
    has_matrix_units = _has_matrix_units(mesh)

    def update(queries, rows, scales, top_scores, top_indices, start, total):
        device = jax.lax.axis_index(mesh.axis_names)
        # without matrix units float32, which gives the same, is faster
        dtype = queries.dtype if has_matrix_units else jnp.float32
        scores = jnp.einsum(
            "bd,sd->bs",
            queries.astype(dtype),
            rows.astype(dtype),
            precision=jax.lax.Precision.HIGHEST,
            preferred_element_type=jnp.float32,
        )
        if scales.size:
            scores = scores * scales[None, :]
        # every device has the lists so far, but only the first brings them in: each row counts once
        before = RunningTopK(jnp.where(device == 0, top_scores, -jnp.inf), top_indices)
        device_start = start + device * rows.shape[0]
        top = _merge_rows(before, top_scores[:, -1:], scores, device_start, total, recall)
        if mesh.size == 1:
            return tuple(top)
        gathered = RunningTopK(
            *(
                jnp.moveaxis(jax.lax.all_gather(part, mesh.axis_names), 0, 1).reshape(len(part), -1)
                for part in top
            )
        )
        merged, columns = jax.lax.top_k(gathered.scores, k)
        return merged, jnp.take_along_axis(gathered.indices, columns, axis=1)

    by_row, replicated = PartitionSpec(mesh.axis_names), PartitionSpec()
    sharded = jax.shard_map(
        update,
        mesh=mesh,
        in_specs=(replicated, by_row, by_row, replicated, replicated, replicated, replicated),
        out_specs=(replicated, replicated),
        check_vma=False,  # all devices merge the same lists, which the checker cannot see
    )
    return jax.jit(sharded, donate_argnums=(3, 4))


def _has_matrix_units(mesh: Mesh) -> bool:
    return mesh.devices.flat[0].platform != "cpu"


def _merge_rows(
    top: RunningTopK,
    floor: Float[Array, "B 1"],
    scores: Float[Array, "B S"],
    start: Int[Array, ""],
    total: Int[Array, ""],
    recall: float | None,
) -> RunningTopK:
    """Merge the scores of neighbouring rows into the top-k.

    To select k of all rows costs as much as to score them. But the k best rows lie in the k groups
    of neighbours with the highest maxima; and after the first chunks hardly any row beats the k-th
    score so far, so that a few groups are enough.

    Args:
        top: the lists so far.
        floor: the k-th score so far of each query.
        scores: of the rows.
        start: index of the first row.
        total: rows of the index; rows from there on are padding.
        recall: of an approximate selection; None: exact.
    """
    k = top.scores.shape[1]
    queries, rows = scores.shape
    indices = start + jnp.arange(rows, dtype=jnp.int32)
    if recall is not None or 4 * k * GROUP_ROWS > rows:
        # too few rows for groups to save anything
        masked = jnp.where((indices < total)[None], scores, -jnp.inf)
        count = min(k, rows)
        if recall is None:
            best, columns = jax.lax.top_k(masked, count)
        else:
            best, columns = jax.lax.approx_max_k(masked, count, recall_target=recall)
        return top.merged(best, start + columns)
    grouped = scores.reshape(queries, -1, GROUP_ROWS)
    maxima = _group_maxima(grouped, total - start)

    def merge_groups(count: int, top: RunningTopK) -> RunningTopK:
        """Merge the rows of the `count` groups with the highest maxima."""
        _, groups = jax.lax.top_k(maxima, count)
        group_scores = jnp.take_along_axis(grouped, groups[:, :, None], axis=1)
        group_indices = jnp.take(indices.reshape(-1, GROUP_ROWS), groups, axis=0)
        group_scores = jnp.where(group_indices < total, group_scores, -jnp.inf)
        return top.merged(group_scores.reshape(queries, -1), group_indices.reshape(queries, -1))

    # the fewest groups that hold every row above the floor, of any query; k groups always do
    counts = [*(count for count in GROUP_COUNTS if count < k), k]
    needed = (maxima > floor).sum(axis=1).max()
    branch = sum(needed > count for count in counts[:-1])
    return jax.lax.switch(branch, [partial(merge_groups, count) for count in counts], top)


def _group_maxima(grouped: Float[Array, "B G M"], filled: Int[Array, ""]) -> Float[Array, "B G"]:
    """Highest score of each group; rows from position `filled` on are padding.

    Masking every row takes three times as long as the maxima themselves. But at most one group
    holds padding beside rows, so only that one is masked row by row.
    """
    groups, size = grouped.shape[1:]
    positions = jnp.arange(groups, dtype=jnp.int32)
    mixed = jnp.clip(filled // size, 0, groups - 1)
    mixed_scores = jax.lax.dynamic_index_in_dim(grouped, mixed, axis=1, keepdims=False)
    real = mixed * size + jnp.arange(size, dtype=jnp.int32) < filled
    of_mixed = jnp.where(real[None], mixed_scores, -jnp.inf).max(axis=1, keepdims=True)
    whole = (positions + 1) * size <= filled
    of_others = jnp.where(whole[None], grouped.max(axis=2), -jnp.inf)
    return jnp.where((positions == mixed)[None], of_mixed, of_others)
