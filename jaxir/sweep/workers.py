"""Sweep workers: any number of processes train the runs of one sweep together.

Each run is an ordinary training run in its own folder. A worker takes the next run that no other
worker has claimed. The claim of a killed worker expires; the worker that takes the run then resumes
from its last checkpoint. A run has ended once its folder holds the results, or the reason why it
failed, and is then not repeated.
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
from jaxir.sweep.mixtures import Run, config_of, runs
from jaxir.training.overview import print_overview
from jaxir.training.run import train_and_evaluate
from jaxir.training.task import Compiled, Inputs, Task, set_up
from jaxir.training.workdir import RESULTS_FILE, claim

logger = logging.getLogger(__name__)

FAILED_FILE, CLAIMS = "failed.json", "claims"
SUMMARY = "results"  # name of the claim to write the results of the sweep
# Seconds after which a worker on another host counts as dead. Too short a time would make two
# workers train the same run if one was only disconnected; too long a time only delays a run.
EXPIRES = 300.0
POLL = 2.0  # seconds between looks at the other workers' claims and results
UNFINISHED = "not finished"
WAIT, DONE = -1, -2  # in place of an index: other workers have all that are left; none is left


def sweep(config: RunConfig, task: Task, workdir: epath.Path, retry_failed: bool = False) -> None:
    """Train the remaining runs of a sweep, together with other workers, then print all results.

    Args:
        config: with mixtures in `config.sweep`.
        task: of the config.
        workdir: of the whole sweep.
        retry_failed: also repeat runs that failed before.

    Raises:
        UserError: the config does not fit the data or the devices, or the workdir belongs to
            another run.
        RunError: some runs failed; the message names them. All others have finished.
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
            Worker(config, task, inputs, mesh, workdir).work(board, wanted)
        finished, missing = read_ended(workdir, wanted)
        if is_first():
            while not claims.take(SUMMARY):  # workers that finish together write in turn
                time.sleep(POLL)
            _show(workdir, task.columns, wanted, finished, missing)
    if missing:  # raised in every process, else the others would take this one for dead
        named = "; ".join(f"{name} {reason}" for name, reason in list(missing.items())[:3])
        raise RunError(
            f"{len(missing)} of {len(wanted)} runs have no results ({named}"
            f"{'; ...' if len(missing) > 3 else ''}); the others have finished; the same command "
            "with --retry_failed repeats these"
        )


class Board:
    """The runs of a sweep that have not ended, as far as this worker knows."""

    def __init__(self, workdir: epath.Path, wanted: tuple[Run, ...], claims: Claims):
        self.workdir, self.claims = workdir, claims
        self._open = dict(enumerate(wanted))

    def left(self) -> int:
        """Number of runs that have not ended."""
        self._open = {index: run for index, run in self._open.items() if not self._ended(run)}
        return len(self._open)

    def take(self) -> int:
        """Claim a run and return its index; WAIT if other workers have all that are left."""
        for index, run in list(self._open.items()):
            if not self._ended(run):
                if not self.claims.take(run.name):
                    continue
                if not self._ended(run):  # its last worker may have finished it before our claim
                    return index
                self.claims.release(run.name)
            del self._open[index]
        return WAIT if self._open else DONE

    def _ended(self, run: Run) -> bool:
        folder = self.workdir / run.name
        return (folder / RESULTS_FILE).exists() or (folder / FAILED_FILE).exists()


def _check_kinds(config: RunConfig, inputs: Inputs) -> None:
    """Raise a `UserError` if the data has no row for a kind that some mixture needs."""
    tried = [run.mixture for run in runs(config)]
    for i, kind in enumerate(config.sweep.kinds):
        if not any(mixture.shares[i] for mixture in tried):
            continue
        # a schedule of this kind alone fails exactly if no row of the data suits it
        shares = Shares(**{field.name: 0.0 for field in dataclasses.fields(Shares)} | {kind: 1.0})
        alone = dataclasses.replace(config.hybrid, shares=shares)
        try:
            Hybrid(inputs.training, alone, config.batch_size, config.seed)
        except UserError as error:
            raise UserError(
                f"config.sweep: the data has no row for {kind} batches (languages: "
                f"{', '.join(inputs.training.languages)}); add such data, or replace this kind in "
                "config.sweep.kinds"
            ) from error


class Worker:
    """The training of this worker's runs, which share mesh, inputs and compiled functions.

    Args:
        config: of the sweep.
        task: of the config.
        inputs: data and initial weights of all runs.
        mesh: of all runs.
        workdir: of the sweep.
    """

    def __init__(
        self, config: RunConfig, task: Task, inputs: Inputs, mesh: Mesh, workdir: epath.Path
    ):
        self.config, self.task, self.inputs = config, task, inputs
        self.mesh, self.workdir = mesh, workdir
        self.compiled: Compiled | None = None

    def work(self, board: Board, wanted: tuple[Run, ...]) -> None:
        """Claim and train runs until none is left; the first process claims for all processes."""
        waiting = False
        while True:
            index = agree(board.take() if is_first() else 0)
            if index == DONE:
                return
            if index == WAIT:
                if not waiting:
                    logger.info("other workers have claimed all remaining runs; waiting for them")
                waiting = True
                time.sleep(POLL)
                continue
            waiting = False
            run = wanted[index]
            try:
                self._train(run)
            finally:
                if is_first():
                    board.claims.release(run.name)

    def _train(self, run: Run) -> None:
        """Train and evaluate a run; if it fails, record the reason in its folder."""
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
    """Results of the finished runs, and the reasons why the others have none, by name of the run.

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
                reason = json.loads(failed.read_text())["error"] if failed.exists() else ""
                missing[run.name] = f"failed: {reason}" if reason else UNFINISHED
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
    """Print a table for each dataset, over the runs of all workers, and write results.json."""
    by_mixture: dict[str, list[dict[str, Any]]] = {}
    for run in wanted:
        if run.name in finished:
            by_mixture.setdefault(run.mixture.name, []).append(finished[run.name]["datasets"])
    seeds = len({run.seed for run in wanted})
    summary: dict[str, Any] = {"datasets": {}, "ties": {}, "missing": missing}
    first = next(iter(finished.values()))["datasets"] if finished else {}
    for dataset, systems in first.items():
        reports = {
            name if len(of_seeds) == seeds else f"{name} ({len(of_seeds)} of {seeds} seeds)": [
                datasets[dataset]["trained"] for datasets in of_seeds
            ]
            for name, of_seeds in by_mixture.items()
        }
        ties = print_comparison(f"{dataset}, {describe_size(systems)}", reports, columns)
        summary["datasets"][dataset], summary["ties"][dataset] = reports, ties
    write_json(workdir / RESULTS_FILE, summary)
    print(f"{workdir / RESULTS_FILE}; the runs are in folders beside it")
    print(f"python -m jaxir.sweep report {workdir} compares them")
