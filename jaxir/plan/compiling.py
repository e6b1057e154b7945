"""What a config needs of a TPU slice that nobody has to own, as the TPU's own compiler sees it.

The real train step is compiled for the slice; nothing is run. Memory is the compiler's; FLOPs are
counted in the step as it was traced; bytes and cycles are read off the compiled program, the body
of a loop as often as it turns.
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
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxir.config import Config
from jaxir.data.packing import enough_rows, row_counts, texts_a_row
from jaxir.errors import UserError
from jaxir.plan.chips import Slice
from jaxir.retrieval import topk
from jaxir.runtime.files import write_json
from jaxir.runtime.mesh import AXES
from jaxir.training.step import abstract_state, matmul_flops, trace_step

logger = logging.getLogger(__name__)

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
PARAMETERS, LOSS = "parameters and gradients", "embeddings for the loss"
BITS = {"pred": 8, "bf16": 16, "f16": 16, "s64": 64, "u64": 64, "f64": 64, "s4": 4, "u4": 4}
PACKING_WASTE = 1.03  # rows that packing fills, against those that the tokens alone would
PACKAGES = ("jax", "jaxlib", "libtpu", "flax", "optax")


@dataclass(frozen=True)
class StepCost:
    """Of one chip, for one step."""

    fits: bool
    memory: float  # bytes at the peak
    arguments: float  # of that, parameters, optimizer state and batch
    temporary: float  # of that, activations and the like
    flops: float  # of matrix products, with what is computed again
    useful_flops: float  # without that
    hbm_bytes: float
    collective_bytes: dict[str, float]  # operands by kind and by what they are of
    cycles: float  # the compiler's estimate, where it has one


def plan(config: Config, place: Slice, cache: Path, tokens_a_pair: float = 0.0) -> StepCost:
    """Compile the train step of a config for a slice.

    Args:
        config: with the true shape of the model; its batch is that of all chips.
        place: the slice.
        cache: folder in which plans are kept; an equal step is not compiled again.
        tokens_a_pair: mean of the data, which decides how many rows texts share; 0: as many as the
            limits allow.

    Raises:
        UserError: libtpu is missing, or the batch does not divide.
    """
    mesh = slice_mesh(place, config.scale.replicas)
    if config.batch_size % place.chips:
        raise UserError(
            f"config.batch_size = {config.batch_size}: must be a multiple of the {place.chips} "
            f"chips of {place.name}"
        )
    plain = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, remat="none"),
        scale=dataclasses.replace(config.scale, grad_cache_chunk=0),
    )

    def traced(one: Config) -> Any:
        return trace_step(
            one, abstract_state(one, None, mesh), abstract_batch(one, mesh, tokens_a_pair)
        )

    with jax.set_mesh(mesh):
        step = traced(config)

        def flops() -> tuple[float, float]:
            useful = step if plain == config else traced(plain)
            return matmul_flops(step.jaxpr.jaxpr), matmul_flops(useful.jaxpr.jaxpr)

        return _compiled(step.lower(), flops, place, cache)


def plan_search(width: int, place: Slice, cache: Path) -> StepCost:
    """Compile the search of 256 queries in a chunk of a float32 index on every chip.

    Args:
        width: of the embeddings.
        place: the slice.
        cache: as for `plan`.
    """
    mesh = slice_mesh(place, 1)
    rows = min(topk.CHUNK_ROWS, topk.CHUNK_BYTES // (4 * width))
    rows -= rows % topk.ALIGNED_ROWS
    by_row, whole = (NamedSharding(mesh, PartitionSpec(*x)) for x in ([mesh.axis_names], []))

    def shaped(shape: tuple[int, ...], dtype: Any, sharding: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    queries, k = topk.QUERIES_AT_ONCE, 100
    program: Any = topk._program(mesh, k, None)
    with jax.set_mesh(mesh):
        traced = program.trace(
            shaped((queries, width), jnp.float32, whole),
            shaped((rows * place.chips, width), jnp.float32, by_row),
            shaped((0,), jnp.float32, by_row),
            shaped((queries, k), jnp.float32, whole),
            shaped((queries, k), jnp.int32, whole),
            *(shaped((), jnp.int32, whole) for _ in range(2)),
        )
        flops = matmul_flops(traced.jaxpr.jaxpr)
        return _compiled(traced.lower(), lambda: (flops, flops), place, cache)


def slice_mesh(place: Slice, replicas: int) -> Mesh:
    """The mesh of a slice, from a description alone.

    Raises:
        UserError: libtpu is missing, or the replicas do not divide the chips.
    """
    # a description needs no chip, and must not wait for one or lock it
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", place.name)
    from jax.experimental import topologies

    if place.chips % replicas:
        raise UserError(f"config.scale.replicas = {replicas}: must divide {place.chips} chips")
    options: dict[str, Any] = {}
    if place.chip.cores > 1:  # else each chip counts as two devices
        options = {"chip_config_name": "megacore", "chips_per_host_bounds": [2, 2, 1]}
    try:
        found = topologies.get_topology_desc(place.topology, "tpu", **options)
    except Exception as error:
        try:
            metadata.version("libtpu")
        except metadata.PackageNotFoundError:
            raise UserError(
                'libtpu is missing: pip install "jaxir[tpu]" or pip install libtpu'
            ) from error
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{place.topology}: the compiler knows no such slice ({reason})") from error
    return Mesh(
        np.reshape(found.devices, (replicas, -1)), AXES, axis_types=(AxisType.Explicit,) * len(AXES)
    )


def abstract_batch(
    config: Config, mesh: Mesh, tokens_a_pair: float = 0.0
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a batch of the longest texts, or of rows that texts of a mean length fill."""
    model, queries = config.model, config.batch_size
    passages = queries * (1 + config.data.hard_negatives)
    shapes: dict[str, tuple[int, ...]] = {
        **{f"query_{name}": (queries,) for name in ("lengths", "cluster")},
        **{f"passage_{name}": (passages,) for name in ("lengths", "cluster")},
    }
    if model.packed_length:
        own = queries // mesh.size, passages // mesh.size
        count = enough_rows(*own, model.packed_length, model.max_query_tokens)
        if tokens_a_pair:
            (filled, *_) = row_counts(
                [math.ceil(PACKING_WASTE * own[0] * tokens_a_pair / model.packed_length)],
                count,
                config.scale.grad_cache_chunk or 1,
            )
            count = min(count, filled)
        rows = count * mesh.size
        shapes |= {
            "row_ids": (rows, model.packed_length),
            "row_segments": (rows, model.packed_length),
            "row_texts": (rows, texts_a_row(model.packed_length, model.max_query_tokens)),
            "query_slots": (queries,),
            "passage_slots": (passages,),
        }
    else:
        shapes |= {
            "query_ids": (queries, model.max_query_tokens),
            "passage_ids": (passages, model.max_passage_tokens),
        }
    by_row = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    return {
        name: jax.ShapeDtypeStruct(shape, jnp.int32, sharding=by_row)
        for name, shape in shapes.items()
    }


