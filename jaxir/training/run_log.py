"""The log of a run: metrics as JSON lines, TensorBoard and Weights & Biases; the progress line.

All writers take the same flat dict of numbers by step. A resumed run first drops the lines that it
is about to write again, so the files read as if it had never stopped.
"""

import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etils import epath
from tensorboardX import SummaryWriter
from tqdm import tqdm

from jaxir.config import LoggingConfig
from jaxir.errors import UserError
from jaxir.progress import progress_bar
from jaxir.runtime.files import is_remote, writing
from jaxir.runtime.processes import is_first

METRICS_FILE = "metrics.jsonl"
SECONDS_BETWEEN_WRITES = 60.0  # to a bucket


class RunLog:
    """The writers of one run; of several processes only the first writes.

    Nothing can be appended to a file in a bucket, so there the files are rewritten every minute.
    """

    def __init__(
        self, workdir: epath.Path, logging: LoggingConfig, config: Mapping[str, Any], resumed: int
    ):
        self.path, self._remote = workdir / METRICS_FILE, is_remote(workdir)
        self._tensorboard = self._wandb = None
        self._writes = is_first()
        if not self._writes:
            return
        self._lines = _lines_until(self.path, resumed)
        self._write_lines()
        if logging.tensorboard:
            self._events = workdir / "tensorboard"
            self._local = tempfile.TemporaryDirectory() if self._remote else None
            folder = self._local.name if self._local else str(self._events)
            self._tensorboard = SummaryWriter(folder, purge_step=resumed + 1)
        if logging.wandb_project:
            self._wandb = _start_wandb(workdir, logging, config)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers of a step to every destination."""
        if not self._writes:
            return
        line = json.dumps({"step": step, **values}) + "\n"
        if self._remote:
            self._lines.append(line)
        else:
            with self.path.open("a") as stream:
                stream.write(line)
        if self._tensorboard is not None:
            for name, value in values.items():
                self._tensorboard.add_scalar(name.replace("@", "_at_"), value, step)
        if self._wandb is not None:
            self._wandb.log(dict(values), step=step)
        if self._remote and time.monotonic() - self._written > SECONDS_BETWEEN_WRITES:
            self.flush()

    def flush(self) -> None:
        """Write everything so far to a bucket; local files have it already."""
        if not self._writes or not self._remote:
            return
        self._write_lines()
        if self._tensorboard is not None:
            # all but the newest, which its thread may not have taken yet
            self._tensorboard.flush()
            for file in Path(self._local.name).iterdir() if self._local else ():
                with writing(self._events / file.name, "wb") as stream:
                    stream.write(file.read_bytes())

    def close(self) -> None:
        """Write what is left and close every writer."""
        if self._tensorboard is not None:
            self._tensorboard.close()  # its thread has written everything
        self.flush()
        if self._tensorboard is not None and self._local is not None:
            self._local.cleanup()
        if self._wandb is not None:
            self._wandb.finish()

    def _write_lines(self) -> None:
        self._written = time.monotonic()
        # also where none is kept: a run that was killed before its first save wrote some
        if self._lines or self.path.exists():
            with writing(self.path) as stream:
                stream.writelines(self._lines)


def progress_line(name: str, steps: int, done: int) -> tqdm:
    """The progress bar of a run, with the time that is left."""
    return progress_bar(name, steps, "steps", done, disable=not is_first())


def _lines_until(path: epath.Path, step: int) -> list[str]:
    """The lines of an earlier start, up to a step."""
    kept = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError):
            continue  # cut off when the run was killed
    return kept


def _start_wandb(workdir: epath.Path, logging: LoggingConfig, config: Mapping[str, Any]) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise UserError(
            f"config.logging.wandb_project = {logging.wandb_project!r}: Weights & Biases is not "
            'installed; run: pip install "jaxir[wandb]"'
        ) from error
    return wandb.init(
        project=logging.wandb_project,
        dir=None if is_remote(workdir) else str(workdir),
        config=dict(config),
        resume="allow",
        id=workdir.name,
    )
