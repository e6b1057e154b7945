"""One training run from its inputs to its results: mesh, state, loop, evaluation, checkpoints."""

import dataclasses
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from etils import epath
from jaxtyping import Array

from jaxir.config import Config, Shares
from jaxir.data.collection import Collection
from jaxir.data.hybrid import Hybrid
from jaxir.data.pipeline import Loader, batches
from jaxir.data.tokens import Tokens
from jaxir.retrieval.encoding import Embed, encode, make_embed, tokens_at_once
from jaxir.retrieval.evaluation import SettingsReport, evaluate_settings
from jaxir.retrieval.measuring import first_places_alike
from jaxir.retrieval.ranks import passages_above
from jaxir.retrieval.retrieval_set import select_queries
from jaxir.training.checkpoint import CHECKPOINTS, Checkpoints
from jaxir.training.inputs import Inputs, Task
from jaxir.training.meter import Meter
from jaxir.training.processes import StoppedError, stop_asked, wait_for_all
from jaxir.training.report import Report, progress_line
from jaxir.training.sharding import make_mesh, process_rows, to_devices
from jaxir.training.step import (
    State,
    abstract_state,
    batch_loss,
    compile_step,
    make_state,
    token_shapes,
)
from jaxir.training.workdir import claim

logger = logging.getLogger(__name__)

VALIDATION_BATCHES = 16


@dataclass(frozen=True)
class Programs:
    """The compiled parts of a run, shared by runs that differ in data and seed alone."""

    config: Config
    loss: Any  # jitted (params, batch) -> loss without dropout
    embed: Embed
    steps: dict[tuple[tuple[int, ...], ...], jax.stages.Compiled] = dataclasses.field(
        default_factory=dict
    )

    def prepare(self, state: State, batch: dict[str, Any]) -> jax.stages.Compiled:
        """The step for a batch of such shapes, compiled if this is the first of them."""
        shapes = token_shapes(batch)
        if shapes not in self.steps:
            self.steps[shapes] = _compile(self.config, state, batch)
        return self.steps[shapes]