def _compiled(
    lowered: Any, flops: Callable[[], tuple[float, float]], place: Slice, cache: Path
) -> StepCost:
    """What the compiler makes of a program, from the cache if it has met it before.

    Args:
        lowered: the program.
        flops: counts those of all chips together, and of them the useful ones.
        place: the slice.
        cache: folder of plans.
    """
    versions = [metadata.version(name) for name in PACKAGES]
    fields = ",".join(StepCost.__annotations__) + PARAMETERS + LOSS
    identity = "\n".join([lowered.as_text(), place.topology, fields, *versions])
    stored = cache / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.json"
    if stored.exists():
        return StepCost(**json.loads(stored.read_text()))
    began = time.perf_counter()
    cost = _compile(lowered, *(count / place.chips for count in flops()))
    logger.info("compiled for %s in %.0f s", place.name, time.perf_counter() - began)
    stored.parent.mkdir(parents=True, exist_ok=True)
    write_json(stored, dataclasses.asdict(cost))
    return cost


def _compile(lowered: Any, flops: float, useful: float) -> StepCost:
    with tempfile.TemporaryDirectory() as folder:
        return _compile_into(Path(folder), lowered, flops, useful)


def _compile_into(folder: Path, lowered: Any, flops: float, useful: float) -> StepCost:
    # JAX cannot always read back the program of a newer compiler, which therefore writes it itself
    try:
        compiled = lowered.compile({"xla_dump_to": str(folder), "xla_dump_hlo_as_text": True})
    except jax.errors.JaxRuntimeError as error:
        # a program that is too large gets no analysis; its message says by how much
        needed = memory_of_refusal(str(error))
        if needed is None:
            raise
        return StepCost(False, needed, 0.0, 0.0, flops, useful, 0.0, {}, 0.0)
    memory = compiled.memory_analysis()
    temporary = float(memory.temp_size_in_bytes)
    arguments = float(memory.argument_size_in_bytes)
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    (program,) = folder.glob("*.after_codegen.txt")
    traffic = read_program(program.read_text())
    peak = arguments + temporary + results
    return StepCost(True, peak, arguments, temporary, flops, useful, *traffic)


