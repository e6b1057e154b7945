"""The metrics of a sweep's finished runs, read from their workdirs into arrays.

Dimension key: R runs, U questions, M metrics, S seeds.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float

from jaxir.config import RunConfig
from jaxir.errors import UserError
from jaxir.evaluation.comparison import Metric, MetricSet
from jaxir.evaluation.settings import MetricSums
from jaxir.evaluation.significance import contributions
from jaxir.sweep.mixtures import Mixture, Run, is_sweep, runs
from jaxir.sweep.workers import read_ended
from jaxir.tasks import task_of
from jaxir.training.workdir import CONFIG_FILE, read_config, values_file


@dataclass(frozen=True, eq=False)
class Study:
    """All runs of a sweep, evaluated on one dataset; a run without results has NaN everywhere."""

    config: RunConfig
    dataset: str
    metric_set: MetricSet
    runs: tuple[Run, ...]
    missing: dict[str, str]  # runs without results, by name, and why they have none
    results: dict[str, dict[str, Any]]  # results.json of the other runs, by name
    languages: tuple[str, ...]
    metrics: tuple[Metric, ...]
    values: Float[np.ndarray, "R M"]
    # each question's part of the value (they add up to it); NaN if none of its queries counts
    contributions: Float[np.ndarray, "R U M"]

    @property
    def mixtures(self) -> tuple[Mixture, ...]:
        """The sweep's mixtures, in its order."""
        return tuple(dict.fromkeys(run.mixture for run in self.runs))

    @property
    def seeds(self) -> tuple[int, ...]:
        """The sweep's seeds, in its order."""
        return tuple(dict.fromkeys(run.seed for run in self.runs))

    def column(self, key: str) -> int:
        """Index of a metric along the axis M."""
        return next(i for i, metric in enumerate(self.metrics) if metric.key == key)

    def metric(self, key: str) -> Metric:
        """Return the metric of a key."""
        return self.metrics[self.column(key)]

    def scaled(self, key: str) -> Float[np.ndarray, "R"]:
        """Values of a metric, one a run, on the scale on which its response surface is fitted."""
        return self.metric(key).scaled(self.values[:, self.column(key)])

    def of_mixture(self, mixture: Mixture) -> Float[np.ndarray, "S M"]:
        """Values of a mixture's finished runs, one row a seed."""
        rows = self.values[np.array([run.mixture == mixture for run in self.runs])]
        return rows[~np.isnan(rows).all(axis=1)]


def read_study(workdir: epath.Path, dataset: str | None) -> Study:
    """Read the results of the runs that have finished so far.

    Args:
        workdir: of the sweep.
        dataset: one of those that the runs are evaluated on; None: the last.

    Raises:
        UserError: no sweep, no finished run, an unknown dataset, or a damaged file.
    """
    if not (workdir / CONFIG_FILE).exists():
        raise UserError(
            f"{workdir}: no sweep here; python -m jaxir.sweep --config ... --workdir ... starts one"
        )
    config = read_config(workdir)
    if not is_sweep(config):
        raise UserError(f"{workdir}: the workdir of a single run; a report needs that of a sweep")
    metric_set = task_of(config).comparison
    wanted = runs(config)
    results, missing = read_ended(workdir, wanted)
    if not results:
        first_reason = next(f"{name} {reason}" for name, reason in missing.items())
        raise UserError(f"{workdir}: no run of this sweep has finished yet ({first_reason})")
    datasets = list(next(iter(results.values()))["datasets"])
    dataset = dataset or datasets[-1]
    if dataset not in datasets:
        raise UserError(f"--dataset {dataset}: the runs are evaluated on {', '.join(datasets)}")
    by_run = {name: metric_set.read(workdir / name / values_file(dataset)) for name in results}
    first = next(iter(by_run.values()))
    metrics = tuple(metric for metric, _ in first.sums)
    values = {
        name: np.array([float(sums.mean()) for _, sums in measured.sums])
        for name, measured in by_run.items()
    }
    parts = {
        name: np.stack([_contributions(sums) for _, sums in measured.sums], axis=1)
        for name, measured in by_run.items()
    }
    no_values = np.full(len(metrics), np.nan)
    no_parts = np.full(next(iter(parts.values())).shape, np.nan)
    return Study(
        config,
        dataset,
        metric_set,
        wanted,
        missing,
        results,
        first.languages,
        metrics,
        np.stack([values.get(run.name, no_values) for run in wanted]),
        np.stack([parts.get(run.name, no_parts) for run in wanted]),
    )


def _contributions(sums: MetricSums) -> Float[np.ndarray, "U"]:
    return np.where(sums.counts.any(axis=1), contributions(sums), np.nan)


def overall_metrics(study: Study) -> tuple[Metric, ...]:
    """The metrics over all query languages, without those of single languages."""
    return tuple(metric for metric in study.metrics if not metric.language)


def run_rows(study: Study) -> Iterator[dict[str, Any]]:
    """Rows of runs.csv: a run's mixture, seed and values (None without results)."""
    for run, row in zip(study.runs, study.values):
        shares = dict(zip(study.config.sweep.kinds, run.mixture.shares))
        values = [None if np.isnan(value) else float(value) for value in row]
        yield {"run": run.name, "mixture": run.mixture.name, **shares, "seed": run.seed} | {
            metric.key: value for metric, value in zip(study.metrics, values)
        }
