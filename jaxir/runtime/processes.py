"""Several processes, one a host, as one run.

They start together, stop at the same step, and fail together: JAX's coordination service ends every
process within a bounded time of another's death.
"""

import itertools
import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxir.errors import RunError

logger = logging.getLogger(__name__)

SIGTERM_STATUS = 143  # what a shell reports for a program ended by SIGTERM
# of all runs of this process: the service that agrees on a step wants them to rise
_steps = itertools.count()


class StoppedError(RunError):
    """The run was asked to stop, has saved, and can go on."""

    exit_status = SIGTERM_STATUS


@dataclass(frozen=True)
class Join:
    """How a process finds the others; on TPU slices, Slurm and the like JAX knows all but time."""

    coordinator: str | None  # host:port of process 0
    processes: int | None
    process: int | None
    dead_after: int  # seconds without a sign of life


@contextmanager
def joined(join: Join) -> Iterator[None]:
    """Take part in a run of several processes.

    Raises:
        RunError: a step failed because another process is gone, or they did not find each other.
    """
    try:
        jax.distributed.initialize(
            join.coordinator,
            join.processes,
            join.process,
            heartbeat_timeout_seconds=join.dead_after,
        )
    except (ValueError, RuntimeError) as error:
        raise RunError(
            f"--distributed: cannot join the other processes ({_first(error)})"
        ) from error
    if not is_first():
        logging.getLogger("jaxir").setLevel(logging.WARNING)
    try:
        yield
    except StoppedError:
        jax.distributed.shutdown()  # together, so that nobody takes the others for dead
        raise
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        lost = isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error)
        if not lost:
            raise
        raise RunError(
            f"process {jax.process_index()} of {jax.process_count()}: a step failed, most likely "
            f"because another process ended ({_first(error)}); its log says why, and the same "
            "command goes on from the last checkpoint"
        ) from error


def _first(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]


def is_first() -> bool:
    """Whether this process is the one that writes what all have in common."""
    return jax.process_index() == 0


def agree(value: int) -> int:
    """The value that the first process has."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def wait_for_all(name: str) -> None:
    """Until every process has come to the place of this name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


@contextmanager
def stop_asked() -> Iterator[Callable[[], bool]]:
    """A function to call once a step: whether to save and stop after it.

    SIGTERM asks for that; machines that are taken back send it. Of several processes any may get
    it, and all stop at the same step, which JAX's preemption service chooses.
    """
    if jax.distributed.is_initialized():
        yield lambda: multihost_utils.reached_preemption_sync_point(next(_steps))
        return
    asked = False

    def ask(*_: object) -> None:
        nonlocal asked
        asked = True

    try:
        before = signal.signal(signal.SIGTERM, ask)
    except ValueError:  # not the main thread: whoever runs us there has its own way to stop
        yield lambda: asked
        return
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGTERM, before)
