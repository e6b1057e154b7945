"""Figures as JSON, and as a table that a README can hold."""

import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import jax

from jaxir.runtime.files import write_json


def report(name: str, measure: Callable[[], dict[str, Any]], output: Path | None) -> None:
    """Measure, then show the figures, with their machine, and write them.

    Args:
        name: of the benchmark.
        measure: gives its figures.
        output: JSON; a table of the same name but for .md goes beside it. None: nothing is written.
    """
    where = {
        "date": date.today().isoformat(),
        "machine": f"{platform.platform()}, {os.cpu_count()} x {_processor()}",
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "jax": jax.__version__,
    }
    figures = {name: measure()}
    print(json.dumps(figures, indent=1))
    print(json.dumps(where), flush=True)
    if output:
        write_figures(output, where | figures)


def write_figures(output: Path, figures: Mapping[str, Any]) -> None:
    """Write them as JSON, and beside it as a table."""
    write_json(output, figures)
    output.with_suffix(".md").write_text("\n".join(_table(figures)) + "\n", "utf-8")


def _processor() -> str:
    """The name of the CPU, and the widest vectors that it computes with."""
    known = {}
    if Path("/proc/cpuinfo").exists():  # Linux only
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            name, _, value = line.partition(":")
            known[name.strip()] = value.strip()
    name = known.get("model name") or platform.processor() or platform.machine()
    vectors = [x for x in ("avx512f", "avx2") if x in known.get("flags", "").split()][:1]
    return " ".join([name, *vectors])


def _table(figures: Mapping[str, Any]) -> Iterator[str]:
    yield "| what | measured |"
    yield "|---|---|"
    for name, value in _flat(figures):
        yield f"| {name} | {value:.4g} |" if isinstance(value, float) else f"| {name} | {value} |"


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every figure by its path."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}, {key}" if name else str(key))
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        for number, inner in enumerate(value, 1):
            yield from _flat(inner, f"{name} {number}")
    else:
        yield name, value
