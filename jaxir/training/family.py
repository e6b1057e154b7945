"""What tells one kind of run from another; all else (steps, checkpoints, sweeps) is one code.

A family is a record of functions: how the inputs of its runs are made, what they are trained by,
how they are measured, and what their results are called.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from etils import epath
from jaxtyping import Array

from jaxir.data.collection import Collection
from jaxir.data.hybrid import Hybrid
from jaxir.data.pipeline import Batches
from jaxir.evaluation.comparison import Comparison
from jaxir.evaluation.tables import Column

Metrics = dict[str, Array]
Results = dict[str, Any]


@dataclass(frozen=True)
class Objective:
    """What the parameters of a run are trained by.

    `aux_state` is what a step hands to the next besides parameters and optimizer (a momentum model,
    queues), a nested dict, empty for most; arrays in it under the name `queues` are split over
    the devices along their first axis.
    """

    # (config, weights to start from or None) -> parameters, of which "model" is the model's
    init: Callable[[Any, Any], dict[str, Any]]
    # (config, parameters) -> aux_state
    carry: Callable[[Any, Any], dict[str, Any]]
    # (parameters, aux_state, batch, config, step, seed of the step's chance)
    # -> loss, (metrics, aux_state)
    loss: Callable[..., tuple[Array, tuple[Metrics, dict[str, Any]]]]
    # (parameters, batch, config) -> loss without chance
    held_out_loss: Callable[..., Array]


class Inputs(Protocol):
    """Everything that runs of one config share, whatever their shares and seeds."""

    @property
    def params(self) -> Any | None:
        """Of the weights to start from; None: random."""

    @property
    def training(self) -> Collection:
        """What the batches are drawn from."""

    @property
    def held_out(self) -> Collection:
        """What was kept from training."""

    @property
    def data_report(self) -> Mapping[str, Any]:
        """Counts, for people."""

    def applied(self, config: Any) -> Any:
        """The config with what the inputs have decided: the model's true shape."""

    def loader(
        self, config: Any, collection: Collection, hybrid: Hybrid, training: bool
    ) -> Batches:
        """The batches of a schedule over a collection of theirs, as trained on or as measured."""


@dataclass(frozen=True)
class Family:
    """One kind of run."""

    objective: Objective
    # (config, workdir) -> inputs
    prepare: Callable[[Any, epath.Path], Inputs]
    # config -> whatever compiled functions `measure` and `results` need
    embed: Callable[[Any], Any]
    # (config, inputs, embed, parameters of the model) -> figures of the held-out rows
    measure: Callable[..., dict[str, float]]
    # (config, inputs, embed, parameters of the model, mesh, workdir)
    # -> task -> system -> report, as JSON has it
    results: Callable[..., dict[str, dict[str, Any]]]
    # (config, inputs, parameters of the model as NumPy arrays, results, folder)
    export: Callable[[Any, Any, Any, Results, epath.Path], None]
    columns: tuple[Column, ...]  # of its tables
    comparison: Comparison  # of the runs of a sweep


def size_of(systems: Mapping[str, Any]) -> str:
    """How large a task is, in words."""
    report = next(iter(systems.values()))
    names = ("queries", "passages", "images", "captions")
    counts = {name: report[name] for name in names if name in report}
    return ", ".join(
        f"{sum(count.values()) if isinstance(count, dict) else count:,} {name}"
        for name, count in counts.items()
    )
