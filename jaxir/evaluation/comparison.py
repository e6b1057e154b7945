"""What runs are compared by, and what those of retrievers are.

Dimension key: R runs.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from jaxir.evaluation.dataset import SETTINGS
from jaxir.evaluation.measuring import DEPTH
from jaxir.evaluation.per_query import read_values
from jaxir.evaluation.settings import MetricSums, PerQueryMetrics


@dataclass(frozen=True)
class Measure:
    """One figure of a run."""

    key: str  # "setting/measure", and "/language" where it is that of one query language
    title: str  # without the language
    more_is_better: bool = True
    logarithmic: bool = False  # positive, and worth comparing by ratio rather than by difference
    language: str = ""  # of the queries; "" for the mean over all

    def scaled(self, values: Float[np.ndarray, "*R"]) -> Float[np.ndarray, "*R"]:
        """As a surface has them: logarithms of a logarithmic one."""
        return np.log(values) if self.logarithmic else values

    def unscaled(self, values: Float[np.ndarray, "*R"]) -> Float[np.ndarray, "*R"]:
        """The inverse."""
        return np.exp(values) if self.logarithmic else values

    @property
    def label(self) -> str:
        """Its title, with the language if it is that of one."""
        return f"{self.title}, {self.language}" if self.language else self.title


@dataclass(frozen=True)
class Measured:
    """Every measure of one run on one task, summed over the queries of each question."""

    languages: tuple[str, ...]
    totals: tuple[tuple[Measure, MetricSums], ...]  # those of single languages after the main ones


@dataclass(frozen=True)
class Comparison:
    """The figures of a family's runs, and the two that trade against each other."""

    main: tuple[Measure, ...]
    quality: str  # key of a main measure
    bias: str  # key of a main measure
    read: Callable[[os.PathLike], Measured]  # what a run has left of its queries


def by_language(main: Measure, totals: MetricSums, languages: Iterable[str]) -> Measured:
    """The same measure of each language, whose cells lie side by side."""
    names = tuple(languages)
    width = totals.sums.shape[1] // len(names)
    found = []
    for number, language in enumerate(names):
        cells = slice(number * width, (number + 1) * width)
        one = MetricSums(totals.sums[:, cells], totals.counts[:, cells])
        if one.counts.any():
            own = replace(main, key=f"{main.key}/{language}", language=language)
            found.append((own, one))
    return Measured(names, tuple(found))


QUALITY, BIAS = "multilingual/map", "multilingual/rank_distance"
MAIN = (
    Measure("monolingual/map", "monolingual mAP"),
    Measure("cross_lingual/map", "cross-lingual mAP"),
    Measure(QUALITY, "multilingual mAP"),
    Measure(BIAS, "rank distance", more_is_better=False, logarithmic=True),
    Measure("multilingual/peer", "PEER"),
    Measure(f"multilingual/mrc@{DEPTH}", f"MRC@{DEPTH}"),
)


def read_measured(path: os.PathLike) -> Measured:
    """The measures of one run, the main ones first, then mAP by query language.

    Raises:
        UserError: there is no such file, or it is damaged.
    """
    values = read_values(path)
    return Measured(values.languages, tuple(_measured(values)))


def _measured(values: PerQueryMetrics) -> Iterator[tuple[Measure, MetricSums]]:
    totals = values.totals()
    known = {one.key: one for one in MAIN if one.key in totals and totals[one.key].counts.any()}
    for key, measure in known.items():
        yield measure, totals[key]
    for key in (f"{setting}/map" for setting in SETTINGS):
        if key in known:
            yield from by_language(known[key], totals[key], values.languages).totals


RETRIEVERS = Comparison(MAIN, QUALITY, BIAS, read_measured)
