"""What a training step takes: pairs and tokens a second, MFU, its parts, its memory.

Dimension key: B pairs.
"""

import dataclasses
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxir.bench import embedding_table, peers, timing, workloads
from jaxir.config import Config
from jaxir.data.pipeline import Batch
from jaxir.plan.chips import peak_flops
from jaxir.runtime.mesh import make_mesh, to_devices
from jaxir.training.contrastive import batch_loss, embed_batch
from jaxir.training.losses import contrastive_loss
from jaxir.training.optimizer import make_optimizer
from jaxir.training.step import compile_step, make_state, token_shapes


def measure(config: Config, rounds: int, against: str, directory: Path | None) -> dict[str, Any]:
    """Steps of packed batches, of the same padded, and of a peer, in turns.

    Args:
        config: the run; batches are packed into rows of `model.packed_length`.
        rounds: how often each is measured.
        against: "sentence-transformers", or "".
        directory: of MLQA's pairs; None: made-up ids of their lengths.
    """
    if directory:
        config = workloads.for_mlqa(config, directory)
    mesh = make_mesh(config)
    padded, packed = batches_of(config, mesh.size, directory)
    with jax.set_mesh(mesh):
        state = make_state(config, None, mesh)
        params = jax.device_get(state["params"]["model"])
        runs = {
            name: Steps(config, mesh, batches)
            for name, batches in (("packed", packed), ("padded", padded))
        }
        losses: dict[str, float] = {}

        def noting_loss(name: str, run: Callable[[], list[float]]) -> Callable[[], object]:
            return lambda: losses.setdefault(name, run()[0])

        candidates = {name: noting_loss(name, run) for name, run in runs.items()}
        failed = {}
        with ExitStack() as processes:
            for name, compiled, keep_memory in peers.settings(against):
                what = peers.training_steps, config, params, padded, compiled
                run = processes.enter_context(peers.own_process(*what, keep_memory=keep_memory))
                try:
                    candidate = noting_loss(name, run)
                    candidate()
                    candidates[name] = candidate
                except RuntimeError as error:  # what a peer breaks on must not cost our figures
                    failed[name] = str(error)
            seconds = timing.in_turns(candidates, rounds)
        parts = step_parts(config, mesh, packed, rounds)
    steps = len(packed)
    figures: dict[str, Any] = {
        "pairs a step": config.batch_size,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "precision": config.model.compute_dtype,
        "dropout": config.model.encoder.dropout,
        "texts": str(directory) if directory else "made up, of MLQA's lengths",
    }
    matmul = timing.matmul_speed(config.model.compute_dtype) * mesh.size
    peak = peak_flops(jax.devices()[0].device_kind)
    useful = workloads.useful_flops(config, packed)
    for name, times in seconds.items():
        batches = packed if name == "packed" else padded
        real, places = workloads.tokens_of(batches)
        median = float(np.median(times))
        figures[name] = {
            "seconds a step": timing.spread([x / steps for x in times]),
            "first loss": losses[name],
            "pairs a second": config.batch_size * steps / median,
            "tokens a second": real / median,
            "MFU against a measured product": useful / median / matmul,
        }
        if peak:
            figures[name]["MFU against the chip's peak"] = useful / median / peak / mesh.size
        if name in runs:
            figures[name]["tokens a second, padding included"] = places / median
            figures[name]["padding waste"] = 1 - real / places
            figures[name]["numbers of rows"] = runs[name].row_counts
            figures[name]["planned peak of memory, GiB"] = runs[name].peak_bytes / 2**30
    for name in list(candidates)[1:]:
        figures[f"times the pairs a second of {name}"] = timing.ratio(
            seconds[name], seconds["packed"]
        )
    if failed:
        figures["failed"] = failed
    figures["TFLOP/s of a measured product, a device"] = matmul / mesh.size / 1e12
    if against:
        by_peer = peers.matmul_speed(config.model.compute_dtype)
        figures["TFLOP/s of the same product, by PyTorch"] = by_peer / 1e12
    figures["seconds of a step's parts"] = parts
    figures["memory of the devices, GiB"] = [
        (device.memory_stats() or {}).get("peak_bytes_in_use", 0) / 2**30
        for device in jax.local_devices()
    ]
    return figures


