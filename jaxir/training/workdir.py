"""The workdir of a run: which config it belongs to, and the files in it."""

import dataclasses
import json
from typing import Any

import dacite
from etils import epath

from jaxir.config import CONFIGS, RunConfig
from jaxir.errors import UserError
from jaxir.runtime.files import create

CONFIG_FILE, RESULTS_FILE = "config.json", "results.json"


def values_file(dataset: str) -> str:
    """Name of the file with every metric of every query of a dataset."""
    return f"values_{dataset}.npz"


def claim(workdir: epath.PathLike, config: RunConfig) -> None:
    """Make a folder this config's, or check that it is; `logging` may differ.

    Raises:
        UserError: it belongs to another config, or cannot be written.
    """
    path = epath.Path(workdir) / CONFIG_FILE
    wanted = json.loads(json.dumps(dataclasses.asdict(config)))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if create(path, json.dumps(wanted, indent=1)):
            return
    except OSError as error:
        raise UserError(f"{workdir}: cannot be written ({error.strerror or error})") from error
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); use another --workdir") from error
    different = sorted(_different(found, wanted))
    if different:
        raise UserError(
            f"{workdir}: belongs to a run with another config ({'; '.join(different[:3])}); "
            "use another --workdir or delete it"
        )


def read_results(workdir: epath.Path) -> dict[str, Any] | None:
    """The results of a finished run; None where it has not finished.

    Raises:
        UserError: the file is damaged.
    """
    path = workdir / RESULTS_FILE
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"{path}: damaged ({error}); delete it, and the run is evaluated"
        ) from error


def read_config(workdir: epath.PathLike) -> RunConfig:
    """The config that a folder was claimed for.

    Raises:
        UserError: it is damaged, or of another version.
    """
    path = epath.Path(workdir) / CONFIG_FILE
    try:
        fields = json.loads(path.read_text())
        return dacite.from_dict(CONFIGS[fields["task"]], fields, dacite.Config(cast=[tuple]))
    except (ValueError, KeyError, TypeError, dacite.DaciteError) as error:
        raise UserError(f"{path}: not a config of this version of jaxir ({error})") from error


def _different(found: Any, wanted: Any, name: str = "config") -> list[str]:
    """A line for each field that differs, with both values."""
    if name == "config.logging" or found == wanted:
        return []
    if isinstance(found, dict) and isinstance(wanted, dict):
        return [
            line
            for key in sorted(found.keys() | wanted.keys())
            for line in _different(found.get(key), wanted.get(key), f"{name}.{key}")
        ]
    return [f"{name} was {_short(found)}, is {_short(wanted)}"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