# the compiler gives up in one of two places, each with words of its own
_REFUSALS = (
    r"Used ([\d.]+)([KMGT]) of [\d.]+[KMGT]",
    r"\(([\d.]+)([KMGT])\) exceeds available HBM",
)


def memory_of_refusal(message: str) -> float | None:
    """Bytes that a program would have needed, by the compiler's message; None: another error."""
    if "RESOURCE_EXHAUSTED" not in message:
        return None
    for pattern in _REFUSALS:
        if found := re.search(pattern, message):
            return float(found[1]) * 1024.0 ** ("KMGT".index(found[2]) + 1)
    return None


def read_program(text: str) -> tuple[float, dict[str, float], float]:
    """HBM bytes, operand bytes by kind of collective, and estimated cycles of a compiled program.

    HBM bytes are the operands and results of every fusion, product and copy that stands outside a
    fusion: what is not kept in registers has to travel. Values that the compiler keeps in the
    chip's own memory, space S(1) or higher, do not; of an operand of which a fusion reads or
    writes a slice only, as of the stacked parameters of all layers, the slice does.
    """
    computations = _computations(text)
    turns = _turns(computations)
    traffic, cycles = 0.0, 0.0
    collectives: dict[str, float] = defaultdict(float)
    for name, lines in computations.items():
        times = turns.get(name, 0)
        if not times:
            continue
        sizes = {one["name"]: _size(one["type"]) for one in lines}
        for one in lines:
            operands = [sizes[x] for x in one["operands"] if x in sizes]
            kind = one["kind"].removesuffix("-start")
            inside = computations.get(one["calls"].get("calls", ""), [])
            # a reduce-scatter is a fusion with an all-reduce in it
            for group in ([one], inside if kind == "fusion" else []):
                for name, size in _collectives(group, sizes):
                    collectives[name] += times * size
            if kind == "fusion":
                far = [sizes.get(x, (0.0, 0.0))[1] for x in one["operands"]]
                traffic += times * _fusion_bytes(inside, far, _size(one["type"])[1])
            elif kind == "dynamic-update-slice":
                traffic += times * 2 * operands[1][1]
            elif kind in ("convolution", "dot", "copy", "gather", "scatter", "sort"):
                own = _size(one["type"])[1]
                traffic += times * (own + sum(far for _, far in operands))
            cycles += times * one["cycles"]
    return traffic, dict(collectives), cycles


def _collectives(
    group: list[dict[str, Any]], outside: dict[str, tuple[float, float]]
) -> Iterator[tuple[str, float]]:
    """What each collective of some instructions is, and the bytes of its operands."""
    sizes = outside | {one["name"]: _size(one["type"]) for one in group}
    for one in group:
        kind = one["kind"].removesuffix("-start")
        if kind in COLLECTIVES:
            moved = PARAMETERS if one["of_parameters"] else LOSS
            yield f"{kind}, {moved}", sum(sizes[x][0] for x in one["operands"] if x in sizes)


