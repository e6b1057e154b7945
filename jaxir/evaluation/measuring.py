"""Evaluation of embeddings: rankings in the settings of a dataset, and every metric of them.

Dimension key: Q queries, P passages, D width, K top-k, N languages.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from jaxir.evaluation.bias import language_shares, rank_correlation
from jaxir.evaluation.dataset import RetrievalDataset
from jaxir.evaluation.ranking import (
    DEPTH,
    Ranking,
    RankingOptions,
    rank_settings,
    ranks_in_rankings,
)
from jaxir.evaluation.ranks import (
    check_embeddings,
    count_ranked_above,
    ranks_in_pool,
    ranks_within_language,
    tie_order_of,
)
from jaxir.evaluation.settings import PerQueryMetrics, SettingsReport, evaluate_ranks, summarize
from jaxir.retrieval.topk import search
from jaxir.retrieval.vectors import make_vectors

SHARE_DEPTHS = (10, 100)  # k of the language shares in the top-k


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Metrics and rankings of a model on one dataset."""

    report: SettingsReport
    rankings: list[Ranking]
    shares: dict[int, Float[np.ndarray, "N N"]] = field(default_factory=dict)  # by k


def evaluate_embeddings(
    queries: Float[np.ndarray, "Q D"],
    passages: Float[np.ndarray, "P D"],
    dataset: RetrievalDataset,
    options: RankingOptions,
) -> Evaluation:
    """Rank and evaluate the settings of a dataset.

    Raises:
        UserError: embeddings are not finite or do not fit together.
    """
    check_embeddings(queries, passages, dataset)
    index = make_vectors(passages, options.dtype)
    rankings = rank_settings(queries, index, dataset, options)
    more: dict[str, np.ndarray] = {}
    shares = {}
    if "multilingual" in dataset.settings:
        top = rankings[-1].top.indices
        more = _top_k_metrics(top, dataset)
        languages = (dataset.query_language, dataset.passage_language, len(dataset.languages))
        shares = {k: language_shares(top[:, :k], *languages) for k in SHARE_DEPTHS}
    if options.depth:
        within, pooled = ranks_in_rankings(rankings, dataset)
    else:
        # exact ranks of all relevant passages, however deep; the top-k alone would not hold them
        above = count_ranked_above(queries, index.as_float32(), dataset)
        within, pooled = ranks_within_language(above, dataset), ranks_in_pool(above)
    report = evaluate_ranks(within, pooled, dataset, whole=not options.depth, more=more)
    return Evaluation(report, [ranking.cut(options.run_depth) for ranking in rankings], shares)


def search_top_k_metrics(
    queries: Float[np.ndarray, "Q D"],
    passages: Float[np.ndarray, "P D"],
    dataset: RetrievalDataset,
) -> dict[str, Float[np.ndarray, "Q"]]:
    """Search the pool for the metrics of its top-k; empty for a dataset without that setting."""
    if "multilingual" not in dataset.settings:
        return {}
    tie_order = tie_order_of(dataset.passage_ids)
    top = search(queries, make_vectors(passages), DEPTH, tie_order=tie_order)
    return _top_k_metrics(top.indices, dataset)


def _top_k_metrics(
    indices: Int[np.ndarray, "Q K"], dataset: RetrievalDataset
) -> dict[str, Float[np.ndarray, "Q"]]:
    """MRC, from the top-k in the pool."""
    passages = len(dataset.passages)
    return {f"mrc@{DEPTH}": rank_correlation(indices[:, :DEPTH], dataset.question, passages)}


def join_reports(reports: Sequence[SettingsReport], name: str) -> SettingsReport:
    """Join reports of datasets that were evaluated apart and have no language in common."""
    if len(reports) == 1:
        return reports[0]
    languages = tuple(language for report in reports for language in report.languages)
    query_language, question, by_language = [], [], []
    first_language, first_question = 0, 0
    for report in reports:
        count, values = len(report.languages), report.values
        # languages and questions are numbered on, report by report
        query_language.append(values.query_language + first_language)
        question.append(np.unique(values.question, return_inverse=True)[1] + first_question)
        after = len(languages) - first_language - count
        padding = ((0, 0), (first_language, after))
        by_language.append(
            {
                metric: np.pad(column, padding, constant_values=np.nan)
                for metric, column in values.by_language.items()
            }
        )
        first_language += count
        first_question += len(values.question)
    values = PerQueryMetrics(
        languages,
        reports[0].values.settings,
        np.concatenate(query_language),
        np.concatenate(question),
        _concatenate_metrics(by_language),
        _concatenate_metrics([report.values.in_pool for report in reports]),
    )
    queries, passages = (
        sum(getattr(report, side) for report in reports) for side in ("queries", "passages")
    )
    return summarize(values, name, queries, passages)


def _concatenate_metrics(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The metrics that all parts have."""
    shared = [metric for metric in parts[0] if all(metric in part for part in parts)]
    return {metric: np.concatenate([part[metric] for part in parts]) for metric in shared}
