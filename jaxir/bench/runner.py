"""Run a benchmark, or all of them, and write the results as JSON and as a Markdown table."""

import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import jax

from jaxir.errors import RunError
from jaxir.runtime.files import write_json

# The benchmarks of `all`, each with the library that it is measured beside.
BENCHMARKS = {
    "train": "sentence-transformers",
    "memory": "",
    "encode": "sentence-transformers",
    "search": "torch",
    "profile": "",
}


def measure_and_write(
    name: str, measure: Callable[[], dict[str, Any]], output: Path | None
) -> None:
    """Measure, then print the results with their machine, and write them.

    Args:
        name: of the benchmark.
        measure: gives its results.
        output: JSON; a Markdown table with the same name but .md is written beside it. None:
            nothing is written.
    """
    machine = {
        "date": date.today().isoformat(),
        "machine": f"{platform.platform()}, {os.cpu_count()} x {_processor()}",
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "jax": jax.__version__,
    }
    results = {name: measure()}
    print(json.dumps(results, indent=1))
    print(json.dumps(machine), flush=True)
    if output:
        write_results(output, machine | results)


def run_all(output: Path | None, trace: Path, flags: Sequence[str]) -> None:
    """Run one benchmark after the other, and write the results so far after each.

    Each benchmark has a process of its own: device memory that one took is free for the next, and
    if one fails, the others are still measured.

    Args:
        output: as of `measure_and_write`.
        trace: folder for the profile.
        flags: of `jaxir.bench`, for every benchmark.

    Raises:
        RunError: a benchmark failed; it has printed why.
    """
    results: dict[str, Any] = {}
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        for name, library in BENCHMARKS.items():
            part = Path(folder) / f"{name}.json"
            command = [sys.executable, "-m", "jaxir.bench", name, *flags, f"--output={part}"]
            if library and importlib.util.find_spec(library.replace("-", "_")):
                command.append(f"--against={library}")
            if name == "profile":
                command.append(f"--trace={trace}")
            status = subprocess.run(command).returncode
            if part.exists():
                results |= json.loads(part.read_text("utf-8"))
            else:
                results[name] = {"failed": f"exit status {status}"}
                failed.append(name)
            if output:
                write_results(output, results)
    if failed:
        where = f"; the other results are in {output}" if output else ""
        raise RunError(f"{', '.join(failed)}: failed, for the reason printed above{where}")


def write_results(output: Path, results: Mapping[str, Any]) -> None:
    """Write results as JSON, and beside it as a Markdown table."""
    write_json(output, results)
    output.with_suffix(".md").write_text("\n".join(_table(results)) + "\n", "utf-8")


def _processor() -> str:
    """Name of the CPU, and the widest vector instructions that it has."""
    facts = {}
    if Path("/proc/cpuinfo").exists():  # Linux only
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            name, _, value = line.partition(":")
            facts[name.strip()] = value.strip()
    name = facts.get("model name") or platform.processor() or platform.machine()
    vectors = [x for x in ("avx512f", "avx2") if x in facts.get("flags", "").split()][:1]
    return " ".join([name, *vectors])


def _table(results: Mapping[str, Any]) -> Iterator[str]:
    yield "| result | value |"
    yield "|---|---|"
    for name, value in _flattened(results):
        yield f"| {name} | {value:.4g} |" if isinstance(value, float) else f"| {name} | {value} |"


def _flattened(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every single value by its path, e.g. `train, packed, pairs per second`."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flattened(inner, f"{name}, {key}" if name else str(key))
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        for index, inner in enumerate(value, 1):
            yield from _flattened(inner, f"{name} {index}")
    else:
        yield name, value
