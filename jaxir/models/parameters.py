"""Modules from parameters that are replicated, or sharded over the devices of a mesh (FSDP)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array


def gather_params(params, shapes):
    """Parameters replicated on every device of their mesh.

    Replicated parameters are left alone; sharded ones (FSDP) are gathered where they are used, and
    their gradient is scattered back.

    Args:
        params: a tree of arrays.
        shapes: a tree of the same structure, of anything with the full array's `shape`.
    """

    def gather(leaf, expected):
        mesh = jax.typeof(leaf).sharding.mesh
        if mesh.explicit_axes:
            return jax.reshard(leaf, NamedSharding(mesh, P()))
        # inside `jax.shard_map` arrays have no sharding: an axis that is shorter than expected
        # shows that the leaf is a device's shard along the mesh axis `data`
        for axis, size in enumerate(expected.shape):
            if leaf.shape[axis] < size:
                return jax.lax.all_gather(leaf, "data", axis=axis, tiled=True)
        return leaf

    return jax.tree.map(gather, params, shapes)


def with_params(make: Callable[[], nnx.Module], params: dict[str, Any]) -> Any:
    """The module that `make` makes, with these parameters, gathered.

    Those stacked under "layers" stay sharded: `run_layers` gathers them layer by layer, so that no
    device ever holds all layers at once.
    """
    graph, state = nnx.split(nnx.eval_shape(make))

    def load(path: tuple, leaf: Array, shape: jax.ShapeDtypeStruct) -> Array:
        stacked = any(getattr(key, "key", None) == "layers" for key in path)
        return jnp.asarray(leaf) if stacked else gather_params(jnp.asarray(leaf), shape)

    return nnx.merge(graph, jax.tree.map_with_path(load, params, nnx.to_pure_dict(state)))
