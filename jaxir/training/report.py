"""What a run says while it goes: a progress line, JSON lines, TensorBoard, Weights & Biases.

All writers take the same flat dict of numbers by step. A resumed run first drops the lines it is
about to write again, so the files read as if it had never stopped.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from tensorboardX import SummaryWriter
from tqdm import tqdm

from jaxir.config import WatchConfig
from jaxir.errors import UserError

METRICS_FILE = "metrics.jsonl"


class Report:
    """The writers of one run; of several processes only the first writes."""

    def __init__(self, workdir: Path, watch: WatchConfig, config: Mapping[str, Any], resumed: int):
        self.path = workdir / METRICS_FILE
        self._tensorboard = self._wandb = None
        self._writes = jax.process_index() == 0
        if not self._writes:
            return
        _drop_lines_after(self.path, resumed)
        if watch.tensorboard:
            self._tensorboard = SummaryWriter(str(workdir / "tensorboard"), purge_step=resumed + 1)
        if watch.wandb_project:
            self._wandb = _start_wandb(workdir, watch, config)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers of a step to every destination."""
        if not self._writes:
            return
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, **values}) + "\n")
        if self._tensorboard is not None:
            for name, value in values.items():
                self._tensorboard.add_scalar(name.replace("@", "_at_"), value, step)
        if self._wandb is not None:
            self._wandb.log(dict(values), step=step)

    def close(self) -> None:
        """Flush and let go."""
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()


def progress_line(name: str, steps: int, done: int) -> tqdm:
    """The one line that tells how far a run is and how long it will take."""
    return tqdm(
        total=steps,
        initial=done,
        desc=name,
        unit="step",
        dynamic_ncols=True,
        mininterval=1.0,
        maxinterval=30.0,
    )


def _drop_lines_after(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError):
            continue  # cut off when the run was killed
    temporary = path.with_suffix(".unfinished")
    temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    temporary.replace(path)


def _start_wandb(workdir: Path, watch: WatchConfig, config: Mapping[str, Any]) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise UserError(
            f"config.watch.wandb_project = {watch.wandb_project!r}: Weights & Biases is not "
            'installed; run: pip install "jaxir[wandb]"'
        ) from error
    return wandb.init(
        project=watch.wandb_project,
        dir=str(workdir),
        config=dict(config),
        resume="allow",
        id=workdir.name,
    )
