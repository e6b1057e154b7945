"""The device mesh, and the sharding of parameters, optimizer state and batches.

Dimension key: B pairs of the global batch, C chunks.

Batches are split over all devices. Parameters and optimizer state are replicated or, with FSDP,
split over the axis `data`; the axis `replica` then counts whole copies, so that on many hosts
parameters are gathered between neighbouring devices and only gradients cross the slower links.
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
SPLIT_FROM = 1 << 14  # elements; gathering a smaller leaf costs more than it saves


def make_mesh(config: RunConfig) -> Mesh:
    """The mesh of all devices of all processes, replica by data.

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
    indices = (
        NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        .addressable_devices_indices_map((batch_size,))
        .values()
    )
    slices = [index[0].indices(batch_size)[:2] for index in indices if index is not None]
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
    """Copy a tree to every device; leaves that are split over processes are gathered."""
    return jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, REPLICATED))(tree)


def state_shardings(state: Any, mesh: Mesh, fsdp: bool) -> Any:
    """The sharding of each leaf of a state.

    Queues are split along their first axis over all devices. With FSDP a large leaf is split over
    `data` along its longest axis that the devices divide. The first axis of stacked layers is not
    split, since a step gathers one layer after the other. The optimizer's moments have the shapes
    of the parameters, and so the same shardings.
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
    """Gather all rows of a sharded array on every device; inside `jit`, with or without a mesh."""
    if jax.sharding.get_abstract_mesh().empty:
        return array
    return jax.reshard(array, REPLICATED)


def split(array: Array) -> Array:
    """Split the rows of a replicated array over the devices; inside `jit`."""
    if jax.sharding.get_abstract_mesh().empty:
        return array
    return jax.reshard(array, PartitionSpec(jax.sharding.get_abstract_mesh().axis_names))


def on_each_device(
    function: Callable[[Any, Any, Any], Any], params: Any, rows: Any, replicated: Any = None
) -> Any:
    """Apply a model on every device to the rows of that device alone; inside `jit`.

    So gradients of replicated parameters are summed over the devices once, after all layers and
    chunks, instead of in each of them.

    Args:
        function: from parameters, rows and `replicated` to a tree of arrays with as many rows.
        params: a tree of arrays, replicated or split; `function` gathers those that are split.
        rows: a tree of arrays whose rows are split over the devices.
        replicated: a tree of replicated arrays that `function` also needs.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return function(params, rows, replicated)
    by_row = PartitionSpec(mesh.axis_names)
    param_specs = jax.tree.map(lambda leaf: jax.typeof(leaf).sharding.spec, params)
    # Without check_vma the transpose sums a parameter's gradient over devices once, at the end of
    # `function`; with it, at each use of the parameter.
    return jax.shard_map(
        function, in_specs=(param_specs, by_row, REPLICATED), out_specs=by_row, check_vma=False
    )(params, rows, replicated)


def in_chunks(function: Callable[[Any], Any], arrays: Any, chunks: int) -> Any:
    """Apply a function to every device's rows chunk by chunk.

    Only a chunk's result is kept for the backward pass, which computes the rest again.

    Args:
        function: from arrays of n rows to arrays of n rows.
        arrays: a tree of arrays whose rows are split over the devices.
        chunks: number of chunks, which divides each device's rows.
    """
    if chunks == 1:
        return function(arrays)

    axes = jax.sharding.get_abstract_mesh().explicit_axes
    # the compiler cannot infer which of the two axes of a reshape keeps the sharding
    by_row = PartitionSpec(axes) if axes else None

    def to_chunks(x: Array) -> Array:
        # Neighbouring rows go to different chunks: so each chunk has rows of every device, and no
        # row changes its device. "B ... -> C B/C ..."
        shape = (len(x) // chunks, chunks, *x.shape[1:])
        return jnp.moveaxis(jnp.reshape(x, shape, out_sharding=by_row), 1, 0)

    def from_chunks(x: Array) -> Array:
        x = jnp.moveaxis(x, 0, 1)
        return jnp.reshape(x, (-1, *x.shape[2:]), out_sharding=by_row)

    chunked = jax.tree.map(to_chunks, arrays)
    results = jax.lax.map(jax.checkpoint(function, prevent_cse=False), chunked)
    return jax.tree.map(from_chunks, results)
