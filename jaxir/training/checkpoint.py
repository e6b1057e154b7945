"""Atomic checkpoints: written by orbax, sealed by SHA-256 sums.

orbax restores a checkpoint with flipped bits without an error, so every file is summed once the
checkpoint is complete, and the manifest, written last, is checked before anything is restored. A
checkpoint without a manifest was interrupted and does not count.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from jaxir.errors import UserError
from jaxir.runtime.files import entries, is_remote, write_json
from jaxir.runtime.processes import agree, is_first

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"  # the folder of a run, in its workdir
MANIFEST = "manifest.json"
NONE = -1  # the step of no checkpoint, among processes that agree on one
CHUNK = 1 << 24  # bytes read at a time


class Checkpoints:
    """The checkpoints of one run in one folder: the newest `keep`, and the best.

    Saving happens in the background; an error there is raised by the next call.
    """

    def __init__(self, folder: epath.PathLike, keep: int, best: str):
        """The best checkpoint has the lowest "loss", or the highest of another metric `best`."""
        self.folder, self.keep, self.best = epath.Path(folder), keep, best
        if not is_remote(self.folder):  # epath would look for a bucket in the current folder
            self.folder = self.folder.resolve()  # orbax wants it absolute
        self._checkpointer = ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler())
        self._sealing: Future | None = None
        self._thread = ThreadPoolExecutor(1)

    def save(self, step: int, state: Any, metrics: Mapping[str, float]) -> None:
        """Start to save; the arrays may be donated as soon as this returns.

        Raises:
            UserError: this or the previous save failed, e.g. for want of space.
        """
        self.wait()
        try:
            self._checkpointer.save(self._path(step), args=ocp.args.StandardSave(state), force=True)
        except (OSError, ValueError) as error:
            raise self._cannot_save(step, error) from error
        self._sealing = self._thread.submit(self._seal, step, dict(metrics))

    def wait(self) -> None:
        """Wait until the last save is sealed."""
        sealing, self._sealing = self._sealing, None
        if sealing is not None:
            sealing.result()

    def close(self) -> None:
        """Wait for the last save and stop the threads."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            self._checkpointer.close()

    def steps(self) -> list[int]:
        """Steps of the sealed checkpoints, oldest first."""
        if not self.folder.exists():
            return []
        sealed = (path for path in entries(self.folder) if (path / MANIFEST).exists())
        return sorted(int(path.name) for path in sealed if path.name.isdigit())

    def best_step(self) -> int | None:
        """Step of the best sealed checkpoint that was evaluated; None where none was."""
        best = agree(self._best() if is_first() else NONE)
        return None if best == NONE else best

    def _best(self) -> int:
        scored = []
        for step in self.steps():
            value = self._metrics(step).get(self.best)
            if value is not None:
                scored.append((value if self.best == "loss" else -value, step))
        return min(scored)[1] if scored else NONE

    def restore(self, step: int, abstract: Any = None) -> Any:
        """The state saved at a step.

        Args:
            step: of a sealed checkpoint.
            abstract: shapes, dtypes and shardings to restore to; None: the saved shapes, on one
                local device, which may be of another machine than the run's.

        Raises:
            UserError: a file is missing, changed or not in the manifest.
        """
        damage = self.damage(step) if is_first() else ""
        if damage:
            raise UserError(
                f"{self._path(step)}: damaged checkpoint ({damage}); delete that folder"
            )
        return self._read(step, abstract)

    def restore_latest(self, abstract: Any = None) -> tuple[int, Any] | None:
        """Step and state of the newest undamaged checkpoint; damaged ones are named.

        Args:
            abstract: as for `restore`.

        Raises:
            UserError: there are checkpoints, but every one is damaged.
        """
        step = agree(self._newest_undamaged() if is_first() else NONE)
        return None if step == NONE else (step, self._read(step, abstract))

    def _read(self, step: int, abstract: Any) -> Any:
        if abstract is None:
            saved = self._checkpointer.metadata(self._path(step)).item_metadata
            device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
            abstract = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), saved
            )
        return self._checkpointer.restore(self._path(step), args=ocp.args.StandardRestore(abstract))

    def _newest_undamaged(self) -> int:
        self._remove_unsealed()
        steps = self.steps()
        for step in reversed(steps):
            damage = self.damage(step)
            if not damage:
                return step
            logger.warning("%s is damaged (%s): using the one before it", self._path(step), damage)
        if steps:
            raise UserError(
                f"{self.folder}: every checkpoint is damaged; delete the folder to start anew"
            )
        return NONE

    def damage(self, step: int) -> str:
        """A description of the damage to a sealed checkpoint; "" if it is whole."""
        path = self._path(step)
        try:
            manifest = json.loads((path / MANIFEST).read_text())
            seal = manifest.pop("seal")
        except (OSError, ValueError, KeyError, AttributeError):
            return f"{MANIFEST} is unreadable"
        if seal != _seal_of(manifest):
            return f"{MANIFEST} was changed"
        sums = _sums(path)
        for name in sorted(sums.keys() | manifest["files"].keys()):
            if sums.get(name) != manifest["files"].get(name):
                return f"{name} was changed, added or lost"
        return ""

    def _path(self, step: int) -> epath.Path:
        return self.folder / str(step)

    def _metrics(self, step: int) -> dict[str, float]:
        try:
            return json.loads((self._path(step) / MANIFEST).read_text())["metrics"]
        except (OSError, ValueError, KeyError):
            return {}

    def _cannot_save(self, step: int, error: Exception) -> UserError:
        self._remove_unsealed()
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return UserError(
            f"{self._path(step)}: cannot save the checkpoint ({reason}); free some space and start "
            "the same command again"
        )

    def _seal(self, step: int, metrics: dict[str, float]) -> None:
        try:
            self._checkpointer.wait_until_finished()
            if is_first():
                manifest = {"files": _sums(self._path(step)), "metrics": metrics}
                sealed = manifest | {"seal": _seal_of(manifest)}
                write_json(self._path(step) / MANIFEST, sealed)
                self._prune()
        except (OSError, ValueError) as error:
            raise self._cannot_save(step, error) from error

    def _prune(self) -> None:
        steps = self.steps()
        kept = {*steps[-self.keep :], self._best()}
        for step in steps:
            if step not in kept:
                # unsealed first: a deletion that is cut off must not leave a sealed half
                (self._path(step) / MANIFEST).unlink()
                self._path(step).rmtree()

    def _remove_unsealed(self) -> None:
        if is_first() and self.folder.exists():
            for path in entries(self.folder):
                if path.name[0].isdigit() and not (path / MANIFEST).exists():
                    path.rmtree()


def _sums(path: epath.Path, prefix: str = "") -> dict[str, str]:
    """SHA-256 of every file of a checkpoint, by its name in it."""
    sums: dict[str, str] = {}
    for file in path.iterdir():
        if file.is_dir():
            sums |= _sums(file, f"{prefix}{file.name}/")
        elif not file.name.startswith(MANIFEST):
            digest = hashlib.sha256()
            with file.open("rb") as stream:
                while chunk := stream.read(CHUNK):
                    digest.update(chunk)
            sums[prefix + file.name] = digest.hexdigest()
    return sums


def _seal_of(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
