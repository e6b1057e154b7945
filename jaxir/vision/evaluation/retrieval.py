"""Image-text retrieval: evaluation of both directions, with and without re-scoring by ITM.

Dimension key: I images, T captions, E projected width, N languages, Q queries, C candidates of a
direction, R and S relevant candidates of a query at most, K candidates that are re-scored, M pairs.

    image to text  the captions of one language as the pool ("monolingual"), and those of all
                   languages ("multilingual"), where the rank distance measures language bias
    text to image  the captions of one language as queries, all images as the pool ("multilingual")

A candidate is relevant if it is of the query's group: both depict the same. R@k is the share of
queries with a relevant candidate in the top k, as image-text retrieval counts it (ALBEF, arXiv
2107.07651, section 5; it is `success` in text retrieval). Equal scores go by descending index.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxir.errors import UserError
from jaxir.evaluation.bias import rank_distance
from jaxir.evaluation.dataset import RetrievalDataset, select_queries
from jaxir.evaluation.metrics import MetricFunction, reciprocal_rank, success
from jaxir.evaluation.ranks import (
    count_ranked_above,
    count_ranked_above_by_scores,
    ranks_in_pool,
    ranks_within_language,
    tie_order_of,
)
from jaxir.evaluation.settings import PerQueryMetrics, SettingsReport, evaluate_ranks, json_value
from jaxir.retrieval.topk import search
from jaxir.retrieval.vectors import make_vectors
from jaxir.vision.evaluation.pool import Pool

METRICS: dict[str, MetricFunction] = {
    "R@1": partial(success, k=1),
    "R@5": partial(success, k=5),
    "R@10": partial(success, k=10),
    "mrr": reciprocal_rank,
}
# scores of pairs of an image and a caption, given by index; higher is a better match
MatchScores = Callable[[Int[np.ndarray, "M"], Int[np.ndarray, "M"]], Float[np.ndarray, "M"]]


@dataclass(frozen=True, eq=False)
class ImageTextReport:
    """Metrics of both directions, the sizes of the pools, and the chance level."""

    images: int
    captions: dict[str, int]  # by language
    image_to_text: SettingsReport
    text_to_image: SettingsReport
    # R@1 of a random ranking: "image_to_text/en", "image_to_text" in the pool, "text_to_image/en"
    chance: dict[str, float]

    @property
    def values(self) -> dict[str, PerQueryMetrics]:
        """Metrics of every query, by direction, for paired tests."""
        return {
            "image_to_text": self.image_to_text.values,
            "text_to_image": self.text_to_image.values,
        }

    def by_language(self, metric: str = "R@1") -> dict[str, tuple[float, float]]:
        """A metric within each language: image to text, text to image."""
        image_to_text = np.diagonal(self.image_to_text.matrix[metric]).tolist()
        text_to_image = self.text_to_image.pool[metric].tolist()
        return dict(zip(self.image_to_text.languages, zip(image_to_text, text_to_image)))

    def summary(self) -> dict[str, float]:
        """Means by "direction/setting/metric", for a log."""
        return {
            f"{name}/{key}": value
            for name in ("image_to_text", "text_to_image")
            for key, value in getattr(self, name).summary().items()
        }

    def to_dict(self) -> dict:
        """The report for JSON, null for NaN, without the metrics of single queries."""
        reports = {name: getattr(self, name).to_dict() for name in self.values}
        return (
            {"images": self.images, "captions": self.captions}
            | reports
            | {"chance": json_value(self.chance)}
        )


def evaluate_retrieval(
    image_vectors: Float[np.ndarray, "I E"],
    caption_vectors: Float[np.ndarray, "T E"],
    pool: Pool,
    match_scores: MatchScores | None = None,
    candidates: int = 16,
) -> ImageTextReport:
    """Rank both directions by the dot product of vectors, and evaluate them.

    Args:
        image_vectors: unit vectors, one for each image of the pool.
        caption_vectors: unit vectors, one for each caption of the pool.
        pool: groups and languages of the images and captions.
        match_scores: of ITM, to reorder the top of every ranking by; None: not reordered.
        candidates: of each ranking's top that is reordered.

    Raises:
        UserError: vectors that are not finite or do not fit the pool.
    """
    to_text, to_image = pool.image_to_text(), pool.text_to_image()
    # `to_text` has every image once for each language, with the same vector: ranked once
    to_text = select_queries(to_text, np.arange(len(pool.image_group)))
    above = count_ranked_above(image_vectors, caption_vectors, to_text)
    within, pooled = ranks_within_language(above, to_text), ranks_in_pool(above)
    image_ranks = ranks_in_pool(count_ranked_above(caption_vectors, image_vectors, to_image))
    if match_scores is not None:
        rerank_captions = partial(
            _search_and_rerank, image_vectors, caption_vectors, match_scores, candidates, to_text
        )
        # each language is a pool of its own, with a top of its own that is reordered
        for language in range(len(pool.languages)):
            within = rerank_captions(within, pool.caption_language == language)
        pooled = rerank_captions(pooled, np.ones(len(pool.caption_group), bool))
        image_ranks = _search_and_rerank(
            caption_vectors,
            image_vectors,
            lambda captions, images: match_scores(images, captions),
            candidates,
            to_image,
            image_ranks,
            np.ones(len(pool.image_group), bool),
        )
    return _make_report(pool, within, pooled, image_ranks)


def evaluate_scores(scores: Float[np.ndarray, "I T"], pool: Pool) -> ImageTextReport:
    """Evaluate both directions from finite scores of every image with every caption."""
    to_text = select_queries(pool.image_to_text(), np.arange(len(pool.image_group)))
    above = count_ranked_above_by_scores(lambda block: scores[block], to_text)
    images_above = count_ranked_above_by_scores(lambda block: scores.T[block], pool.text_to_image())
    within = ranks_within_language(above, to_text)
    return _make_report(pool, within, ranks_in_pool(above), ranks_in_pool(images_above))


def _make_report(
    pool: Pool,
    within: Int[np.ndarray, "I R"],
    pooled: Int[np.ndarray, "I R"],
    image_ranks: Int[np.ndarray, "T S"],
) -> ImageTextReport:
    """Compute the metrics from the ranks of relevant captions and images.

    Args:
        pool: groups and languages of the images and captions.
        within: ranks of the relevant captions among the captions of their language.
        pooled: ranks of the relevant captions in the multilingual pool.
        image_ranks: ranks of the relevant images.
    """
    # the rows of `within` and `pooled` serve as the queries of each language in turn
    languages = len(pool.languages)
    to_text, to_image = pool.image_to_text(), pool.text_to_image()
    distance = rank_distance(pooled, to_text.gains[: len(pooled)])
    return ImageTextReport(
        images=len(pool.image_group),
        captions=pool.counts(),
        image_to_text=evaluate_ranks(
            np.tile(within, (languages, 1)),
            np.tile(pooled, (languages, 1)),
            to_text,
            whole=False,
            metrics=METRICS,
            more={"rank_distance": np.tile(distance, languages)},
        ),
        text_to_image=evaluate_ranks(
            image_ranks, image_ranks, to_image, whole=False, metrics=METRICS
        ),
        chance=pool.chance(),
    )


def rerank(
    ranks: Int[np.ndarray, "Q R"],
    relevant: Int[np.ndarray, "Q R"],
    top: Int[np.ndarray, "Q K"],
    match: Float[np.ndarray, "Q K"],
) -> Int[np.ndarray, "Q R"]:
    """Ranks of the relevant candidates once the top K are reordered by their match score.

    Args:
        ranks: of the relevant candidates before.
        relevant: indices of the relevant candidates, -1 where there is none.
        top: indices of the top K, best first.
        match: their scores; equal ones keep their order.
    """
    order = np.argsort(-match, axis=1, kind="stable")
    # The inverse permutation: the new rank, from 0, of the k-th candidate. A relevant candidate in
    # the top K equals just one of them, whose rank the sum picks; the others keep their rank.
    position = np.argsort(order, axis=1, kind="stable")
    hit = (relevant[:, :, None] == top[:, None, :]) & (relevant >= 0)[:, :, None]
    return np.where(hit.any(axis=2), (hit * (position[:, None, :] + 1)).sum(axis=2), ranks)


def _search_and_rerank(
    query_vectors: Float[np.ndarray, "Q E"],
    candidate_vectors: Float[np.ndarray, "C E"],
    match: MatchScores,
    k: int,
    dataset: RetrievalDataset,
    ranks: Int[np.ndarray, "Q R"],
    included: Bool[np.ndarray, "C"],
) -> Int[np.ndarray, "Q R"]:
    """Ranks after `rerank` of the top k of the included candidates."""
    subset = np.flatnonzero(included)
    if not len(subset):
        return ranks
    tie_order = tie_order_of(dataset.passage_ids)[subset]
    vectors = make_vectors(np.asarray(candidate_vectors, np.float32)[subset])
    top = subset[search(query_vectors, vectors, k, tie_order=tie_order).indices]
    queries = np.repeat(np.arange(len(top)), top.shape[1])
    scores = np.asarray(match(queries, top.reshape(-1)), np.float64).reshape(top.shape)
    if not np.isfinite(scores).all():
        raise UserError(
            f"{dataset.name}: an ITM match score is not finite; check the model's weights"
        )
    return rerank(ranks, dataset.relevant, top, scores)
