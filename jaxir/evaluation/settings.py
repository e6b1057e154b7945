"""The three settings of multilingual retrieval, from the ranks of the right answers.

Dimension key: Q queries, R right answers of a query at most, N languages, U questions, B draws.

    monolingual    queries of X against the passages of X; mean over languages
    cross_lingual  queries of X against the passages of Y; mean over ordered pairs, Y != X
    multilingual   queries of X against the passages of all languages; mean over X

(LAReQA, arXiv 2004.05484, section 3; arXiv 2408.10536, section 4.) A query with no right answer
among the passages it is held against does not count there.
"""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from jaxir.evaluation.bias import equal_expected_rank, rank_distance
from jaxir.evaluation.dataset import RetrievalDataset
from jaxir.evaluation.metrics import MEASURES, Measure
from jaxir.evaluation.ranks import ranks_in_pool, ranks_within_language


@dataclass(frozen=True, eq=False)
class PerQueryMetrics:
    """Every measure of every query, NaN where it does not count."""

    languages: tuple[str, ...]
    settings: tuple[str, ...]
    query_language: Int[np.ndarray, "Q"]
    question: Int[np.ndarray, "Q"]
    by_language: dict[str, Float[np.ndarray, "Q N"]]  # against the passages of each language
    in_pool: dict[str, Float[np.ndarray, "Q"]]  # against those of all languages

    def totals(self) -> dict[str, "MetricSums"]:
        """Sums and counts over queries of every "setting/measure" of the settings asked for."""
        unit = np.unique(self.question, return_inverse=True)[1]
        size, languages = int(unit.max()) + 1, len(self.languages)
        own = self.query_language

        def totals(values: np.ndarray, cell: np.ndarray, cells: int) -> MetricSums:
            known = ~np.isnan(values)
            place = (unit[:, None] * cells + cell)[known]

            def summed(weights: np.ndarray | None) -> np.ndarray:
                return np.bincount(place, weights, minlength=size * cells).reshape(size, cells)

            return MetricSums(summed(values[known]), summed(None))

        result = {}
        pairs = own[:, None] * languages + np.arange(languages)
        same = pairs == (own * (languages + 1))[:, None]
        for name, values in self.by_language.items():
            if "monolingual" in self.settings:
                result[f"monolingual/{name}"] = totals(
                    values[same][:, None], own[:, None], languages
                )
            if "cross_lingual" in self.settings:
                others = np.where(same, np.nan, values)
                result[f"cross_lingual/{name}"] = totals(others, pairs, languages**2)
        if "multilingual" in self.settings:
            for name, values in self.in_pool.items():
                result[f"multilingual/{name}"] = totals(values[:, None], own[:, None], languages)
        return result


@dataclass(frozen=True, eq=False)
class MetricSums:
    """A measure summed over the queries of each question, apart for each cell of its setting.

    A cell is a query language, or a pair of query and passage language; a setting's figure is the
    mean over cells of the mean over queries.
    """

    sums: Float[np.ndarray, "U C"]
    counts: Int[np.ndarray, "U C"]

    def means(
        self, weights: Float[np.ndarray, "B U"] | None = None
    ) -> Float[np.ndarray, "C"] | Float[np.ndarray, "B C"]:
        """Mean over queries in each cell, each question counted `weights` times; NaN of nothing."""
        if weights is None:
            sums, counts = self.sums.sum(axis=0), self.counts.sum(axis=0)
        else:
            sums, counts = weights @ self.sums, weights @ self.counts
        return np.where(counts > 0, sums / np.maximum(counts, 1e-300), np.nan)

    def figure(
        self, weights: Float[np.ndarray, "B U"] | None = None
    ) -> Float[np.ndarray, ""] | Float[np.ndarray, "B"]:
        """The setting's figure; NaN of nothing."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
            return np.asarray(np.nanmean(self.means(weights), axis=-1))


@dataclass(frozen=True, eq=False)
class SettingsReport:
    """Every measure in the three settings; NaN where no query has a right answer."""

    name: str
    languages: tuple[str, ...]
    queries: int
    passages: int
    monolingual: dict[str, float]
    cross_lingual: dict[str, float]
    multilingual: dict[str, float]  # with the measures of language bias
    matrix: dict[str, Float[np.ndarray, "N N"]]  # query language x passage language
    pool: dict[str, Float[np.ndarray, "N"]]  # by query language, in the multilingual pool
    values: PerQueryMetrics = field(repr=False)

    def summary(self) -> dict[str, float]:
        """The settings' means by "setting/measure", as a log has them."""
        return {
            f"{setting}/{measure}": value
            for setting in ("monolingual", "cross_lingual", "multilingual")
            for measure, value in getattr(self, setting).items()
        }

    def to_dict(self) -> dict:
        """The report as JSON has it: lists for arrays, null for NaN; not the values of queries."""
        return {name: plain(value) for name, value in vars(self).items() if name != "values"}


