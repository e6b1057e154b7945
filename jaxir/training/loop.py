"""One training run from its inputs to its results: mesh, state, loop, evaluation, checkpoints."""

import dataclasses
import logging
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from etils import epath
from jaxtyping import Array

from jaxir.config import RunConfig, Shares
from jaxir.data.hybrid import Hybrid
from jaxir.data.pipeline import batches
from jaxir.runtime.mesh import make_mesh, process_rows, to_devices
from jaxir.runtime.processes import StoppedError, stop_asked, wait_for_all
from jaxir.training.checkpoint import CHECKPOINTS, Checkpoints
from jaxir.training.family import Family, Inputs, Objective
from jaxir.training.meter import Meter
from jaxir.training.report import Report, progress_line
from jaxir.training.step import State, abstract_state, compile_step, make_state, token_shapes
from jaxir.training.workdir import claim

logger = logging.getLogger(__name__)

VALIDATION_BATCHES = 16


@dataclass(frozen=True)
class Programs:
    """The compiled parts of a run, shared by runs that differ in data and seed alone."""

    config: RunConfig
    objective: Objective
    loss: Any  # jitted (params, batch) -> loss without chance
    embed: Any  # what the family measures with
    steps: dict[tuple[tuple[int, ...], ...], jax.stages.Compiled] = dataclasses.field(
        default_factory=dict
    )

    def prepare(self, state: State, batch: Mapping[str, Any]) -> jax.stages.Compiled:
        """The step for a batch of such shapes, compiled if this is the first of them."""
        shapes = token_shapes(batch)
        if shapes not in self.steps:
            self.steps[shapes] = _compile(self.config, self.objective, state, batch)
        return self.steps[shapes]


def train(
    config: RunConfig,
    family: Family,
    inputs: Inputs,
    workdir: epath.Path,
    name: str,
    programs: Programs | None = None,
) -> tuple[Any, Programs]:
    """Train to the last step, going on from the newest checkpoint if there is one.

    Args:
        config: the run.
        family: what kind of run it is.
        inputs: what it trains on and is measured by.
        workdir: where its checkpoints and metrics lie.
        name: what the progress line calls it.
        programs: those of a run that differs in data and seed alone; else they are compiled.

    Returns:
        The best checkpoint's model parameters, and the compiled programs.

    Raises:
        UserError: the config does not fit the data or the devices, or the disk is full.
        RunError: the loss is not finite; or the run was stopped, and saved before.
    """
    mesh = make_mesh(config)
    claim(workdir, config)
    hybrid = Hybrid(inputs.training, config.hybrid, config.batch_size, config.seed)
    config = inputs.applied(config)
    loader = inputs.loader(config, inputs.training, hybrid, training=True)
    rows = process_rows(mesh, config.batch_size)
    checkpoints = Checkpoints(workdir / CHECKPOINTS, config.checkpoint.keep, config.evaluation.best)
    with jax.set_mesh(mesh), closing(checkpoints), stop_asked() as stop:
        abstract = abstract_state(config, inputs.params, mesh, family.objective)
        restored = checkpoints.restore_latest(abstract)
        start, state = restored or (
            0,
            make_state(config, inputs.params, mesh, family.objective),
        )
        programs = programs or _programs(config, family)
        for shapes in loader.shapes(to_devices(loader.batch(start, rows), mesh)):
            programs.prepare(state, shapes)
        if start < config.steps:
            report = Report(workdir, config.logging, dataclasses.asdict(config), start)
            validation = _validation_batches(config, inputs, rows, mesh)
            meter = Meter(hybrid, start)
            stream = batches(loader, start, config.steps, rows)
            with closing(report), progress_line(name, config.steps, start) as progress:
                for step, batch in enumerate(meter.waiting(stream), start):
                    on_devices = to_devices(batch, mesh)
                    state, metrics = programs.prepare(state, on_devices)(state, on_devices)
                    meter.add(step, batch, metrics)
                    progress.update()
                    done, last = step + 1, step + 1 == config.steps
                    stopping = stop() and not last
                    if done % config.logging.every == 0 or last:
                        values = meter.flush()
                        report.write(done, values)
                        progress.set_postfix_str(_postfix(values), refresh=False)
                    measured: dict[str, float] = {}
                    if _due(done, config.evaluation.every) or (last and validation):
                        with meter.paused():
                            measured = _measure(
                                config, family, inputs, programs, state, validation, not last
                            )
                        report.write(done, {f"held_out/{k}": v for k, v in measured.items()})
                    if measured or _due(done, config.checkpoint.every) or last or stopping:
                        with meter.paused():
                            report.flush()  # a resumed run keeps the lines before its step
                            checkpoints.save(done, state, measured)
                    if stopping:
                        checkpoints.wait()
                        wait_for_all("saved")
                        raise StoppedError(
                            f"stopped at step {done} and saved; the same command goes on from there"
                        )
        checkpoints.wait()
        best = checkpoints.best_step()
        if best is not None and best != config.steps:
            state = checkpoints.restore(best, abstract)
        return state["params"]["model"], programs


def _validation_batches(
    config: RunConfig, inputs: Inputs, rows: slice, mesh: jax.sharding.Mesh
) -> list[dict[str, Array]]:
    """Fixed batches of the held-out rows, in all languages and pairs, whatever the run's shares."""
    if not len(inputs.held_out.ids):
        return []
    everything = dataclasses.replace(
        config.hybrid, shares=Shares(0, 0, 0, multilingual=1), one_source_batches=False
    )
    hybrid = Hybrid(inputs.held_out, everything, config.batch_size, seed=0)
    loader = inputs.loader(config, inputs.held_out, hybrid, training=False)
    stored = sum(streams.rows for streams in hybrid.streams.values())
    count = min(VALIDATION_BATCHES, -(-stored // config.batch_size))
    return [to_devices(loader.batch(step, rows), mesh) for step in range(count)]


def _measure(
    config: RunConfig,
    family: Family,
    inputs: Inputs,
    programs: Programs,
    state: State,
    validation: list[dict[str, Array]],
    with_figures: bool,
) -> dict[str, float]:
    """Validation loss and the family's figures; the best checkpoint is chosen by these."""
    losses = [programs.loss(state["params"], batch) for batch in validation]
    measured = {"loss": float(np.mean(jax.device_get(losses)))} if losses else {}
    if losses and (with_figures or config.evaluation.best == "map"):
        model = state["params"]["model"]
        measured |= family.measure(config, inputs, programs.embed, model)
    return {name: value for name, value in measured.items() if np.isfinite(value)}


def _programs(config: RunConfig, family: Family) -> Programs:
    objective = family.objective
    loss = jax.jit(lambda params, batch: objective.held_out_loss(params, batch, config))
    return Programs(config, objective, loss, family.embed(config))


def _compile(
    config: RunConfig, objective: Objective, state: State, batch: Mapping[str, Any]
) -> jax.stages.Compiled:
    began = time.perf_counter()
    step, cost = compile_step(config, state, batch, objective)
    logger.info(
        "compiled the step for %s tokens in %.1f s: %.2f GiB and %.3g FLOPs a device",
        " + ".join(f"{rows:,} x {width}" for rows, width in token_shapes(batch)),
        time.perf_counter() - began,
        cost["peak_bytes"] / 2**30,
        cost["flops"] / jax.device_count(),
    )
    return step


def _due(done: int, every: int) -> bool:
    return every > 0 and done % every == 0


def _postfix(values: Mapping[str, float]) -> str:
    return (
        f"loss {values['loss']:.3f}, {values['pairs_per_second']:,.0f} pairs/s, "
        f"padding {values['padding_waste']:.0%}"
    )
