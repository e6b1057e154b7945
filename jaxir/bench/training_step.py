"""Speed of the training step, beside sentence-transformers; its memory, and a profile of it."""

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxir.bench import other_libraries, step_parts, timing, workloads
from jaxir.config import Config
from jaxir.data.batch import Batch
from jaxir.plan.chips import peak_flops
from jaxir.runtime.mesh import make_mesh, to_devices
from jaxir.training.retrieval import RETRIEVAL
from jaxir.training.step import TrainStep, make_state


def measure(config: Config, rounds: int, against: str, directory: Path | None) -> dict[str, Any]:
    """Speed of packed batches, of the same batches padded, and of another library, in turn.

    Args:
        config: the run; batches are packed into rows of `model.packed_length`.
        rounds: number of times that each is measured.
        against: "sentence-transformers", or "".
        directory: of MLQA's pairs; None: random ids with their lengths.
    """
    if directory:
        config = workloads.with_mlqa_vocab(config, directory)
    mesh = make_mesh(config)
    padded, packed = padded_and_packed(config, mesh.size, directory)
    with jax.set_mesh(mesh):
        params = jax.device_get(make_state(config, None, mesh, RETRIEVAL)["params"]["model"])
        steps = {"packed": Steps(config, mesh, packed), "padded": Steps(config, mesh, padded)}
        timed = _time_steps(config, steps, params, padded, rounds, against)
        parts = step_parts.measure(config, mesh, packed, rounds)
    matmul = timing.matmul_speed(config.model.compute_dtype)
    results: dict[str, Any] = {
        "pairs per step": config.batch_size,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "precision": config.model.compute_dtype,
        "dropout": config.model.encoder.dropout,
        "texts": str(directory) if directory else "synthetic, with MLQA's lengths",
    }
    for name, times in timed.seconds.items():
        batches = packed if name == "packed" else padded
        results[name] = {
            "first loss": timed.first_losses[name],
            **_speed(config, batches, times, matmul * mesh.size, mesh.size),
        }
        if name in steps:
            results[name] |= _padding(batches, times) | {
                "row counts": steps[name].row_counts,
                "planned peak memory, GiB": steps[name].peak_bytes / 2**30,
            }
        if name != "packed":
            speedup = timing.ratio(times, timed.seconds["packed"])
            results[f"speedup over {name}"] = speedup
    if timed.failed:
        results["failed"] = timed.failed
    results["matmul TFLOP/s per device"] = matmul / 1e12
    if against:
        by_library = other_libraries.matmul_speed(config.model.compute_dtype)
        results["matmul TFLOP/s of PyTorch"] = by_library / 1e12
    results["seconds by part of the step"] = parts
    results["peak device memory, GiB"] = [
        (device.memory_stats() or {}).get("peak_bytes_in_use", 0) / 2**30
        for device in jax.local_devices()
    ]
    return results


def padded_and_packed(
    config: Config, devices: int, directory: Path | None
) -> tuple[list[Batch], list[Batch]]:
    """The batches of a round, padded and packed: MLQA's from its folder, or synthetic ones."""
    if directory is None:
        return workloads.synthetic_batches(config, devices)
    with tempfile.TemporaryDirectory() as cache:
        packed = workloads.mlqa_loader(config, directory, devices, Path(cache))
        padded = dataclasses.replace(packed, packed_length=0)
        steps = range(workloads.BATCHES)
        return [padded.batch(step) for step in steps], [packed.batch(step) for step in steps]


class Steps:
    """A call that takes a step on each batch of a round, with a state of its own."""

    def __init__(self, config: Config, mesh: jax.sharding.Mesh, batches: list[Batch]):
        self.state = make_state(config, None, mesh, RETRIEVAL)
        self.batches = [to_devices(batch, mesh) for batch in batches]
        self.train_step = TrainStep(config, RETRIEVAL)
        steps = [self.train_step.compile(self.state, batch) for batch in self.batches]
        self.peak_bytes = max(step.peak_bytes for step in steps)

    @property
    def row_counts(self) -> list[int]:
        """Numbers of rows that a step was compiled for."""
        return sorted({shape[0] for shapes in self.train_step.compiled for shape in shapes})

    def __call__(self) -> list[float]:
        """Take the steps, and return their losses."""
        losses = []
        for batch in self.batches:
            self.state, metrics = self.train_step(self.state, batch)
            losses.append(metrics["loss"])
        return [float(loss) for loss in losses]  # waits for the devices


@dataclass(frozen=True)
class TimedSteps:
    """Rounds of training steps by jaxir and by another library."""

    seconds: dict[str, list[float]]  # of each round, by candidate
    first_losses: dict[str, float]  # by candidate, to see that all do the same work
    failed: dict[str, str]  # why, by variant of the other library


