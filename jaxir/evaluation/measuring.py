"""From embeddings to figures: rankings of the settings asked for, and every measure of them.

Dimension key: Q queries, P passages, D width, R right answers of a query at most, K places.
"""

import dataclasses
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxir.errors import UserError
from jaxir.evaluation.bias import language_shares, rank_correlation
from jaxir.evaluation.dataset import RetrievalDataset
from jaxir.evaluation.ranks import (
    check_embeddings,
    count_ranked_above,
    ranks_in_pool,
    ranks_within_language,
    tie_order_of,
)
from jaxir.evaluation.settings import PerQueryMetrics, SettingsReport, report, summarize
from jaxir.retrieval.topk import Found, make_vectors, rows_of, search

SHARE_DEPTHS = (10, 100)  # language shares of that many first places
DEPTH = 100  # recall@100 and the correlation of rankings look no further


@dataclass(frozen=True)
class Ranking:
    """How a collection is ranked."""

    depth: int = 0  # 0: whole, for exact ranks of all right answers; else the first places alone
    run_depth: int = 100  # places kept of each query, for run files and the bias of the first ones
    dtype: str = "float32"  # of the passages
    approximate_recall: float | None = None  # None: exact

    def check(self) -> None:
        """Raise a `UserError` where the parts do not fit together."""
        if 0 < self.depth < DEPTH:
            raise UserError(f"--depth {self.depth}: must be 0 or at least {DEPTH}, for recall@100")
        if self.depth and self.run_depth > self.depth:
            raise UserError(f"--run_depth {self.run_depth}: must be at most --depth {self.depth}")
        if self.approximate_recall is not None:
            if not 0 < self.approximate_recall <= 1:
                raise UserError(f"--approximate_recall {self.approximate_recall}: from 0 to 1")
            if not self.depth:
                raise UserError("--approximate_recall finds first places only: set --depth too")


@dataclass(frozen=True, eq=False)
class Run:
    """First places of some queries, as a run file has them."""

    setting: str
    language: int  # of the passages that were ranked; -1: all of them
    queries: Int[np.ndarray, "Q"]
    found: Found  # places are rows of the whole collection

    def of(self, setting: str, chosen: Bool[np.ndarray, "Q"]) -> "Run":
        """Some of the queries."""
        found = Found(self.found.scores[chosen], self.found.places[chosen])
        return Run(setting, self.language, self.queries[chosen], found)


@dataclass(frozen=True, eq=False)
class Measured:
    """Figures and rankings of one task."""

    report: SettingsReport
    runs: list[Run]
    shares: dict[int, Float[np.ndarray, "N N"]] = field(default_factory=dict)  # by depth


def measure(
    queries: Float[np.ndarray, "Q D"],
    passages: Float[np.ndarray, "P D"],
    dataset: RetrievalDataset,
    ranking: Ranking,
) -> Measured:
    """Rank and measure the settings that the task is meant for.

    Raises:
        UserError: embeddings that are not finite or do not fit together.
    """
    check_embeddings(queries, passages, dataset)
    index = make_vectors(passages, ranking.dtype)
    tie_order = tie_order_of(dataset.passage_ids)

    def best(rows: np.ndarray, among: np.ndarray, k: int) -> Found:
        part = index if len(among) == len(index) else rows_of(index, among)
        found = search(
            queries[rows],
            part,
            k,
            tie_order=tie_order[among],
            approximate_recall=ranking.approximate_recall,
        )
        return Found(found.scores, among[found.places])

    every = np.arange(len(queries))
    depth = ranking.depth or max(ranking.run_depth, DEPTH)
    runs = []
    for language in range(len(dataset.languages)):
        own = dataset.query_language == language
        among = np.flatnonzero(dataset.passage_language == language)
        across = ranking.depth > 0 and "cross_lingual" in dataset.settings
        asking = every if across else np.flatnonzero(own)
        if len(among) and len(asking):
            run = Run("cross_lingual", language, asking, best(asking, among, depth))
            runs.append(run.of("monolingual", own[asking]))
            if across:
                runs.append(run.of("cross_lingual", ~own))
    more: dict[str, np.ndarray] = {}
    shares = {}
    if "multilingual" in dataset.settings:
        found = best(every, np.arange(len(index)), depth)
        runs.append(Run("multilingual", -1, every, found))
        more |= _alike(found, dataset)
        for k in SHARE_DEPTHS:
            shares[k] = language_shares(
                found.places[:, :k],
                dataset.query_language,
                dataset.passage_language,
                len(dataset.languages),
            )
    if ranking.depth:
        within, pooled = _ranks_found(runs, dataset)
    else:
        above = count_ranked_above(queries, index.as_float32(), dataset)
        within, pooled = ranks_within_language(above, dataset), ranks_in_pool(above)
    figures = report(within, pooled, dataset, whole=not ranking.depth, more=more)
    return Measured(figures, [_cut(run, ranking.run_depth) for run in runs], shares)