def batches_of(
    config: Config, devices: int, directory: Path | None
) -> tuple[list[Batch], list[Batch]]:
    """Some batches, padded and packed."""
    if directory is None:
        return workloads.made_up_batches(config, devices)
    with tempfile.TemporaryDirectory() as cache:
        loader = workloads.mlqa_loader(config, directory, devices, Path(cache))
        plain = dataclasses.replace(loader, packed_length=0)
        return tuple(
            [one.batch(step) for step in range(workloads.BATCHES)] for one in (plain, loader)
        )  # type: ignore[return-value]


class Steps:
    """A call that takes a step on each of some batches, on a state of its own."""

    def __init__(self, config: Config, mesh: jax.sharding.Mesh, batches: list[Batch]):
        self.state = make_state(config, None, mesh)
        self.batches = [to_devices(batch, mesh) for batch in batches]
        self.programs: dict[Any, Any] = {}
        self.peak_bytes = 0
        for batch in self.batches:
            if token_shapes(batch) not in self.programs:
                program, cost = compile_step(config, self.state, batch)
                self.programs[token_shapes(batch)] = program
                self.peak_bytes = max(self.peak_bytes, int(cost["peak_bytes"]))

    @property
    def row_counts(self) -> list[int]:
        """Numbers of rows that were compiled."""
        return sorted({shape[0] for shapes in self.programs for shape in shapes})

    def __call__(self) -> list[float]:
        """Take the steps; their losses."""
        losses = []
        for batch in self.batches:
            self.state, metrics = self.programs[token_shapes(batch)](self.state, batch)
            losses.append(metrics["loss"])
        return [float(loss) for loss in losses]


def step_parts(
    config: Config, mesh: jax.sharding.Mesh, batches: list[Batch], rounds: int
) -> dict[str, float]:
    """Median seconds of the parts of a step on the first batch.

    Each is a program of its own or the difference of two, so their sum is near the step's time,
    not equal to it. `input wait` is a cached batch's way to the devices; what a run waits for its
    data stands in its metrics. `communication` is that of gradients and embeddings by themselves,
    which a step may hide behind other work; 0 on one device. Of `forward` and `backward`, what it
    takes to look tokens up and to add up the gradient of their table stands apart as well.
    """
    batch = to_devices(batches[0], mesh)
    state = make_state(config, None, mesh)
    params = state["params"]
    optimizer = make_optimizer(config.optimizer, config.steps)
    seed = jnp.uint32(0)  # of dropout, as a step has it
    embed = jax.jit(lambda p, b: embed_batch(config, p["model"], b, seed))
    gradient = jax.jit(jax.grad(lambda p, b: batch_loss(p, b, config, seed)[0]))

    def loss_of(embeddings: tuple[Any, Any]) -> Any:
        queries, passages = embeddings
        return contrastive_loss(
            queries,
            passages,
            batch["query_cluster"],
            batch["passage_cluster"],
            batch["passage_lengths"] > 0,
            config.loss.temperature,
            config.loss,
        )[0]

    loss = jax.jit(jax.grad(loss_of))

    @jax.jit
    def update(gradients: Any, state: Any) -> Any:
        updates, new = optimizer.update(gradients, state["optimizer"], state["params"])
        return optax.apply_updates(state["params"], updates), new

    embedding = params["model"]["encoder"]["token_embedding"]["embedding"]
    embeddings, gradients = embed(params, batch), gradient(params, batch)
    calls: dict[str, Callable[[], object]] = {
        "input wait": lambda: jax.block_until_ready(to_devices(batches[0], mesh)),
        "forward": lambda: jax.block_until_ready(embed(params, batch)),
        "loss": lambda: jax.block_until_ready(loss(embeddings)),
        "gradient": lambda: jax.block_until_ready(gradient(params, batch)),
        "optimizer": lambda: jax.block_until_ready(update(gradients, state)),
        **embedding_table.lookups(embedding, batch["row_ids"]),
    }
    if mesh.size > 1:
        calls["communication"] = _communication(mesh, gradients, embeddings)
    median = {name: float(np.median(x)) for name, x in timing.in_turns(calls, rounds).items()}
    median["backward"] = median.pop("gradient") - median["forward"] - median["loss"]
    return {"communication": 0.0, **median}


