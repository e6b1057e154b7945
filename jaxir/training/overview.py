"""The table that a run prints before its first step: model, data, batches, devices."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
from rich.table import Table

from jaxir.evaluation.tables import print_table
from jaxir.runtime.processes import is_first
from jaxir.training.task import Setup

# counts of the data that have their own line
_BY_LANGUAGE = ("queries", "passages", "captions")
_HELD_OUT = ("training_groups", "held_out_groups")


def print_overview(setup: Setup) -> None:
    """Print the table to stderr, where the log goes; of several processes only the first prints."""
    if not is_first():
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column()
    for name, text in _lines(setup):
        table.add_row(name, text)
    print_table(table, width=100, stderr=True, highlight=False)


def _lines(setup: Setup) -> Iterator[tuple[str, str]]:
    config, inputs = setup.config, setup.inputs
    yield "run", f"{setup.workdir}: {config.task}, seed {config.seed}"
    params = jax.eval_shape(lambda: setup.task.init_params(config, inputs.params)["model"])
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    yield "model", f"{_initial_weights(config.model)}, {count / 1e6:,.1f} M parameters"
    yield "data", _counts(inputs.data_report)
    for name in _BY_LANGUAGE:
        if name in inputs.data_report:
            yield name, _counts(inputs.data_report[name])
    held_out = len(inputs.held_out.ids)
    yield "held out", f"{held_out:,} of {held_out + len(inputs.training.ids):,} parallel groups"
    yield "batches", f"{config.steps:,} steps of {config.batch_size:,} pairs: {_shares(config)}"
    devices = jax.devices()
    kind = devices[0].device_kind
    split = ", parameters split over them (FSDP)" if config.scale.fsdp else ""
    processes = jax.process_count()
    hosts = f" in {processes} processes" if processes > 1 else ""
    yield "devices", f"{len(devices)} x {kind}{hosts}{split}"


def _initial_weights(model: Any) -> str:
    names = [getattr(model, field, "") for field in ("init", "init_vision", "init_text")]
    given = " and ".join(name for name in names if name)
    return f"from {given}" if given else "random initial weights"


def _shares(config: Any) -> str:
    shares = {kind: share for kind, share in vars(config.hybrid.shares).items() if share}
    total = sum(shares.values())
    return ", ".join(
        f"{share / total:.0%} {kind.replace('_', '-')}" for kind, share in shares.items()
    )


def _counts(report: Mapping[str, Any]) -> str:
    counts = {
        name: value
        for name, value in report.items()
        if isinstance(value, int) and value and name not in _HELD_OUT
    }
    return ", ".join(f"{name.replace('_', ' ')} {value:,}" for name, value in counts.items())