def first_places_alike(
    queries: Float[np.ndarray, "Q D"],
    passages: Float[np.ndarray, "P D"],
    dataset: RetrievalDataset,
) -> dict[str, Float[np.ndarray, "Q"]]:
    """The measures in the pool that look at first places; of a task without a pool none."""
    if "multilingual" not in dataset.settings:
        return {}
    tie_order = tie_order_of(dataset.passage_ids)
    found = search(queries, make_vectors(passages), DEPTH, tie_order=tie_order)
    return _alike(found, dataset)


def _alike(found: Found, dataset: RetrievalDataset) -> dict[str, Float[np.ndarray, "Q"]]:
    """MRC, from the pool's first places."""
    first, passages = found.places[:, :DEPTH], len(dataset.passages)
    return {f"mrc@{DEPTH}": rank_correlation(first, dataset.question, passages)}


def _cut(run: Run, depth: int) -> Run:
    found = Found(run.found.scores[:, :depth], run.found.places[:, :depth])
    return dataclasses.replace(run, found=found)


def _ranks_found(
    runs: list[Run], dataset: RetrievalDataset
) -> tuple[Int[np.ndarray, "Q R"], Int[np.ndarray, "Q R"]]:
    """Ranks, within the answer's language and in the pool, of what was found; 0 of the others."""
    within, pooled = np.zeros((2, *dataset.relevant.shape), np.int64)
    for run in runs:
        target = pooled if run.setting == "multilingual" else within
        for column in range(target.shape[1]):
            answer = dataset.relevant[run.queries, column]
            hit = (run.found.places == answer[:, None]) & (answer >= 0)[:, None]
            rank = np.where(hit.any(axis=1), hit.argmax(axis=1) + 1, 0)
            target[run.queries, column] = np.maximum(target[run.queries, column], rank)
    return within, pooled


def join(reports: list[SettingsReport], name: str) -> SettingsReport:
    """One report of tasks that were measured apart, each with languages of its own."""
    if len(reports) == 1:
        return reports[0]
    languages = tuple(language for one in reports for language in one.languages)
    parts, first_language, first_question = [], 0, 0
    for one in reports:
        count = len(one.languages)
        wide = {
            measure: np.pad(
                values,
                ((0, 0), (first_language, len(languages) - first_language - count)),
                constant_values=np.nan,
            )
            for measure, values in one.values.by_language.items()
        }
        parts.append(
            (
                one.values.query_language + first_language,
                np.unique(one.values.question, return_inverse=True)[1] + first_question,
                wide,
                one.values.in_pool,
            )
        )
        first_language += count
        first_question += len(one.values.question)
    query_language, question, by_language, in_pool = zip(*parts)

    def stacked(values: tuple[dict[str, np.ndarray], ...]) -> dict[str, np.ndarray]:
        shared = [key for key in values[0] if all(key in one for one in values)]
        return {key: np.concatenate([one[key] for one in values]) for key in shared}

    values = PerQueryMetrics(
        languages,
        reports[0].values.settings,
        np.concatenate(query_language),
        np.concatenate(question),
        stacked(by_language),
        stacked(in_pool),
    )
    return summarize(
        values, name, sum(one.queries for one in reports), sum(one.passages for one in reports)
    )
