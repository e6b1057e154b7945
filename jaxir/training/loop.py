"""The training loop: steps, logs, validation and checkpoints, from the newest checkpoint on."""

import dataclasses
from collections.abc import Callable
from contextlib import closing
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from jaxir.config import Shares
from jaxir.data.hybrid import Hybrid
from jaxir.data.pipeline import batches
from jaxir.runtime.mesh import to_devices
from jaxir.runtime.processes import StoppedError, stop_asked, wait_for_all
from jaxir.training.checkpoint import CHECKPOINTS, Checkpoints
from jaxir.training.meter import Meter
from jaxir.training.run_log import RunLog, progress_line
from jaxir.training.step import State, abstract_state, make_state
from jaxir.training.task import Setup

VALIDATION_BATCHES = 16


def train(setup: Setup, name: str) -> Any:
    """Train to the last step, going on from the newest checkpoint if there is one.

    Args:
        setup: of the run.
        name: label of the progress line.

    Returns:
        The parameters of the best checkpoint's model.

    Raises:
        UserError: the config does not fit the data or the devices, or the disk is full.
        RunError: the loss is not finite; or the run was stopped, and saved before.
    """
    config, mesh = setup.config, setup.mesh
    abstract = abstract_state(config, setup.inputs.params, mesh, setup.task)
    folder = setup.workdir / CHECKPOINTS
    checkpoints = Checkpoints(folder, config.checkpoint.keep, config.evaluation.best)
    with jax.set_mesh(mesh), closing(checkpoints), stop_asked() as stop:
        restored = checkpoints.restore_latest(abstract)
        start, state = restored or (0, make_state(config, setup.inputs.params, mesh, setup.task))
        if start < config.steps:
            state = _train_from(setup, start, state, checkpoints, stop, name)
        checkpoints.wait()
        best = checkpoints.best_step()
        if best is not None and best != config.steps:
            state = checkpoints.restore(best, abstract)
    return state["params"]["model"]


def _train_from(
    setup: Setup,
    start: int,
    state: State,
    checkpoints: Checkpoints,
    stop: Callable[[], bool],
    name: str,
) -> State:
    """The steps from `start` to the last; `stop` says whether to save and stop after a step."""
    config, mesh, train_step = setup.config, setup.mesh, setup.compiled.train_step
    loader = setup.inputs.loader(config, setup.inputs.training, setup.schedule, training=True)
    for shapes in loader.shapes(to_devices(loader.batch(start, setup.rows), mesh)):
        train_step.compile(state, shapes)
    validation = _validation_batches(setup)
    meter = Meter(setup.schedule, start)
    stream = meter.waiting(batches(loader, start, config.steps, setup.rows))
    log = RunLog(setup.workdir, config.logging, dataclasses.asdict(config), start)
    with closing(log), progress_line(name, config.steps, start) as progress:
        for step, batch in enumerate(stream, start):
            on_devices = to_devices(batch, mesh)
            state, metrics = train_step(state, on_devices)
            # dispatch is asynchronous: the meter waits for the step before this one
            meter.add(step, batch, metrics)
            progress.update()
            done, last = step + 1, step + 1 == config.steps
            stopping = stop() and not last
            if last or _due(done, config.logging.every):
                values = meter.flush()
                log.write(done, values)
                progress.set_postfix_str(_postfix(values), refresh=False)
            validated: dict[str, float] = {}
            if _due(done, config.evaluation.every) or (last and validation):
                validated = _validate(setup, meter, state, validation, last)
                log.write(done, {f"held_out/{key}": value for key, value in validated.items()})
            if validated or last or stopping or _due(done, config.checkpoint.every):
                _save(checkpoints, log, meter, done, state, validated)
            if stopping:
                checkpoints.wait()
                wait_for_all("saved")
                raise StoppedError(
                    f"stopped at step {done} and saved; the same command goes on from there"
                )
    return state


def _validation_batches(setup: Setup) -> list[dict[str, Array]]:
    """Fixed batches of the held-out rows, in all languages and pairs, whatever the run's shares."""
    config, inputs = setup.config, setup.inputs
    if not len(inputs.held_out.ids):
        return []
    all_pairs = dataclasses.replace(
        config.hybrid, shares=Shares(0, 0, 0, multilingual=1), one_source_batches=False
    )
    schedule = Hybrid(inputs.held_out, all_pairs, config.batch_size, seed=0)
    loader = inputs.loader(config, inputs.held_out, schedule, training=False)
    rows = sum(streams.rows for streams in schedule.streams.values())
    count = min(VALIDATION_BATCHES, -(-rows // config.batch_size))
    return [to_devices(loader.batch(step, setup.rows), setup.mesh) for step in range(count)]


def _validate(
    setup: Setup, meter: Meter, state: State, validation: list[dict[str, Array]], last: bool
) -> dict[str, float]:
    """Validation loss and metrics of the held-out set, which choose the best checkpoint.

    After the last step the metrics are left to the final evaluation, unless they choose.
    """
    config, params = setup.config, state["params"]
    with meter.paused():
        losses = [setup.compiled.validation_loss(params, batch) for batch in validation]
        values = {"loss": float(np.mean(jax.device_get(losses)))} if losses else {}
        if losses and (not last or config.evaluation.best == "map"):
            values |= setup.task.validate(setup, params["model"])
    return {name: value for name, value in values.items() if np.isfinite(value)}


def _save(
    checkpoints: Checkpoints,
    log: RunLog,
    meter: Meter,
    done: int,
    state: State,
    validated: dict[str, float],
) -> None:
    with meter.paused():
        log.flush()  # a resumed run keeps the lines before its step
        checkpoints.save(done, state, validated)


def _due(done: int, every: int) -> bool:
    return every > 0 and done % every == 0


def _postfix(values: dict[str, float]) -> str:
    return (
        f"loss {values['loss']:.3f}, {values['pairs_per_second']:,.0f} pairs/s, "
        f"padding {values['padding_waste']:.0%}"
    )
