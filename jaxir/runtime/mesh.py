"""One mesh, and one rule for what stands where.

Dimension key: B pairs of the global batch, C chunks.

Batches are split over all devices. Parameters and optimizer state stand on every device or, with
FSDP, are split over the axis `data`; the axis `replica` then counts whole copies, so that on many
hosts parameters are gathered between devices that are near each other and only gradients travel
far.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from jaxir.config import RunConfig
from jaxir.errors import UserError

AXES = ("replica", "data")
REPLICATED = PartitionSpec()
SPLIT_FROM = 1 << 14  # numbers; to gather less is not worth a message


def make_mesh(config: RunConfig) -> Mesh:
    """All devices of all processes.

    Raises:
        UserError: they cannot be divided among the replicas, or a global batch among them.
    """
    devices, replicas = jax.device_count(), config.scale.replicas
    if devices % replicas:
        raise UserError(f"config.scale.replicas = {replicas}: must divide the {devices} devices")
    if config.batch_size % devices:
        raise UserError(
            f"config.batch_size = {config.batch_size}: must be a multiple of the {devices} devices"
        )
    chunk = config.scale.grad_cache_chunk
    if chunk and config.batch_size // devices % chunk:
        raise UserError(
            f"config.scale.grad_cache_chunk = {chunk}: must divide the "
            f"{config.batch_size // devices} pairs that each device has of a batch"
        )
    return jax.make_mesh((replicas, devices // replicas), AXES)


def process_rows(mesh: Mesh, batch_size: int) -> slice:
    """The contiguous rows of the global batch that this process's devices hold."""
    indexes = (
        NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        .addressable_devices_indices_map((batch_size,))
        .values()
    )
    slices = [index[0].indices(batch_size)[:2] for index in indexes if index is not None]
    start, stop = min(first for first, _ in slices), max(last for _, last in slices)
    if sum(last - first for first, last in slices) != stop - start:
        raise RuntimeError("the devices of a process are not neighbours on the mesh")
    return slice(start, stop)


def to_devices(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, Array]:
    """Global arrays from each process's rows of the batch."""
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    return {
        name: jax.make_array_from_process_local_data(sharding, array)
        for name, array in batch.items()
    }


def replicate(tree: Any, mesh: Mesh) -> Any:
    """The same arrays on every device; what is split over processes is gathered."""
    return jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, REPLICATED))(tree)


def state_shardings(state: Any, mesh: Mesh, fsdp: bool) -> Any:
    """Where each leaf of a state stands.

    Queues are split along their first axis over all devices. With FSDP a large leaf is split over
    `data` along its longest axis that the devices divide. The first axis of stacked layers is not
    split, since a step gathers one layer after the other. The optimizer's moments have the shapes
    of the parameters, and so their shardings.
    """
    devices = mesh.shape["data"]

    def sharding(path: tuple, leaf: Array) -> NamedSharding:
        names = [getattr(key, "key", None) for key in path]
        if "queues" in names:
            return NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        stacked = "layers" in names
        axes = [
            axis for axis in range(int(stacked), len(leaf.shape)) if leaf.shape[axis] % devices == 0
        ]
        if not fsdp or not axes or np.prod(leaf.shape) < SPLIT_FROM:
            return NamedSharding(mesh, REPLICATED)
        longest = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, "data"))

    return jax.tree.map_with_path(sharding, state)


def gather(array: Array) -> Array:
    """All rows of a sharded array on every device; inside `jit`, with or without a mesh."""
    if jax.sharding.get_abstract_mesh().empty:
        return array
    return jax.reshard(array, REPLICATED)


def split(array: Array) -> Array:
    """Rows of a replicated array split over the devices; inside `jit`."""
    if jax.sharding.get_abstract_mesh().empty:
        return array
    return jax.reshard(array, PartitionSpec(jax.sharding.get_abstract_mesh().axis_names))


def on_each_device(
    local: Callable[[Any, Any, Any], Any], params: Any, rows: Any, whole: Any = None
) -> Any:
    """Have every device apply a model to its own rows by itself; inside `jit`.

    So gradients of replicated parameters are summed over the devices once, after all layers and
    chunks, instead of in each of them.

    Args:
        local: from parameters, rows and `whole` to a tree of arrays with as many rows.
        params: a tree of arrays, replicated or split; `local` gathers what is split.
        rows: a tree of arrays whose rows are split over the devices.
        whole: a tree of replicated arrays that `local` also needs.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return local(params, rows, whole)
    by_row = PartitionSpec(mesh.axis_names)
    placed = jax.tree.map(lambda leaf: jax.typeof(leaf).sharding.spec, params)
    # check_vma: sums of gradients belong to the end of `local`, not to each use of a parameter
    return jax.shard_map(
        local, in_specs=(placed, by_row, REPLICATED), out_specs=by_row, check_vma=False
    )(params, rows, whole)


def in_chunks(function: Callable[[Any], Any], arrays: Any, chunks: int) -> Any:
    """Apply a function of rows to one chunk of every device's rows after the other.

    Nothing of a chunk but its result is kept for the backward pass, which computes it again.

    Args:
        function: from arrays of n rows to arrays of n rows.
        arrays: a tree of arrays whose rows are split over the devices.
        chunks: how many; they divide each device's rows.
    """
    if chunks == 1:
        return function(arrays)

    axes = jax.sharding.get_abstract_mesh().explicit_axes
    by_row = PartitionSpec(axes) if axes else None  # the compiler cannot infer which of two axes

    def apart(x: Array) -> Array:
        # neighbouring rows go to different chunks, and so a device's to all of them
        shape = (len(x) // chunks, chunks, *x.shape[1:])
        return jnp.moveaxis(jnp.reshape(x, shape, out_sharding=by_row), 1, 0)

    def together(x: Array) -> Array:
        x = jnp.moveaxis(x, 0, 1)
        return jnp.reshape(x, (-1, *x.shape[2:]), out_sharding=by_row)

    results = jax.lax.map(jax.checkpoint(function, prevent_cse=False), jax.tree.map(apart, arrays))
    return jax.tree.map(together, results)
