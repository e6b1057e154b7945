"""The three settings of multilingual retrieval, from the ranks of the right answers.

Dimension key: Q queries, R right answers of a query at most, N languages.

    monolingual    queries of X against the passages of X; mean over languages
    cross-lingual  queries of X against the passages of Y; mean over ordered pairs, Y != X
    multilingual   queries of X against the passages of all languages; mean over X

(LAReQA, arXiv 2004.05484, section 3; arXiv 2408.10536, section 4.) A query with no right answer
among the passages it is held against does not count there.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from jaxir.retrieval.bias import rank_distance
from jaxir.retrieval.metrics import MEASURES
from jaxir.retrieval.ranks import ranks_in_pool, ranks_within_language
from jaxir.retrieval.retrieval_set import RetrievalSet


@dataclass(frozen=True, eq=False)
class SettingsReport:
    """Every measure in the three settings; NaN where no query has a right answer."""

    name: str
    languages: tuple[str, ...]
    queries: int
    passages: int
    monolingual: dict[str, float]
    cross_lingual: dict[str, float]
    multilingual: dict[str, float]  # with rank_distance
    matrix: dict[str, Float[np.ndarray, "N N"]]  # query language x passage language
    pool: dict[str, Float[np.ndarray, "N"]]  # by query language, in the multilingual pool

    def summary(self) -> dict[str, float]:
        """The settings' means by "setting/measure", as a log has them."""
        return {
            f"{setting}/{measure}": value
            for setting in ("monolingual", "cross_lingual", "multilingual")
            for measure, value in getattr(self, setting).items()
        }

    def to_dict(self) -> dict:
        """The report as JSON has it: lists for arrays, null for NaN."""
        return {name: _plain(value) for name, value in vars(self).items()}


def evaluate_settings(
    above: Int[np.ndarray, "Q R N"], retrieval_set: RetrievalSet
) -> SettingsReport:
    """Measure the three settings from the counts of `jaxir.retrieval.ranks.passages_above`."""
    return report(ranks_within_language(above, retrieval_set), ranks_in_pool(above), retrieval_set)


def report(
    within_language: Int[np.ndarray, "Q R"],
    in_pool: Int[np.ndarray, "Q R"],
    retrieval_set: RetrievalSet,
) -> SettingsReport:
    """Measure the three settings from the ranks of `retrieval_set.relevant`.

    Args:
        within_language: ranks, from 1, among the passages of the right answer's language.
        in_pool: ranks, from 1, among the passages of all languages.
        retrieval_set: the task.
    """
    languages = len(retrieval_set.languages)
    matrix = {name: np.full((languages, languages), np.nan) for name in MEASURES}
    language = retrieval_set.passage_language[retrieval_set.relevant]
    for column in range(languages):
        ranks = np.where(language == column, within_language, 0)
        for name, measure in MEASURES.items():
            matrix[name][:, column] = _by_language(measure(ranks), retrieval_set)
    pool = {
        name: _by_language(measure(in_pool), retrieval_set)
        for name, measure in {**MEASURES, "rank_distance": rank_distance}.items()
    }
    same = np.eye(languages, dtype=bool)
    return SettingsReport(
        name=retrieval_set.name,
        languages=retrieval_set.languages,
        queries=len(retrieval_set.queries),
        passages=len(retrieval_set.passages),
        monolingual={name: _mean(values[same]) for name, values in matrix.items()},
        cross_lingual={name: _mean(values[~same]) for name, values in matrix.items()},
        multilingual={name: _mean(values) for name, values in pool.items()},
        matrix=matrix,
        pool=pool,
    )


def _by_language(
    values: Float[np.ndarray, "Q"], retrieval_set: RetrievalSet
) -> Float[np.ndarray, "N"]:
    return np.array(
        [
            _mean(values[retrieval_set.query_language == language])
            for language in range(len(retrieval_set.languages))
        ]
    )


def _mean(values: Float[np.ndarray, "_"]) -> float:
    """Mean of what is known; NaN, without NumPy's warning, of nothing."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan


def _plain(value: object) -> object:
    match value:
        case dict():
            return {name: _plain(item) for name, item in value.items()}
        case np.ndarray():
            return _plain(value.tolist())
        case list() | tuple():
            return [_plain(item) for item in value]
        case float() if math.isnan(value):
            return None
    return value
