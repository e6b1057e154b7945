"""The step of a config, compiled by the TPU compiler for a slice that need not exist here.

The real training step is compiled; nothing is run. Memory is the compiler's plan; FLOPs are counted
in the traced step; bytes and cycles are read from the compiled program (`program.read_program`).
"""

import dataclasses
import hashlib
import json
import logging
import math
import os
import re
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxir.config import Config
from jaxir.data.batch import BatchLayout
from jaxir.data.packing import enough_rows, row_counts
from jaxir.errors import UserError
from jaxir.plan.chips import Slice
from jaxir.plan.program import LOSS, PARAMETERS, read_program
from jaxir.plan.roofline import StepCost
from jaxir.retrieval import chunks, scoring, topk
from jaxir.runtime.files import write_json
from jaxir.runtime.mesh import AXES
from jaxir.training.retrieval import RETRIEVAL
from jaxir.training.step import TrainStep, abstract_state, matmul_flops

logger = logging.getLogger(__name__)

PACKING_WASTE = 1.03  # packed rows, for each row that the tokens alone would fill
PACKAGES = ("jax", "jaxlib", "libtpu", "flax", "optax")  # whose versions decide a program


def plan_step(
    config: Config, tpu_slice: Slice, cache: Path, tokens_per_pair: float = 0.0
) -> StepCost:
    """Compile the training step of a config for a slice.

    Args:
        config: with the true shape of the model; its batch is that of all chips.
        tpu_slice: the slice.
        cache: folder in which plans are kept; an equal step is not compiled again.
        tokens_per_pair: mean of the data, which decides the number of packed rows; 0: as many
            tokens as the limits allow.

    Raises:
        UserError: libtpu is missing, or the batch does not divide.
    """
    mesh = slice_mesh(tpu_slice, config.scale.replicas)
    if config.batch_size % tpu_slice.chips:
        raise UserError(
            f"config.batch_size = {config.batch_size}: must be a multiple of the "
            f"{tpu_slice.chips} chips of {tpu_slice.name}"
        )
    # neither remat nor gradient caching, both of which compute activations a second time
    plain = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, remat="none"),
        scale=dataclasses.replace(config.scale, grad_cache_chunk=0),
    )

    def traced(config: Config) -> Any:
        state = abstract_state(config, None, mesh, RETRIEVAL)
        batch = abstract_batch(config, mesh, tokens_per_pair)
        return TrainStep(config, RETRIEVAL).trace(state, batch)

    with jax.set_mesh(mesh):
        step = traced(config)

        def flops() -> tuple[float, float]:
            model_step = step if plain == config else traced(plain)
            return matmul_flops(step.jaxpr.jaxpr), matmul_flops(model_step.jaxpr.jaxpr)

        return _cached_cost(step.lower(), flops, tpu_slice, cache)


