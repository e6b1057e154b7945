"""Distributed runs: several processes, one per host.

They start together, stop at the same step and fail together: if a host crashes, JAX's coordination
service ends the other processes within a bounded time.
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

SIGTERM_STATUS = 143  # exit status of a program that SIGTERM ended
# counts the steps of all runs of this process: the service that agrees on a step to stop at needs
# numbers that grow
_steps = itertools.count()


class StoppedError(RunError):
    """The run was asked to stop, has saved, and can go on."""

    exit_status = SIGTERM_STATUS


@dataclass(frozen=True)
class Join:
    """Addresses that a process needs to find the others; on TPU slices and Slurm JAX knows them."""

    coordinator: str | None  # host:port of process 0
    processes: int | None
    process: int | None
    dead_after: int  # seconds without a heartbeat


@contextmanager
def joined(join: Join) -> Iterator[None]:
    """Join the other processes of a distributed run.

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
        # together, or the coordination service would report the others as crashed
        jax.distributed.shutdown()
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
    """True in the process that writes shared files and prints."""
    return jax.process_index() == 0


def agree(value: int) -> int:
    """The value of the first process, in every process."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def wait_for_all(name: str) -> None:
    """Wait until every process has called this with the same name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


@contextmanager
def stop_asked() -> Iterator[Callable[[], bool]]:
    """A function to call once a step; it returns True if the run should save and stop.

    SIGTERM asks for that; preempted machines get it. In a distributed run any process may get it,
    and all stop at the same step, which JAX's preemption service chooses.
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
    except ValueError:  # not the main thread, where only Python can set handlers
        yield lambda: asked
        return
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGTERM, before)
