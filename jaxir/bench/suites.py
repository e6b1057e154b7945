"""The benchmarks of one device in one call, each beside its peer where that is installed."""

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxir.bench.report import write_figures
from jaxir.errors import RunError

# each with the package that does the same
PARTS = {
    "train": "sentence-transformers",
    "memory": "",
    "encode": "sentence-transformers",
    "search": "torch",
    "profile": "",
}


def measure_all(output: Path | None, trace: Path, flags: Sequence[str]) -> None:
    """Measure one part after the other, and write the figures there are after each.

    Each part has a process of its own: memory that one took of the device is free for the next, and
    whatever one breaks on, the others are measured.

    Args:
        output: as of `report`.
        trace: folder for the profile.
        flags: of `jaxir.bench`, for every part.

    Raises:
        RunError: a part failed; it has printed why.
    """
    figures: dict[str, Any] = {}
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        for part, peer in PARTS.items():
            own = Path(folder) / f"{part}.json"
            command = [sys.executable, "-m", "jaxir.bench", part, *flags, f"--output={own}"]
            if peer and importlib.util.find_spec(peer.replace("-", "_")):
                command.append(f"--against={peer}")
            if part == "profile":
                command.append(f"--trace={trace}")
            status = subprocess.run(command).returncode
            if own.exists():
                figures |= json.loads(own.read_text("utf-8"))
            else:
                figures[part] = {"failed": f"exit status {status}"}
                failed.append(part)
            if output:
                write_figures(output, figures)
    if failed:
        where = f"; what was measured is in {output}" if output else ""
        raise RunError(f"{', '.join(failed)}: failed, as is said above{where}")
