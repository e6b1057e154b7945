"""Metrics that training runs are compared by, and those of retrieval runs.

Dimension key: R runs.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from jaxir.evaluation.dataset import SETTINGS
from jaxir.evaluation.per_query import read_values
from jaxir.evaluation.ranking import DEPTH
from jaxir.evaluation.settings import MetricSums, PerQueryMetrics


@dataclass(frozen=True)
class Metric:
    """A metric of a run."""

    key: str  # "setting/metric", with "/language" appended where it is of one query language
    title: str  # without the language
    higher_is_better: bool = True
    logarithmic: bool = False  # positive, and compared by ratio rather than by difference
    language: str = ""  # of the queries; "": the mean over all

    def scaled(self, values: Float[np.ndarray, "*R"]) -> Float[np.ndarray, "*R"]:
        """Values on the scale of a fitted surface: logarithms where `logarithmic`."""
        return np.log(values) if self.logarithmic else values

    def unscaled(self, values: Float[np.ndarray, "*R"]) -> Float[np.ndarray, "*R"]:
        """The inverse of `scaled`."""
        return np.exp(values) if self.logarithmic else values

    @property
    def label(self) -> str:
        """The title, followed by the language if there is one."""
        return f"{self.title}, {self.language}" if self.language else self.title


@dataclass(frozen=True)
class RunMetrics:
    """Every metric of a run on one dataset, summed over the queries of each question."""

    languages: tuple[str, ...]
    sums: tuple[tuple[Metric, MetricSums], ...]  # metrics of single languages come last


@dataclass(frozen=True)
class MetricSet:
    """Metrics that the runs of a task are compared by, and the two that trade off."""

    main: tuple[Metric, ...]
    quality: str  # key of a main metric
    bias: str  # key of a main metric
    read: Callable[[os.PathLike], RunMetrics]  # reads the file of a run's queries


def by_language(main: Metric, sums: MetricSums, languages: Iterable[str]) -> RunMetrics:
    """The metric of each query language, from its cells, which are adjacent."""
    names = tuple(languages)
    width = sums.sums.shape[1] // len(names)
    metrics = []
    for index, language in enumerate(names):
        cells = slice(index * width, (index + 1) * width)
        of_language = MetricSums(sums.sums[:, cells], sums.counts[:, cells])
        if of_language.counts.any():
            metric = replace(main, key=f"{main.key}/{language}", language=language)
            metrics.append((metric, of_language))
    return RunMetrics(names, tuple(metrics))


QUALITY, BIAS = "multilingual/map", "multilingual/rank_distance"
MAIN = (
    Metric("monolingual/map", "monolingual mAP"),
    Metric("cross_lingual/map", "cross-lingual mAP"),
    Metric(QUALITY, "multilingual mAP"),
    Metric(BIAS, "rank distance", higher_is_better=False, logarithmic=True),
    Metric("multilingual/peer", "PEER"),
    Metric(f"multilingual/mrc@{DEPTH}", f"MRC@{DEPTH}"),
)


def read_run_metrics(path: os.PathLike) -> RunMetrics:
    """Read the metrics of a run, the main ones first, then mAP by query language.

    Raises:
        UserError: there is no such file, or it is damaged.
    """
    values = read_values(path)
    return RunMetrics(values.languages, tuple(_run_metrics(values)))


def _run_metrics(values: PerQueryMetrics) -> Iterator[tuple[Metric, MetricSums]]:
    sums = values.metric_sums()
    known = {
        metric.key: metric
        for metric in MAIN
        if metric.key in sums and sums[metric.key].counts.any()
    }
    for key, metric in known.items():
        yield metric, sums[key]
    for key in (f"{setting}/map" for setting in SETTINGS):
        if key in known:
            yield from by_language(known[key], sums[key], values.languages).sums


RETRIEVAL_METRICS = MetricSet(MAIN, QUALITY, BIAS, read_run_metrics)
