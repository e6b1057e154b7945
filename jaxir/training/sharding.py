"""One mesh with one explicit axis, `data`: batches are split over it, parameters stand on every
device.

Dimension key: B pairs of the global batch.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from jaxir.errors import UserError

DATA = PartitionSpec("data")
REPLICATED = PartitionSpec()


def make_mesh(batch_size: int, evaluation_batch_size: int) -> Mesh:
    """All devices of all processes on the axis `data`.

    Raises:
        UserError: a global batch cannot be split evenly over them.
    """
    devices = jax.device_count()
    sizes = {"batch_size": batch_size, "evaluation.batch_size": evaluation_batch_size}
    for name, size in sizes.items():
        if size % devices:
            raise UserError(f"config.{name} = {size}: must be a multiple of the {devices} devices")
    return jax.make_mesh((devices,), ("data",))


def process_rows(mesh: Mesh, batch_size: int) -> slice:
    """The contiguous rows of the global batch that this process's devices hold."""
    indexes = NamedSharding(mesh, DATA).addressable_devices_indices_map((batch_size,)).values()
    slices = [index[0].indices(batch_size)[:2] for index in indexes if index is not None]
    start, stop = min(first for first, _ in slices), max(last for _, last in slices)
    if sum(last - first for first, last in slices) != stop - start:
        raise RuntimeError("the devices of a process are not neighbours on the mesh")
    return slice(start, stop)


def to_devices(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, Array]:
    """Global arrays from each process's rows of the batch."""
    sharding = NamedSharding(mesh, DATA)
    return {
        name: jax.make_array_from_process_local_data(sharding, array)
        for name, array in batch.items()
    }


def replicate(tree: Any, mesh: Mesh) -> Any:
    """The same arrays on every device."""
    return jax.device_put(tree, NamedSharding(mesh, REPLICATED))


def gather(array: Array) -> Array:
    """All rows of a sharded array on every device; inside `jit`, with or without a mesh."""
    if jax.sharding.get_abstract_mesh().empty:
        return array
    return jax.reshard(array, REPLICATED)


def split(array: Array) -> Array:
    """Rows of a replicated array split over the axis `data`; inside `jit`."""
    if jax.sharding.get_abstract_mesh().empty:
        return array
    return jax.reshard(array, DATA)
