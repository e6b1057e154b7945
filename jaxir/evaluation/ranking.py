"""Rankings of a dataset's passages by top-k search, and the ranks found in them.

Dimension key: Q queries, P passages, D width, R relevant passages of a query at most, K top-k.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxir.errors import UserError
from jaxir.evaluation.dataset import RetrievalDataset
from jaxir.evaluation.ranks import tie_order_of
from jaxir.retrieval.topk import TopK, search
from jaxir.retrieval.vectors import Vectors, select_rows

DEPTH = 100  # least depth of a ranking: recall@100 and MRC@100 look that far


@dataclass(frozen=True)
class RankingOptions:
    """Options of ranking a collection."""

    depth: int = 0  # passages kept of a ranking; 0: all, for exact ranks of relevant passages
    run_depth: int = 100  # passages kept for run files and for metrics of the top-k
    dtype: str = "float32"  # of the passages
    approximate_recall: float | None = None  # None: exact

    def check(self) -> None:
        """Refuse options that do not fit together.

        Raises:
            UserError: names the flag.
        """
        if 0 < self.depth < DEPTH:
            raise UserError(f"--depth {self.depth}: must be 0 or at least {DEPTH}, for recall@100")
        if self.depth and self.run_depth > self.depth:
            raise UserError(f"--run_depth {self.run_depth}: must be at most --depth {self.depth}")
        if self.approximate_recall is not None:
            if not 0 < self.approximate_recall <= 1:
                raise UserError(
                    f"--approximate_recall {self.approximate_recall}: must be above 0 and at most 1"
                )
            if not self.depth:
                raise UserError(
                    "--approximate_recall: ranks only the top of a list; set --depth too"
                )


@dataclass(frozen=True, eq=False)
class Ranking:
    """Top-k of some queries in one setting, as a run file has it."""

    setting: str
    language: int  # of the passages that were ranked; -1: all languages
    queries: Int[np.ndarray, "Q"]  # indices into the dataset
    top: TopK  # indices are rows of the whole collection

    def select(self, setting: str, chosen: Bool[np.ndarray, "Q"]) -> "Ranking":
        """The ranking of the chosen queries, as one of another setting."""
        top = TopK(self.top.scores[chosen], self.top.indices[chosen])
        return Ranking(setting, self.language, self.queries[chosen], top)

    def cut(self, depth: int) -> "Ranking":
        """The ranking down to `depth`."""
        top = TopK(self.top.scores[:, :depth], self.top.indices[:, :depth])
        return Ranking(self.setting, self.language, self.queries, top)


def rank_settings(
    queries: Float[np.ndarray, "Q D"],
    index: Vectors,
    dataset: RetrievalDataset,
    options: RankingOptions,
) -> list[Ranking]:
    """Rank the passages of each language, and those of all, as the dataset's settings require.

    Where the ranks of whole rankings are counted (`options.depth` is 0), cross-lingual rankings are
    left out.
    """
    tie_order = tie_order_of(dataset.passage_ids)
    depth = options.depth or max(options.run_depth, DEPTH)

    def rank(rows: np.ndarray, among: np.ndarray) -> TopK:
        part = index if len(among) == len(index) else select_rows(index, among)
        top = search(
            queries[rows],
            part,
            depth,
            tie_order=tie_order[among],
            approximate_recall=options.approximate_recall,
        )
        return TopK(top.scores, among[top.indices])

    every = np.arange(len(queries))
    cross_lingual = options.depth > 0 and "cross_lingual" in dataset.settings
    rankings = []
    for language in range(len(dataset.languages)):
        same = dataset.query_language == language
        among = np.flatnonzero(dataset.passage_language == language)
        # one search serves both settings: queries of all languages, then split by their own
        asking = every if cross_lingual else np.flatnonzero(same)
        if len(among) and len(asking):
            ranking = Ranking("cross_lingual", language, asking, rank(asking, among))
            rankings.append(ranking.select("monolingual", same[asking]))
            if cross_lingual:
                rankings.append(ranking.select("cross_lingual", ~same))
    if "multilingual" in dataset.settings:
        top = rank(every, np.arange(len(index)))
        rankings.append(Ranking("multilingual", -1, every, top))
    return rankings


def ranks_in_rankings(
    rankings: Sequence[Ranking], dataset: RetrievalDataset
) -> tuple[Int[np.ndarray, "Q R"], Int[np.ndarray, "Q R"]]:
    """Ranks of the relevant passages within their language and in the pool; 0: not retrieved."""
    within, pooled = np.zeros((2, *dataset.relevant.shape), np.int64)
    for ranking in rankings:
        target = pooled if ranking.setting == "multilingual" else within
        for column in range(target.shape[1]):
            relevant = dataset.relevant[ranking.queries, column]
            hit = (ranking.top.indices == relevant[:, None]) & (relevant >= 0)[:, None]
            rank = np.where(hit.any(axis=1), hit.argmax(axis=1) + 1, 0)
            # a passage is in the rankings of its own language alone, so the others add 0
            before = target[ranking.queries, column]
            target[ranking.queries, column] = np.maximum(before, rank)
    return within, pooled