def _communication(
    mesh: jax.sharding.Mesh, gradients: Any, embeddings: Any
) -> Callable[[], object]:
    by_row, whole = jax.P(mesh.axis_names), jax.P()

    def local(gradients: Any, embeddings: Any) -> Any:
        summed = jax.lax.psum(gradients, mesh.axis_names)
        return summed, jax.lax.all_gather(embeddings, mesh.axis_names, tiled=True)

    program = jax.jit(
        jax.shard_map(local, in_specs=(whole, by_row), out_specs=(whole, whole), check_vma=False)
    )
    return lambda: jax.block_until_ready(program(gradients, embeddings))


def measure_memory(config: Config, times: int) -> dict[str, float]:
    """Planned peak of memory of a plain step, and of a cached one of `times` the batch.

    The cached one embeds a power of two of rows at a time that is next to what the plain one has.
    """
    peaks = []
    rows = 1 << int(config.batch_size / jax.device_count() * 0.75).bit_length() - 1
    for factor, at_once in ((1, 0), (times, rows)):
        one = dataclasses.replace(
            config,
            batch_size=config.batch_size * factor,
            scale=dataclasses.replace(config.scale, grad_cache_chunk=at_once),
        )
        mesh = make_mesh(one)
        with jax.set_mesh(mesh):
            batch = to_devices(workloads.made_up_batches(one, mesh.size)[1][0], mesh)
            state = make_state(one, None, mesh)
            peaks.append(compile_step(one, state, batch)[1]["peak_bytes"])
    return {
        "pairs a step, plain": config.batch_size,
        "pairs a step, cached": config.batch_size * times,
        "peak of the plain step, GiB": peaks[0] / 2**30,
        "peak of the cached step, GiB": peaks[1] / 2**30,
        "times the memory": peaks[1] / peaks[0],
    }


def profile(config: Config, folder: Path, most: int = 20) -> dict[str, Any]:
    """The operations of a step that take longest, from a trace that is left in a folder."""
    mesh = make_mesh(config)
    with jax.set_mesh(mesh):
        steps = Steps(config, mesh, workloads.made_up_batches(config, mesh.size)[1][:1])
        steps()
        with jax.profiler.trace(str(folder)):
            steps()
        (program,) = steps.programs.values()
    traces = sorted(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    seconds: dict[str, float] = {}
    for plane in jax.profiler.ProfileData.from_file(str(traces[-1])).planes:
        for line in plane.lines:
            for event in line.events:
                name = dict(event.stats).get("hlo_op")
                if name:
                    seconds[name] = seconds.get(name, 0.0) + event.duration_ns / 1e9
    sources = _sources(program.as_text())
    largest = sorted(seconds, key=seconds.__getitem__, reverse=True)[:most]
    return {
        "trace": str(traces[-1]),
        "seconds of all operations": sum(seconds.values()),
        "largest": [
            {"seconds": seconds[x], "operation": x, "from": sources.get(x, "")} for x in largest
        ],
    }


def _sources(program: str) -> dict[str, str]:
    """Where in the step each operation of a compiled program comes from."""
    found = {}
    for line in program.splitlines():
        name, _, rest = line.strip().removeprefix("ROOT ").partition(" = ")
        if 'op_name="' in rest:
            found[name.lstrip("%")] = rest.split('op_name="', 1)[1].split('"', 1)[0]
    return found