def _fusion_bytes(inside: list[dict[str, Any]], operands: list[float], result: float) -> float:
    """HBM bytes that a fusion reads and writes.

    Args:
        inside: its instructions.
        operands: bytes of each operand in HBM.
        result: those of the result.
    """
    by_name = {one["name"]: one for one in inside}
    users: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in inside:
        for name in one["operands"]:
            users[name].append(one)

    def uses(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for one in users[name]:
            if one["kind"] in ("bitcast", "reshape"):
                yield from uses(one["name"])
            else:
                yield name, one

    total = result
    for one in inside:
        if one["kind"] != "parameter" or not operands[one["index"]]:
            continue
        read = 0.0
        for name, user in uses(one["name"]):
            if user["kind"] == "dynamic-slice":
                read += _size(user["type"])[0]
            elif user["kind"] == "dynamic-update-slice" and user["operands"][0] == name:
                # in place: neither the rest of the operand nor that of the result moves
                written = _size(by_name[user["operands"][1]]["type"])[0]
                total -= min(total, operands[one["index"]])
                read += written
            else:
                read = operands[one["index"]]
                break
        total += min(read, operands[one["index"]])
    return total


# name, type, kind and operands; a type has no space before a parenthesis
_LINE = re.compile(r"^\s+(?:ROOT )?%([\w.\-]+) = (.*?) ([a-z][\w\-]*)\(([^)]*)\)")
_CALLED = re.compile(
    r"(body|condition|to_apply|calls|true_computation|false_computation)=%([\w.\-]+)"
)
# of the step's own collectives inside `shard_map`; all others bring embeddings to the loss
_OF_PARAMETERS = re.compile(r'op_name="[^"]*shard_map/[^"]*(psum|all_gather|reduce_scatter)')
_TYPE = re.compile(r"([a-z]+\d*)\[([\d,]*)\](?:\{[^}]*?(S\(\d+\))?\})?")


def _computations(text: str) -> dict[str, list[dict[str, Any]]]:
    """Instructions by computation; the entry is called ENTRY."""
    found: dict[str, list[dict[str, Any]]] = {}
    current: list[dict[str, Any]] = []
    for line in text.splitlines():
        if line and not line[0].isspace() and line.rstrip().endswith("{"):
            word = line.split()[0]
            name = "ENTRY" if word == "ENTRY" else word.lstrip("%")
            current = found.setdefault(name, [])
            continue
        match = _LINE.match(line)
        if match:
            cycles = re.search(r'"estimated_cycles":"(\d+)"', line)
            branches = re.search(r"branch_computations=\{([^}]*)\}", line)
            constant = re.search(r"constant\((\d+)\)", line)
            current.append(
                {
                    "name": match[1],
                    "type": match[2],
                    "kind": match[3],
                    "operands": re.findall(r"%([\w.\-]+)", match[4]),
                    "cycles": int(cycles[1]) if cycles else 0,
                    "calls": dict(_CALLED.findall(line)),
                    "branches": re.findall(r"%([\w.\-]+)", branches[1]) if branches else [],
                    "of_parameters": bool(_OF_PARAMETERS.search(line)),
                    "constant": int(constant[1]) if constant else None,
                    "index": int(match[4]) if match[3] == "parameter" else -1,
                }
            )
    return found


def _turns(computations: dict[str, list[dict[str, Any]]]) -> dict[str, int]:
    """How often each computation runs; bodies of fusions do not count apart."""
    turns: dict[str, int] = defaultdict(int)
    waiting = [("ENTRY", 1)]
    while waiting:
        name, times = waiting.pop()
        turns[name] += times
        for one in computations.get(name, []):
            calls = one["calls"]
            if one["kind"] == "while":
                # a scan counts from 0 to the constant that its condition compares with
                limits = [x["constant"] for x in computations[calls["condition"]]]
                limit = max((x for x in limits if x is not None), default=1)
                waiting.append((calls["body"], times * limit))
            elif one["kind"] == "conditional":
                # one branch runs; the first is as good as any for a bound
                chosen = [*one["branches"], *(calls[x] for x in calls if "computation" in x)]
                waiting.extend((branch, times) for branch in chosen[:1])
            elif one["kind"] == "call":
                waiting.append((calls["to_apply"], times))
    return turns


def _size(text: str) -> tuple[float, float]:
    """Bytes of a type, and those of its parts that stand in HBM."""
    total, far = 0.0, 0.0
    for kind, shape, space in _TYPE.findall(text):
        digits = re.sub(r"\D", "", kind)
        bits = BITS.get(kind) or int(digits or 0)
        size = bits / 8 * float(np.prod([int(x) for x in shape.split(",") if x]))
        total += size
        far += 0.0 if space else size
    return total, far


@dataclass(frozen=True)
class Time:
    """The least a step can take, and what bounds it."""

    seconds: float
    bound: str
    by_resource: dict[str, float]


def roofline(cost: StepCost, place: Slice) -> Time:
    """Seconds that each resource of the chip needs at its peak; the slowest bounds the step."""
    chip = place.chip
    seconds = {
        "matrix units": cost.flops / chip.flops,
        "HBM": cost.hbm_bytes / chip.hbm_bandwidth,
        "links": sum(cost.collective_bytes.values()) / chip.link_bandwidth,
    }
    bound = max(seconds, key=lambda name: seconds[name])
    return Time(seconds[bound], bound, seconds)