def train(
    config: Config, inputs: Inputs, workdir: epath.Path, name: str, programs: Programs | None = None
) -> tuple[Any, Programs]:
    """Train to the last step, going on from the newest checkpoint if there is one.

    Args:
        config: the run.
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
    loader = _loader(inputs, config, inputs.training, hybrid, inputs.model.row_tokens)
    rows = process_rows(mesh, config.batch_size)
    checkpoints = Checkpoints(workdir / CHECKPOINTS, config.checkpoint.keep, config.evaluation.best)
    config = dataclasses.replace(config, model=inputs.model)
    with jax.set_mesh(mesh), closing(checkpoints), stop_asked() as stop:
        abstract = abstract_state(config, inputs.params, mesh)
        restored = checkpoints.restore_latest(abstract)
        start, state = restored or (0, make_state(config, inputs.params, mesh))
        programs = programs or _programs(config)
        for shapes in _shapes(loader, to_devices(loader.batch(start, rows), mesh)):
            programs.prepare(state, shapes)
        if start < config.steps:
            report = Report(workdir, config.watch, dataclasses.asdict(config), start)
            validation = _validation_batches(inputs, config, rows, mesh)
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
                    if done % config.watch.every == 0 or last:
                        values = meter.flush()
                        report.write(done, values)
                        progress.set_postfix_str(_postfix(values))
                    measured: dict[str, float] = {}
                    if _due(done, config.evaluation.every) or (last and validation):
                        with meter.paused():
                            measured = _measure(
                                config, inputs, programs, state, validation, not last
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


def evaluate_task(
    config: Config,
    programs: Programs,
    params: Any,
    task: Task,
    most_queries: int = 0,
    first_places: bool = False,
) -> SettingsReport:
    """The three settings of a task, on all devices; of `most_queries` always the same ones.

    With `first_places` the pool is searched too, for how alike parallel queries are answered.
    """

    def embeddings(tokens: Tokens, texts: np.ndarray, limit: int) -> np.ndarray:
        batch_tokens = tokens_at_once(config.evaluation.batch_tokens)
        return encode(programs.embed, params, tokens, texts, limit, batch_tokens)

    asked, pool = (
        np.arange(len(task.query_tokens.length)),
        np.arange(len(task.passage_tokens.length)),
    )
    retrieval_set = task.retrieval_set
    if 0 < most_queries < len(asked):
        asked = np.sort(np.random.default_rng(0).permutation(asked)[:most_queries])
        retrieval_set = select_queries(retrieval_set, asked)
    queries = embeddings(task.query_tokens, asked, config.model.max_query_tokens)
    passages = embeddings(task.passage_tokens, pool, config.model.max_passage_tokens)
    above = passages_above(queries, passages, retrieval_set)
    more = first_places_alike(queries, passages, retrieval_set) if first_places else None
    return evaluate_settings(above, retrieval_set, more)


def _loader(
    inputs: Inputs, config: Config, collection: Collection, hybrid: Hybrid, row_tokens: int
) -> Loader:
    return Loader(
        collection,
        hybrid,
        inputs.query_tokens,
        inputs.passage_tokens,
        inputs.model.max_query_tokens,
        inputs.model.max_passage_tokens,
        inputs.model.length_buckets,
        config.data.hard_negatives,
        row_tokens,
        jax.device_count(),
        config.scale.texts_at_once or 1,
    )


def _shapes(loader: Loader, batch: dict[str, Array]) -> Iterator[dict[str, Any]]:
    """The batch, or with packing its shapes with each number of rows that was met in the sample.

    The last number, which fits any batch, is compiled if one ever needs it.
    """
    if not loader.row_tokens:
        yield batch
        return
    for count in loader.row_counts[:-1] or loader.row_counts:
        yield {
            name: jax.ShapeDtypeStruct(
                (count * loader.devices, *x.shape[1:]) if name.startswith("row_") else x.shape,
                x.dtype,
                sharding=x.sharding,
            )
            for name, x in batch.items()
        }


def _validation_batches(
    inputs: Inputs, config: Config, rows: slice, mesh: jax.sharding.Mesh
) -> list[dict[str, Array]]:
    """Fixed batches of the held-out rows, in all languages and pairs, whatever the run's shares."""
    if not len(inputs.held_out.ids):
        return []
    everything = dataclasses.replace(
        config.hybrid, shares=Shares(0, 0, 0, multilingual=1), one_source_batches=False
    )
    hybrid = Hybrid(inputs.held_out, everything, config.batch_size, seed=0)
    loader = _loader(inputs, config, inputs.held_out, hybrid, 0)
    stored = sum(streams.rows for streams in hybrid.streams.values())
    count = min(VALIDATION_BATCHES, -(-stored // config.batch_size))
    return [to_devices(loader.batch(step, rows), mesh) for step in range(count)]


def _measure(
    config: Config,
    inputs: Inputs,
    programs: Programs,
    state: State,
    validation: list[dict[str, Array]],
    with_task: bool,
) -> dict[str, float]:
    """Validation loss and the three settings; the best checkpoint is chosen by these."""
    losses = [programs.loss(state["params"], batch) for batch in validation]
    measured = {"loss": float(np.mean(jax.device_get(losses)))} if losses else {}
    if "held_out" in inputs.tasks and (with_task or config.evaluation.best == "map"):
        task = inputs.tasks["held_out"]
        params, queries = state["params"]["model"], config.evaluation.queries
        summary = evaluate_task(config, programs, params, task, queries).summary()
        settings = ("monolingual", "cross_lingual", "multilingual")
        maps = [summary[f"{setting}/map"] for setting in settings]
        measured |= summary | {"map": float(np.nanmean(maps))}
    return {name: value for name, value in measured.items() if np.isfinite(value)}


def _programs(config: Config) -> Programs:
    loss = jax.jit(lambda params, batch: batch_loss(params, batch, config, None)[0])
    return Programs(config, loss, make_embed(config.model))


def _compile(config: Config, state: State, batch: dict[str, Any]) -> jax.stages.Compiled:
    began = time.perf_counter()
    step, cost = compile_step(config, state, batch)
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
