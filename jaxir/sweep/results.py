"""What the finished runs of a sweep have measured, side by side.

Dimension key: R runs, U questions, M measures, N languages.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float

from jaxir.config import RunConfig
from jaxir.errors import UserError
from jaxir.evaluation.comparison import Comparison, Measure
from jaxir.evaluation.settings import MetricSums
from jaxir.evaluation.significance import contributions
from jaxir.sweep.points import Point, Run, is_sweep, runs
from jaxir.sweep.workers import read_ended
from jaxir.tasks import task_of
from jaxir.training.workdir import CONFIG_FILE, read_config, values_file


@dataclass(frozen=True, eq=False)
class Study:
    """All runs of a sweep on one task; a run without results has NaN everywhere."""

    config: RunConfig
    task: str
    comparison: Comparison
    runs: tuple[Run, ...]
    missing: dict[str, str]  # runs without results, and why
    results: dict[str, dict[str, Any]]  # results.json of the others
    languages: tuple[str, ...]
    measures: tuple[Measure, ...]
    figures: Float[np.ndarray, "R M"]
    # what each question adds to each figure; NaN where no query of it counts
    contributions: Float[np.ndarray, "R U M"]

    @property
    def points(self) -> tuple[Point, ...]:
        """In the order of the sweep."""
        return tuple(dict.fromkeys(run.point for run in self.runs))

    @property
    def seeds(self) -> tuple[int, ...]:
        """In their order."""
        return tuple(dict.fromkeys(run.seed for run in self.runs))

    def column(self, key: str) -> int:
        """Where a measure stands."""
        return next(i for i, measure in enumerate(self.measures) if measure.key == key)

    def measure(self, key: str) -> Measure:
        """By its key."""
        return self.measures[self.column(key)]

    def scaled(self, key: str) -> Float[np.ndarray, "R"]:
        """A measure of every run, on the scale of its surface."""
        return self.measure(key).scaled(self.figures[:, self.column(key)])

    def of(self, point: Point) -> Float[np.ndarray, "S M"]:
        """Figures of a point's finished runs, one a seed."""
        rows = np.array([run.point == point for run in self.runs])
        found = self.figures[rows]
        return found[~np.isnan(found).all(axis=1)]


def read_study(workdir: epath.Path, task: str | None) -> Study:
    """Read what the runs of a sweep have left so far.

    Args:
        workdir: of the sweep.
        task: which of those that the runs measure; None: the last.

    Raises:
        UserError: no sweep, nothing finished yet, no such task, or a damaged file.
    """
    if not (workdir / CONFIG_FILE).exists():
        raise UserError(
            f"{workdir}: no sweep is here; jaxir.sweep --config ... --workdir starts one"
        )
    config = read_config(workdir)
    if not is_sweep(config):
        raise UserError(f"{workdir}: the workdir of a single run; a report needs that of a sweep")
    comparison = task_of(config).comparison
    wanted = runs(config)
    results, missing = read_ended(workdir, wanted)
    if not results:
        why = "; ".join(f"{name} {why}" for name, why in list(missing.items())[:1])
        raise UserError(f"{workdir}: no run of this sweep has finished yet ({why})")
    tasks = list(next(iter(results.values()))["tasks"])
    task = task or tasks[-1]
    if task not in tasks:
        raise UserError(f"--task {task}: the runs have {', '.join(tasks)}")
    measured = {name: comparison.read(workdir / name / values_file(task)) for name in results}
    first = next(iter(measured.values()))
    measures = tuple(measure for measure, _ in first.totals)
    nothing = np.full(len(measures), np.nan)
    figures = [
        np.array([float(one.figure()) for _, one in measured[run.name].totals])
        if run.name in measured
        else nothing
        for run in wanted
    ]
    parts = {
        name: np.stack([_known(totals) for _, totals in some.totals], axis=1)
        for name, some in measured.items()
    }
    shape = next(iter(parts.values())).shape
    return Study(
        config,
        task,
        comparison,
        wanted,
        missing,
        results,
        first.languages,
        measures,
        np.stack(figures),
        np.stack([parts.get(run.name, np.full(shape, np.nan)) for run in wanted]),
    )


def _known(totals: MetricSums) -> Float[np.ndarray, "U"]:
    return np.where(totals.counts.any(axis=1), contributions(totals), np.nan)


def without_languages(study: Study) -> tuple[Measure, ...]:
    """The measures over all query languages."""
    return tuple(measure for measure in study.measures if not measure.language)


def as_rows(study: Study) -> Iterator[dict[str, Any]]:
    """One flat record a run, with its shares and all its figures; None without results."""
    for run, figures in zip(study.runs, study.figures):
        shares = dict(zip(study.config.sweep.kinds, run.point.shares))
        values = [None if np.isnan(value) else float(value) for value in figures]
        yield {"run": run.name, "point": run.point.name, **shares, "seed": run.seed} | {
            measure.key: value for measure, value in zip(study.measures, values)
        }