def plan_search(width: int, tpu_slice: Slice, cache: Path) -> StepCost:
    """Compile the search of 256 queries in a chunk of a float32 index on every chip.

    Args:
        width: of the embeddings.
        tpu_slice: the slice.
        cache: as for `plan_step`.
    """
    mesh = slice_mesh(tpu_slice, 1)
    rows = min(chunks.CHUNK_ROWS, chunks.CHUNK_BYTES // (4 * width))
    rows -= rows % chunks.ALIGNED_ROWS
    by_row, whole = (NamedSharding(mesh, PartitionSpec(*x)) for x in ([mesh.axis_names], []))

    def shaped(shape: tuple[int, ...], dtype: Any, sharding: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    queries, k = topk.QUERY_BLOCK, 100
    program: Any = scoring.compile_update(mesh, k, None)
    with jax.set_mesh(mesh):
        traced = program.trace(
            shaped((queries, width), jnp.float32, whole),
            shaped((rows * tpu_slice.chips, width), jnp.float32, by_row),
            shaped((0,), jnp.float32, by_row),
            shaped((queries, k), jnp.float32, whole),
            shaped((queries, k), jnp.int32, whole),
            *(shaped((), jnp.int32, whole) for _ in range(2)),
        )
        flops = matmul_flops(traced.jaxpr.jaxpr)
        return _cached_cost(traced.lower(), lambda: (flops, flops), tpu_slice, cache)


def slice_mesh(tpu_slice: Slice, replicas: int) -> Mesh:
    """The mesh of a slice, made from its description.

    Raises:
        UserError: libtpu is missing, or the replicas do not divide the chips.
    """
    # a description needs no chip, and must not wait for one or lock it
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", tpu_slice.name)
    from jax.experimental import topologies

    if tpu_slice.chips % replicas:
        raise UserError(
            f"config.scale.replicas = {replicas}: must divide the {tpu_slice.chips} "
            f"chips of {tpu_slice.name}"
        )
    options: dict[str, Any] = {}
    if tpu_slice.chip.cores > 1:  # else each chip counts as two devices
        options = {"chip_config_name": "megacore", "chips_per_host_bounds": [2, 2, 1]}
    try:
        topology = topologies.get_topology_desc(tpu_slice.topology, "tpu", **options)
    except Exception as error:
        try:
            metadata.version("libtpu")
        except metadata.PackageNotFoundError:
            raise UserError(
                'libtpu is missing: pip install "jaxir[tpu]" or pip install libtpu'
            ) from error
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"--topology {tpu_slice.topology}: the TPU compiler has no such slice ({reason})"
        ) from error
    return Mesh(
        np.reshape(topology.devices, (replicas, -1)),
        AXES,
        axis_types=(AxisType.Explicit,) * len(AXES),
    )


def abstract_batch(
    config: Config, mesh: Mesh, tokens_per_pair: float = 0.0
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a batch of the longest texts, or of rows packed with texts of a mean length."""
    model = config.model
    layout = BatchLayout(
        config.batch_size,
        config.data.hard_negatives,
        model.max_query_tokens,
        model.max_passage_tokens,
        model.packed_length,
    )
    if model.packed_length:
        rows = _rows_per_device(config, mesh.size, tokens_per_pair) * mesh.size
        layout = dataclasses.replace(layout, rows=rows)
    by_row = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    return {
        name: jax.ShapeDtypeStruct(shape, jnp.int32, sharding=by_row)
        for name, shape in layout.shapes().items()
    }


def _rows_per_device(config: Config, devices: int, tokens_per_pair: float) -> int:
    """Packed rows of a device: enough for any batch, or for texts of a mean length."""
    model, pairs = config.model, config.batch_size // devices
    passages = pairs * (1 + config.data.hard_negatives)
    enough = enough_rows(pairs, passages, model.packed_length, model.max_query_tokens)
    if not tokens_per_pair:
        return enough
    filled = math.ceil(PACKING_WASTE * pairs * tokens_per_pair / model.packed_length)
    (rounded, *_) = row_counts([filled], enough, config.scale.grad_cache_chunk or 1)
    return min(enough, rounded)


def _cached_cost(
    lowered: Any, flops: Callable[[], tuple[float, float]], tpu_slice: Slice, cache: Path
) -> StepCost:
    """The cost of a program: from the cache, or else compiled and then kept there.

    Args:
        lowered: the program.
        flops: counts those of all chips together, and of these the model's.
        tpu_slice: the slice.
        cache: folder of plans.
    """
    # a plan holds for this program, slice and compiler, and for these names in its JSON
    versions = [metadata.version(name) for name in PACKAGES]
    fields = ",".join(StepCost.__annotations__) + PARAMETERS + LOSS
    identity = "\n".join([lowered.as_text(), tpu_slice.topology, fields, *versions])
    stored = cache / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.json"
    if stored.exists():
        return StepCost(**json.loads(stored.read_text()))
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        all_flops, model_flops = (count / tpu_slice.chips for count in flops())
        cost = _compile(lowered, all_flops, model_flops, Path(folder))
    logger.info("compiled for %s in %.0f s", tpu_slice.name, time.perf_counter() - began)
    stored.parent.mkdir(parents=True, exist_ok=True)
    write_json(stored, dataclasses.asdict(cost))
    return cost


def _compile(lowered: Any, flops: float, model_flops: float, folder: Path) -> StepCost:
    """The cost of a program on one chip; the compiler leaves its text in a folder."""
    # JAX cannot always read back the program of a newer compiler, which therefore writes it itself
    try:
        compiled = lowered.compile({"xla_dump_to": str(folder), "xla_dump_hlo_as_text": True})
    except jax.errors.JaxRuntimeError as error:
        # a program that is too large gets no analysis; its message says by how much
        needed = bytes_needed(str(error))
        if needed is None:
            raise
        return StepCost(False, needed, 0.0, 0.0, flops, model_flops, 0.0, {}, 0.0)
    memory = compiled.memory_analysis()
    temporary = float(memory.temp_size_in_bytes)
    arguments = float(memory.argument_size_in_bytes)
    # donated: most results take the memory of an argument
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    (program,) = folder.glob("*.after_codegen.txt")
    costs = read_program(program.read_text())
    peak = arguments + temporary + results
    return StepCost(True, peak, arguments, temporary, flops, model_flops, *costs)


# the compiler gives up in one of two passes, each with a message of its own
_OUT_OF_MEMORY = (
    r"Used ([\d.]+)([KMGT]) of [\d.]+[KMGT]",
    r"\(([\d.]+)([KMGT])\) exceeds available HBM",
)


def bytes_needed(message: str) -> float | None:
    """HBM that a program would have needed, from the compiler's message; None: another error."""
    if "RESOURCE_EXHAUSTED" not in message:
        return None
    for pattern in _OUT_OF_MEMORY:
        if match := re.search(pattern, message):
            return float(match[1]) * 1024.0 ** ("KMGT".index(match[2]) + 1)
    return None