def _time_steps(
    config: Config,
    steps: Mapping[str, Steps],
    params: Any,
    padded: list[Batch],
    rounds: int,
    against: str,
) -> TimedSteps:
    """Time jaxir's steps and those of the other library's variants, in turn.

    Args:
        config: the run.
        steps: jaxir's candidates.
        params: weights that the other library starts from, as jaxir does.
        padded: batches of the other library.
        rounds: number of times that each is measured.
        against: as in `measure`.
    """
    first_losses: dict[str, float] = {}

    def noting_loss(name: str, call: Callable[[], list[float]]) -> Callable[[], object]:
        return lambda: first_losses.setdefault(name, call()[0])

    candidates = {name: noting_loss(name, call) for name, call in steps.items()}
    failed: dict[str, str] = {}
    with ExitStack() as processes:
        for name, compiled, keep_memory in other_libraries.variants(against):
            arguments = config, params, padded, compiled
            call = processes.enter_context(
                other_libraries.in_own_process(
                    other_libraries.training_steps, *arguments, keep_memory=keep_memory
                )
            )
            candidate = noting_loss(name, call)
            try:
                candidate()
                candidates[name] = candidate
            except RuntimeError as error:  # if it fails, jaxir's own results must not be lost
                failed[name] = str(error)
        return TimedSteps(timing.alternate(candidates, rounds), first_losses, failed)


def _speed(
    config: Config, batches: list[Batch], times: list[float], matmul: float, devices: int
) -> dict[str, Any]:
    """Throughput and MFU of a candidate.

    Args:
        config: the run.
        batches: of a round.
        times: seconds of each round.
        matmul: FLOPs per second of a large matrix product, on all devices together.
        devices: their number.
    """
    steps, median = len(batches), float(np.median(times))
    text_tokens, _ = workloads.count_tokens(batches)
    # MFU: the texts' own FLOPs (no padding, no rematerialization) per second, over what the devices
    # could do. The FLOPs are the same for all candidates, so padding lowers a candidate's MFU.
    flops_per_second = workloads.model_flops(config, batches) / median
    speed = {
        "seconds per step": timing.spread([x / steps for x in times]),
        "pairs per second": config.batch_size * steps / median,
        "tokens per second": text_tokens / median,
        "MFU against a measured matmul": flops_per_second / matmul,
    }
    peak = peak_flops(jax.devices()[0].device_kind)
    if peak:
        speed["MFU against the chip's peak"] = flops_per_second / peak / devices
    return speed


def _padding(batches: list[Batch], times: list[float]) -> dict[str, float]:
    text_tokens, all_tokens = workloads.count_tokens(batches)
    return {
        "tokens per second, padding included": all_tokens / float(np.median(times)),
        "padding fraction": 1 - text_tokens / all_tokens,
    }


def measure_memory(config: Config, times: int) -> dict[str, float]:
    """Planned peak memory of a plain step, and of one with gradient caching at a larger batch.

    Args:
        config: the run of the plain step.
        times: factor by which the batch of the cached step is larger.
    """
    peaks = []
    # A chunk of about the rows of the plain step on a device: packed, a pair of MLQA's takes about
    # three quarters of a row; rounded down to a power of two.
    chunk = 1 << int(config.batch_size / jax.device_count() * 0.75).bit_length() - 1
    for factor, grad_cache_chunk in ((1, 0), (times, chunk)):
        step_config = dataclasses.replace(
            config,
            batch_size=config.batch_size * factor,
            scale=dataclasses.replace(config.scale, grad_cache_chunk=grad_cache_chunk),
        )
        mesh = make_mesh(step_config)
        with jax.set_mesh(mesh):
            batch = to_devices(workloads.synthetic_batches(step_config, mesh.size)[1][0], mesh)
            state = make_state(step_config, None, mesh, RETRIEVAL)
            step = TrainStep(step_config, RETRIEVAL).compile(state, batch)
            peaks.append(step.peak_bytes)
    return {
        "pairs per step, plain": config.batch_size,
        "pairs per step, cached": config.batch_size * times,
        "planned peak memory of the plain step, GiB": peaks[0] / 2**30,
        "planned peak memory of the cached step, GiB": peaks[1] / 2**30,
        "ratio of the peaks, cached to plain": peaks[1] / peaks[0],
    }


def profile(config: Config, folder: Path, most: int = 20) -> dict[str, Any]:
    """Trace a training step, and list the operations that take longest.

    Args:
        config: the run.
        folder: the trace is left in it.
        most: number of operations.
    """
    mesh = make_mesh(config)
    with jax.set_mesh(mesh):
        steps = Steps(config, mesh, workloads.synthetic_batches(config, mesh.size)[1][:1])
        steps()
        with jax.profiler.trace(str(folder)):
            steps()
        (step,) = steps.train_step.compiled.values()
    traces = sorted(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    seconds: dict[str, float] = {}
    for plane in jax.profiler.ProfileData.from_file(str(traces[-1])).planes:
        for line in plane.lines:
            for event in line.events:
                # of host and device events, those that run an operation of the program
                name = dict(event.stats).get("hlo_op")
                if name:
                    seconds[name] = seconds.get(name, 0.0) + event.duration_ns / 1e9
    sources = _sources(step.program.as_text() or "")
    slowest = sorted(seconds, key=seconds.__getitem__, reverse=True)[:most]
    return {
        "trace": str(traces[-1]),
        "seconds of all operations": sum(seconds.values()),
        "slowest": [
            {"seconds": seconds[name], "operation": name, "source": sources.get(name, "")}
            for name in slowest
        ],
    }


def _sources(program: str) -> dict[str, str]:
    """The JAX call that each operation of a compiled program comes from, as HLO's metadata says."""
    sources = {}
    for line in program.splitlines():
        name, _, rest = line.strip().removeprefix("ROOT ").partition(" = ")
        if 'op_name="' in rest:
            sources[name.lstrip("%")] = rest.split('op_name="', 1)[1].split('"', 1)[0]
    return sources