def evaluate_settings(
    above: Int[np.ndarray, "Q R N"],
    dataset: RetrievalDataset,
    more: Mapping[str, Float[np.ndarray, "Q"]] | None = None,
) -> SettingsReport:
    """Measure the three settings from the counts of `jaxir.evaluation.ranks.count_ranked_above`.

    `more` are further measures of each query in the pool.
    """
    within_language = ranks_within_language(above, dataset)
    return report(within_language, ranks_in_pool(above), dataset, more=more)


def report(
    within_language: Int[np.ndarray, "Q R"],
    in_pool: Int[np.ndarray, "Q R"],
    dataset: RetrievalDataset,
    *,
    whole: bool = True,
    measures: Mapping[str, Measure] = MEASURES,
    more: Mapping[str, Float[np.ndarray, "Q"]] | None = None,
) -> SettingsReport:
    """Measure the three settings from the ranks of `dataset.relevant`.

    Args:
        within_language: ranks, from 1, among the passages of the right answer's language.
        in_pool: ranks, from 1, among the passages of all languages.
        dataset: the task.
        whole: everything was ranked; else 0 stands for an answer below the last rank, and the
            measures of language bias, which need the rank of every answer, are left out.
        measures: of a query, by name.
        more: further measures of each query in the pool.
    """
    languages = len(dataset.languages)
    language = dataset.passage_language[dataset.relevant]
    by_language = {
        name: np.stack(
            [
                measure(within_language, np.where(language == column, dataset.gains, 0))
                for column in range(languages)
            ],
            axis=1,
        )
        for name, measure in measures.items()
    }
    gains = dataset.gains
    pooled = {name: measure(in_pool, gains) for name, measure in measures.items()}
    if whole:
        pooled["rank_distance"] = rank_distance(in_pool, gains)
        pooled["peer"] = equal_expected_rank(in_pool, language, gains, dataset.question)
    values = PerQueryMetrics(
        dataset.languages,
        dataset.settings,
        dataset.query_language,
        dataset.question,
        by_language,
        pooled | dict(more or {}),
    )
    counts = len(dataset.queries), len(dataset.passages)
    return summarize(values, dataset.name, *counts)


def summarize(values: PerQueryMetrics, name: str, queries: int, passages: int) -> SettingsReport:
    """The means that a report shows, from the measures of every query."""
    languages = len(values.languages)
    settings: dict[str, dict[str, float]] = {
        "monolingual": {},
        "cross_lingual": {},
        "multilingual": {},
    }
    matrix = {name: np.full((languages, languages), np.nan) for name in values.by_language}
    pool = {}
    for key, totals in values.totals().items():
        setting, measure = key.split("/", 1)
        settings[setting][measure] = float(totals.figure())
        means = totals.means()
        if setting == "multilingual":
            pool[measure] = means
        elif setting == "monolingual":
            np.fill_diagonal(matrix[measure], means)
        else:
            means = means.reshape(languages, languages)
            matrix[measure] = np.where(np.isnan(means), matrix[measure], means)
    return SettingsReport(
        name=name,
        languages=values.languages,
        queries=queries,
        passages=passages,
        **settings,
        matrix=matrix,
        pool=pool,
        values=values,
    )


def plain(value: object) -> object:
    """A value as JSON has it: lists for arrays and tuples, null for NaN."""
    match value:
        case dict():
            return {name: plain(item) for name, item in value.items()}
        case np.ndarray():
            return plain(value.tolist())
        case list() | tuple():
            return [plain(item) for item in value]
        case float() if math.isnan(value):
            return None
    return value
