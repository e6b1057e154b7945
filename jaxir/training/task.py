"""The kinds of runs: a `Task` says what is trained and evaluated; all else is shared.

`jaxir.training.retrieval` trains a retriever of texts, `jaxir.vision.training.albef` aligns images
and captions. The loop, checkpoints, logs and sweeps know this protocol alone.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import jax
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Array

from jaxir.config import RunConfig
from jaxir.data.collection import Collection
from jaxir.data.hybrid import Hybrid
from jaxir.data.pipeline import BatchLoader
from jaxir.evaluation.comparison import MetricSet
from jaxir.evaluation.tables import Column
from jaxir.runtime.mesh import process_rows
from jaxir.training.step import TrainStep

Metrics = dict[str, Array]
AuxState = dict[str, Any]
Results = dict[str, Any]


class Inputs(Protocol):
    """Everything that the runs of one config read, whatever their shares and seeds."""

    @property
    def model(self) -> Any:
        """The model's config with its true shape, which weights or a tokenizer have decided."""

    @property
    def params(self) -> Any | None:
        """Initial weights of the model; None: random."""

    @property
    def training(self) -> Collection:
        """The rows that batches are drawn from."""

    @property
    def held_out(self) -> Collection:
        """The rows that were kept from training."""

    @property
    def data_report(self) -> Mapping[str, Any]:
        """Counts of the data, for people."""

    def loader(
        self, config: Any, collection: Collection, schedule: Hybrid, training: bool
    ) -> BatchLoader:
        """The loader of a schedule's batches, for training or for the validation loss."""


class Task(Protocol):
    """A kind of run.

    The parameters of a run are a nested dict whose `model` are the model's. The `aux_state` is
    whatever a step hands to the next besides parameters and optimizer state (a momentum model,
    queues), a nested dict, empty for most tasks; arrays in it under the name `queues` are split
    over the devices along their first axis.
    """

    columns: tuple[Column, ...]  # of the tables of results
    comparison: MetricSet  # metrics that the runs of a sweep are compared by

    def read_inputs(self, config: Any, workdir: epath.Path) -> Inputs:
        """Read data, initial weights and tokenizer.

        Raises:
            UserError: names what is wrong in the data, the weights or the config.
        """

    def init_params(self, config: Any, pretrained: Any | None) -> dict[str, Any]:
        """The parameters of step 0, around the given weights of the model or random ones."""

    def init_aux(self, config: Any, params: dict[str, Any]) -> AuxState:
        """The auxiliary state of step 0."""

    def loss(
        self,
        params: Any,
        aux_state: AuxState,
        batch: dict[str, Array],
        config: Any,
        step: Array,
        seed: Array,
    ) -> tuple[Array, tuple[Metrics, AuxState]]:
        """The training loss of a global batch; `seed` decides dropout and all other randomness."""

    def validation_loss(self, params: Any, batch: dict[str, Array], config: Any) -> Array:
        """The loss without randomness and without auxiliary state."""

    def make_encoders(self, config: Any) -> Any:
        """The jitted functions that `validate` and `evaluate` encode with."""

    def validate(self, setup: "Setup", params: Any) -> dict[str, float]:
        """Metrics of the model on the held-out set, `map` among them, by which the best is kept."""

    def evaluate(self, setup: "Setup", params: Any) -> dict[str, dict[str, Any]]:
        """The final reports: dataset -> system -> report as JSON has it. Writes pictures too."""

    def export(self, setup: "Setup", params: Any, results: Results) -> None:
        """Write the model (NumPy arrays) as a folder `export` in the workdir."""


@dataclass(frozen=True, eq=False)
class Compiled:
    """The compiled functions of a run, shared by runs that differ in shares and seed alone."""

    train_step: TrainStep
    validation_loss: Callable[[Any, dict[str, Array]], Array]
    encoders: Any


@dataclass(frozen=True, eq=False)
class Setup:
    """Everything of a run that is made once, before its first step, and handed on."""

    config: Any  # RunConfig of the task, with the model's true shape
    task: Task
    inputs: Any  # Inputs of the task
    mesh: Mesh
    schedule: Hybrid  # the rows of each step's batch
    compiled: Compiled
    workdir: epath.Path

    @cached_property
    def rows(self) -> slice:
        """The rows of each global batch that this process loads."""
        return process_rows(self.mesh, self.config.batch_size)


def set_up(
    config: RunConfig,
    task: Task,
    inputs: Inputs,
    mesh: Mesh,
    workdir: epath.Path,
    compiled: Compiled | None = None,
) -> Setup:
    """The set-up of a run.

    Args:
        config: the run, as it was given.
        task: its kind.
        inputs: of this config or of one that differs in shares and seed alone.
        mesh: of all devices.
        workdir: claimed for this config.
        compiled: of such another run; None: functions are compiled when first called.

    Raises:
        UserError: the data has no row for a kind of batch that the shares ask for.
    """
    schedule = Hybrid(inputs.training, config.hybrid, config.batch_size, config.seed)
    resolved: Any = dataclasses.replace(config, model=inputs.model)  # type: ignore[call-arg]
    compiled = compiled or make_compiled(resolved, task)
    return Setup(resolved, task, inputs, mesh, schedule, compiled, workdir)


def make_compiled(config: RunConfig, task: Task) -> Compiled:
    """The compiled functions of a resolved config; each is compiled when it is first called."""
    return Compiled(
        TrainStep(config, task),
        jax.jit(lambda params, batch: task.validation_loss(params, batch, config)),
        task.make_encoders(config),
    )
