"""Held-out clusters: a split that stays the same for a cluster when others come or go.

Dimension key: G parallel groups, C clusters.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int, UInt64

from jaxir.data.collection import Collection, take_groups
from jaxir.data.hashing import hash_text
from jaxir.errors import UserError


def split_held_out(
    collection: Collection, share: float, limit: int, seed: int
) -> tuple[Collection, Collection]:
    """Split off whole clusters for validation, so that no held-out passage is trained on.

    A cluster is held out if a hash of its ids and the seed lies under `share`: it stays on its side
    when rows of other clusters come or go.

    Args:
        collection: to split; both parts keep all its texts.
        share: share of the clusters to hold out, in [0, 1).
        limit: hold out at most that many groups; larger clusters stay in training.
        seed: another seed, another split.

    Returns:
        (training part, held-out part).

    Raises:
        UserError: a positive share holds out nothing, or everything.
    """
    groups = np.arange(len(collection.ids))
    if share == 0:
        return collection, take_groups(collection, groups[:0])
    chosen = held_out_groups(collection.ids, collection.cluster, share, limit, seed)
    return take_groups(collection, groups[~chosen]), take_groups(collection, groups[chosen])


def held_out_groups(
    ids: Sequence[str], cluster: Int[np.ndarray, "G"], share: float, limit: int, seed: int
) -> Bool[np.ndarray, "G"]:
    """Mask of the groups that `split_held_out` holds out.

    Args:
        ids: that are hashed, one a group.
        cluster: of each group.
        share: share of the clusters to hold out, in [0, 1).
        limit: hold out at most that many groups.
        seed: another seed, another split.

    Raises:
        UserError: none of them is held out, or all are.
    """
    clusters = int(cluster.max(initial=-1)) + 1
    hashes = _cluster_hashes(ids, cluster, clusters, seed)
    sizes = np.bincount(cluster, minlength=clusters)
    held_out = np.zeros(clusters, bool)
    left = limit
    for candidate in np.argsort(hashes, kind="stable"):
        if hashes[candidate] >= share * 2.0**64:
            break
        if 0 < sizes[candidate] <= left:
            held_out[candidate] = True
            left -= int(sizes[candidate])
    chosen = held_out[cluster]
    if not chosen.any() or chosen.all():
        raise UserError(
            f"data.held_out = {share} with held_out_limit = {limit} would hold out "
            f"{chosen.sum()} of {len(chosen)} parallel groups; change them, or set held_out = 0"
        )
    return chosen


def _cluster_hashes(
    ids: Sequence[str], cluster: Int[np.ndarray, "G"], clusters: int, seed: int
) -> UInt64[np.ndarray, "C"]:
    """Hash of each cluster: depends on the smallest hash of its ids, and on the seed, alone."""
    id_hashes = np.fromiter(map(hash_text, ids), np.uint64, len(ids))
    smallest = np.full(clusters, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(smallest, cluster, id_hashes)
    # hashed again, since the smallest of many uniform numbers is no longer uniform
    seeded = (hash_text(f"{seed} {smallest_hash}") for smallest_hash in smallest.tolist())
    return np.fromiter(seeded, np.uint64, clusters)
