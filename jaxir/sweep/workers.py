"""A sweep: the runs of one config, done by as many workers as are started on its workdir.

Each run is an ordinary training run in a folder of its own. A worker takes the next one that nobody
has claimed; one that was killed leaves its claim behind, which expires, and whoever takes the run
then goes on from its last checkpoint. A run has ended when its results are there, or the reason why
it failed; neither is run again.
"""

import dataclasses
import json
import logging
import time
from collections.abc import Sequence
from typing import Any

from etils import epath
from jax.sharding import Mesh

from jaxir.config import RunConfig, Shares
from jaxir.data.hybrid import Hybrid
from jaxir.errors import RunError, UserError
from jaxir.evaluation.tables import Column, describe_size, print_comparison
from jaxir.progress import still_at
from jaxir.runtime.claims import Claims
from jaxir.runtime.files import write_json
from jaxir.runtime.mesh import make_mesh
from jaxir.runtime.processes import StoppedError, agree, is_first
from jaxir.sweep.points import Run, config_of, runs
from jaxir.training.overview import print_overview
from jaxir.training.run import train_and_evaluate
from jaxir.training.task import Compiled, Inputs, Task, set_up
from jaxir.training.workdir import RESULTS_FILE, claim

logger = logging.getLogger(__name__)

FAILED_FILE, CLAIMS = "failed.json", "claims"
SUMMARY = "results"  # the claim of who writes it
# Seconds after which a worker of another host counts as dead. One that was only cut off would make
# the same results once more, so there is no hurry.
EXPIRES = 300.0
POLL = 2.0  # seconds between looks at what other workers are doing
UNFINISHED = "not finished"
WAIT, DONE = -1, -2  # no run is to be had now; no more are


def sweep(config: RunConfig, task: Task, workdir: epath.Path, retry_failed: bool = False) -> None:
    """Do what is left of a sweep, together with the workers that are at it already; show all of it.

    Args:
        config: with points.
        task: of the config.
        workdir: of the whole sweep.
        retry_failed: runs that failed before are tried once more.

    Raises:
        UserError: the config does not fit the data or the devices, or the workdir is another's.
        RunError: some runs failed; they are named, and the others are done.
    """
    mesh = make_mesh(config)  # a batch that does not fit the devices fails before any reading
    wanted = runs(config)
    claim(workdir, config)
    if retry_failed and is_first():
        for run in wanted:
            (workdir / run.name / FAILED_FILE).unlink(missing_ok=True)
    with Claims(workdir / CLAIMS, EXPIRES) as claims:
        board = Board(workdir, wanted, claims)
        if agree(board.left() if is_first() else 0):
            with still_at("reading data and weights"):
                inputs = task.read_inputs(config, workdir)
            _check_kinds(config, inputs)
            _Worker(config, task, inputs, mesh, workdir).work(board, wanted)
        finished, missing = read_ended(workdir, wanted)
        if is_first():
            while not claims.take(SUMMARY):  # workers that end together write one after the other
                time.sleep(POLL)
            _show(workdir, task.columns, wanted, finished, missing)
    if missing:  # in every process, so that none takes another for dead
        named = "; ".join(f"{name} {why}" for name, why in list(missing.items())[:3])
        raise RunError(
            f"{len(missing)} of {len(wanted)} runs have no results ({named}"
            f"{'; ...' if len(missing) > 3 else ''}); the others are done, and python -m "
            "jaxir.sweep with --retry_failed tries these again"
        )


class Board:
    """Which runs of a sweep have not ended, as this worker knows."""

    def __init__(self, workdir: epath.Path, wanted: tuple[Run, ...], claims: Claims):
        self.workdir, self.claims = workdir, claims
        self._open = dict(enumerate(wanted))

    def left(self) -> int:
        """How many there are."""
        self._open = {number: run for number, run in self._open.items() if not self._ended(run)}
        return len(self._open)

    def take(self) -> int:
        """Number of a run that is ours from now on; WAIT where others have all that are left."""
        for number, run in list(self._open.items()):
            if not self._ended(run):
                if not self.claims.take(run.name):
                    continue
                if not self._ended(run):  # by a worker that let go of it just now
                    return number
                self.claims.release(run.name)
            del self._open[number]
        return WAIT if self._open else DONE

    def _ended(self, run: Run) -> bool:
        folder = self.workdir / run.name
        return (folder / RESULTS_FILE).exists() or (folder / FAILED_FILE).exists()


