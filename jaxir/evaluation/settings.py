"""Metrics in the three settings of multilingual retrieval, from the ranks of relevant passages.

Dimension key: Q queries, R relevant passages of a query at most, N languages, U questions, C cells,
B draws.

    monolingual    queries of X against the passages of X; mean over languages
    cross_lingual  queries of X against the passages of Y; mean over ordered pairs, Y != X
    multilingual   queries of X against the passages of all languages; mean over X

(LAReQA, arXiv 2004.05484, section 3; arXiv 2408.10536, section 4.) A query without a relevant
passage among those that are ranked does not count there.
"""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from jaxir.evaluation.bias import equal_expected_rank, rank_distance
from jaxir.evaluation.dataset import SETTINGS, RetrievalDataset
from jaxir.evaluation.metrics import METRICS, MetricFunction
from jaxir.evaluation.ranks import ranks_in_pool, ranks_within_language


@dataclass(frozen=True, eq=False)
class PerQueryMetrics:
    """Every metric of every query, NaN where the query does not count."""

    languages: tuple[str, ...]
    settings: tuple[str, ...]
    query_language: Int[np.ndarray, "Q"]
    question: Int[np.ndarray, "Q"]
    by_language: dict[str, Float[np.ndarray, "Q N"]]  # against the passages of each language
    in_pool: dict[str, Float[np.ndarray, "Q"]]  # against those of all languages

    def metric_sums(self) -> dict[str, "MetricSums"]:
        """Sums over the queries of each question, by "setting/metric", in `self.settings`."""
        unit = np.unique(self.question, return_inverse=True)[1]
        size, languages = int(unit.max()) + 1, len(self.languages)
        asked_in = self.query_language

        def sum_cells(values: np.ndarray, cell: np.ndarray, cells: int) -> MetricSums:
            known = ~np.isnan(values)
            index = (unit[:, None] * cells + cell)[known]

            def sum_up(weights: np.ndarray | None) -> np.ndarray:
                return np.bincount(index, weights, minlength=size * cells).reshape(size, cells)

            return MetricSums(sum_up(values[known]), sum_up(None))

        result = {}
        # a pair of languages is one number, query language * N + passage language
        pairs = asked_in[:, None] * languages + np.arange(languages)
        same = pairs == (asked_in * (languages + 1))[:, None]
        for name, values in self.by_language.items():
            if "monolingual" in self.settings:
                result[f"monolingual/{name}"] = sum_cells(
                    values[same][:, None], asked_in[:, None], languages
                )
            if "cross_lingual" in self.settings:
                others = np.where(same, np.nan, values)
                result[f"cross_lingual/{name}"] = sum_cells(others, pairs, languages**2)
        if "multilingual" in self.settings:
            for name, values in self.in_pool.items():
                key = f"multilingual/{name}"
                result[key] = sum_cells(values[:, None], asked_in[:, None], languages)
        return result