def _check_kinds(config: RunConfig, inputs: Inputs) -> None:
    """Raise a `UserError` where the data has no row for a kind that some point needs."""
    tried = [run.point for run in runs(config)]
    for place, kind in enumerate(config.sweep.kinds):
        if not any(point.shares[place] for point in tried):
            continue
        shares = Shares(**{field.name: 0.0 for field in dataclasses.fields(Shares)} | {kind: 1.0})
        alone = dataclasses.replace(config.hybrid, shares=shares)
        try:
            Hybrid(inputs.training, alone, config.batch_size, config.seed)
        except UserError as error:
            raise UserError(
                f"config.sweep: the data has no row for {kind} batches (languages: "
                f"{', '.join(inputs.training.languages)}); add such data, or put another kind into "
                "config.sweep.kinds"
            ) from error


class _Worker:
    """The runs that this worker does; they share mesh, inputs and compiled functions."""

    def __init__(
        self, config: RunConfig, task: Task, inputs: Inputs, mesh: Mesh, workdir: epath.Path
    ):
        self.config, self.task, self.inputs = config, task, inputs
        self.mesh, self.workdir = mesh, workdir
        self.compiled: Compiled | None = None

    def work(self, board: Board, wanted: tuple[Run, ...]) -> None:
        """Take runs until none is left; of several processes the first one does the taking."""
        waiting = False
        while True:
            number = agree(board.take() if is_first() else 0)
            if number == DONE:
                return
            if number == WAIT:
                if not waiting:
                    logger.info("other workers are at every run that is left; waiting for them")
                waiting = True
                time.sleep(POLL)
                continue
            waiting = False
            run = wanted[number]
            try:
                self._train(run)
            finally:
                if is_first():
                    board.claims.release(run.name)

    def _train(self, run: Run) -> None:
        """Train and evaluate a run; the reason why it failed is written to its folder."""
        config, folder = config_of(self.config, run), self.workdir / run.name
        claim(folder, config)
        try:
            setup = set_up(config, self.task, self.inputs, self.mesh, folder, self.compiled)
            if self.compiled is None:
                print_overview(setup)
            self.compiled = setup.compiled
            train_and_evaluate(setup, folder.name)
        except StoppedError:
            raise
        except RunError as error:
            logger.warning("%s failed: %s", folder.name, error)
            if is_first():
                write_json(folder / FAILED_FILE, {"error": str(error)})


def read_ended(
    workdir: epath.Path, wanted: tuple[Run, ...]
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Results of the finished runs, and why the others have none, by name.

    Raises:
        UserError: a file is damaged.
    """
    finished, missing = {}, {}
    for run in wanted:
        results, failed = (workdir / run.name / name for name in (RESULTS_FILE, FAILED_FILE))
        try:
            if results.exists():
                finished[run.name] = json.loads(results.read_text())
            else:
                said = json.loads(failed.read_text())["error"] if failed.exists() else ""
                missing[run.name] = f"failed: {said}" if said else UNFINISHED
        except (ValueError, KeyError) as error:
            raise UserError(f"{workdir / run.name}: damaged ({error}); delete it") from error
    return finished, missing


def _show(
    workdir: epath.Path,
    columns: Sequence[Column],
    wanted: tuple[Run, ...],
    finished: dict[str, dict[str, Any]],
    missing: dict[str, str],
) -> None:
    """One table a task, of all workers' runs."""
    every: dict[str, list[dict[str, Any]]] = {}
    for run in wanted:
        if run.name in finished:
            every.setdefault(run.point.name, []).append(finished[run.name]["datasets"])
    seeds = len({run.seed for run in wanted})
    summary: dict[str, Any] = {"datasets": {}, "ties": {}, "missing": missing}
    for task, systems in (next(iter(finished.values()))["datasets"] if finished else {}).items():
        reports = {
            name if len(some) == seeds else f"{name} ({len(some)} of {seeds} seeds)": [
                tasks[task]["trained"] for tasks in some
            ]
            for name, some in every.items()
        }
        ties = print_comparison(f"{task}, {describe_size(systems)}", reports, columns)
        summary["datasets"][task], summary["ties"][task] = reports, ties
    write_json(workdir / RESULTS_FILE, summary)
    print(f"{workdir / RESULTS_FILE}, the runs in folders beside it")
    print(f"python -m jaxir.sweep report {workdir} compares them")