@dataclass(frozen=True, eq=False)
class MetricSums:
    """A metric summed over the queries of each question, in each cell of its setting.

    A cell is a query language, or a pair of query and passage language; the value of a setting is
    the mean over cells of the mean over queries.
    """

    sums: Float[np.ndarray, "U C"]
    counts: Int[np.ndarray, "U C"]

    def means(
        self, weights: Float[np.ndarray, "B U"] | None = None
    ) -> Float[np.ndarray, "C"] | Float[np.ndarray, "B C"]:
        """Mean over queries by cell, questions weighted by `weights`; NaN in an empty cell."""
        if weights is None:
            sums, counts = self.sums.sum(axis=0), self.counts.sum(axis=0)
        else:
            sums, counts = weights @ self.sums, weights @ self.counts
        return np.where(counts > 0, sums / np.maximum(counts, 1e-300), np.nan)

    def mean(
        self, weights: Float[np.ndarray, "B U"] | None = None
    ) -> Float[np.ndarray, ""] | Float[np.ndarray, "B"]:
        """Mean over cells, the value of the setting; NaN where all cells are empty."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
            return np.asarray(np.nanmean(self.means(weights), axis=-1))


@dataclass(frozen=True, eq=False)
class SettingsReport:
    """Every metric in the three settings; NaN where no query has a relevant passage."""

    name: str
    languages: tuple[str, ...]
    queries: int
    passages: int
    monolingual: dict[str, float]
    cross_lingual: dict[str, float]
    multilingual: dict[str, float]  # with the metrics of language bias
    matrix: dict[str, Float[np.ndarray, "N N"]]  # query language x passage language
    pool: dict[str, Float[np.ndarray, "N"]]  # by query language, in the multilingual pool
    values: PerQueryMetrics = field(repr=False)

    def summary(self) -> dict[str, float]:
        """Values by "setting/metric", for a log."""
        return {
            f"{setting}/{metric}": value
            for setting in SETTINGS
            for metric, value in getattr(self, setting).items()
        }

    def to_dict(self) -> dict:
        """The report as JSON values, without those of single queries."""
        return {name: json_value(value) for name, value in vars(self).items() if name != "values"}


def evaluate_settings(
    above: Int[np.ndarray, "Q R N"],
    dataset: RetrievalDataset,
    more: Mapping[str, Float[np.ndarray, "Q"]] | None = None,
) -> SettingsReport:
    """Evaluate the three settings from the counts of `ranks.count_ranked_above`.

    `more` are further metrics of each query in the pool.
    """
    within_language = ranks_within_language(above, dataset)
    return evaluate_ranks(within_language, ranks_in_pool(above), dataset, more=more)


def evaluate_ranks(
    within_language: Int[np.ndarray, "Q R"],
    in_pool: Int[np.ndarray, "Q R"],
    dataset: RetrievalDataset,
    *,
    whole: bool = True,
    metrics: Mapping[str, MetricFunction] = METRICS,
    more: Mapping[str, Float[np.ndarray, "Q"]] | None = None,
) -> SettingsReport:
    """Evaluate the three settings from the ranks of `dataset.relevant`.

    Args:
        within_language: ranks, from 1, among the passages of the relevant passage's language.
        in_pool: ranks, from 1, among the passages of all languages.
        dataset: queries, passages and judgements.
        whole: all passages were ranked; otherwise rank 0 means below the last one, and the metrics
            of language bias, which need all ranks, are left out.
        metrics: of a query, by name.
        more: further metrics of each query in the pool.
    """
    languages = len(dataset.languages)
    language = dataset.passage_language[dataset.relevant]
    by_language = {
        name: np.stack(
            [
                # relevant passages of other languages are as padding
                metric(within_language, np.where(language == column, dataset.gains, 0))
                for column in range(languages)
            ],
            axis=1,
        )
        for name, metric in metrics.items()
    }
    gains = dataset.gains
    pooled = {name: metric(in_pool, gains) for name, metric in metrics.items()}
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
    """A report with the means of the metrics of every query."""
    languages = len(values.languages)
    settings: dict[str, dict[str, float]] = {setting: {} for setting in SETTINGS}
    matrix = {metric: np.full((languages, languages), np.nan) for metric in values.by_language}
    pool = {}
    for key, sums in values.metric_sums().items():
        setting, metric = key.split("/", 1)
        settings[setting][metric] = float(sums.mean())
        means = sums.means()
        if setting == "multilingual":
            pool[metric] = means
        elif setting == "monolingual":
            np.fill_diagonal(matrix[metric], means)
        else:
            # the cells of cross-lingual retrieval leave the diagonal to monolingual retrieval
            means = means.reshape(languages, languages)
            matrix[metric] = np.where(np.isnan(means), matrix[metric], means)
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


def json_value(value: object) -> object:
    """A value as JSON expresses it: lists for arrays and tuples, null for NaN."""
    match value:
        case dict():
            return {name: json_value(item) for name, item in value.items()}
        case np.ndarray():
            return json_value(value.tolist())
        case list() | tuple():
            return [json_value(item) for item in value]
        case float() if math.isnan(value):
            return None
    return value
