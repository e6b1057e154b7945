"""Image-text retrieval: whether features find the captions of an image and the other way round.

Dimension key: I images, T captions, E projected width, N languages, Q queries, R and S right
answers of a query at most, K candidates, M pairs.

    image to text  the captions of one language as the pool ("monolingual"), and those of all
                   languages ("multilingual"), where the rank distance tells of language bias
    text to image  the captions of one language as queries, all images as the pool ("multilingual")

An answer is right if it is of the same group as the query: of the same thing depicted. R@k is the
share of queries with a right answer among the first k, as image-text retrieval counts it (ALBEF,
arXiv 2107.07651, section 5; it is `success` in text retrieval). Equal scores go by descending row.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxir.errors import UserError
from jaxir.evaluation.bias import rank_distance
from jaxir.evaluation.dataset import RetrievalDataset, select_queries
from jaxir.evaluation.metrics import Measure, reciprocal_rank, success
from jaxir.evaluation.ranks import (
    count_ranked_above,
    passages_above_by_scores,
    ranks_in_pool,
    ranks_within_language,
    tie_order_of,
)
from jaxir.evaluation.settings import PerQueryMetrics, SettingsReport, plain, report
from jaxir.retrieval.topk import make_vectors, search
from jaxir.vision.evaluation.pool import Pool

MEASURES: dict[str, Measure] = {
    "R@1": partial(success, k=1),
    "R@5": partial(success, k=5),
    "R@10": partial(success, k=10),
    "mrr": reciprocal_rank,
}
# scores of pairs of an image row and a caption row, higher is a better match
MatchScores = Callable[[Int[np.ndarray, "M"], Int[np.ndarray, "M"]], Float[np.ndarray, "M"]]


@dataclass(frozen=True, eq=False)
class ImageTextReport:
    """Figures of both directions, the sizes of the pools, and what chance would reach."""

    images: int
    captions: dict[str, int]  # by language
    image_to_text: SettingsReport
    text_to_image: SettingsReport
    # R@1 of a random order: "image_to_text/en", "image_to_text" in the pool, "text_to_image/en"
    chance: dict[str, float]

    @property
    def values(self) -> dict[str, PerQueryMetrics]:
        """Every measure of every query, by direction, for paired tests."""
        return {
            "image_to_text": self.image_to_text.values,
            "text_to_image": self.text_to_image.values,
        }

    def by_language(self, measure: str = "R@1") -> dict[str, tuple[float, float]]:
        """A measure within each language: image to text, text to image."""
        there = np.diagonal(self.image_to_text.matrix[measure]).tolist()
        back = self.text_to_image.pool[measure].tolist()
        return dict(zip(self.image_to_text.languages, zip(there, back)))

    def summary(self) -> dict[str, float]:
        """Means by "direction/setting/measure", as a log has them."""
        return {
            f"{name}/{key}": value
            for name in ("image_to_text", "text_to_image")
            for key, value in getattr(self, name).summary().items()
        }

    def to_dict(self) -> dict:
        """The report as JSON has it, null for NaN; not the values of queries."""
        reports = {name: getattr(self, name).to_dict() for name in self.values}
        return (
            {"images": self.images, "captions": self.captions}
            | reports
            | {"chance": plain(self.chance)}
        )


def measure_retrieval(
    image_vectors: Float[np.ndarray, "I E"],
    caption_vectors: Float[np.ndarray, "T E"],
    pool: Pool,
    match_scores: MatchScores | None = None,
    candidates: int = 16,
) -> ImageTextReport:
    """Rank both directions by the dot product of features, and measure them.

    Args:
        image_vectors: unit vectors, one an image of the pool.
        caption_vectors: unit vectors, one a caption of the pool.
        pool: what the rows are.
        match_scores: ITM: given, it orders the first candidates of every ranking anew.
        candidates: how many those are, in each pool that is ranked.

    Raises:
        UserError: features that are not finite or do not fit the pool.
    """
    to_text, to_image = pool.image_to_text(), pool.text_to_image()
    # an image ranks all captions once, whatever the language that it stands for
    once = select_queries(to_text, np.arange(len(pool.image_group)))
    above = count_ranked_above(image_vectors, caption_vectors, once)
    within, pooled = ranks_within_language(above, once), ranks_in_pool(above)
    back = ranks_in_pool(count_ranked_above(caption_vectors, image_vectors, to_image))
    if match_scores is not None:
        again = partial(_matched, image_vectors, caption_vectors, match_scores, candidates)
        for language in range(len(pool.languages)):
            within = again(within, once, pool.caption_language == language)
        pooled = again(pooled, once, np.ones(len(pool.caption_group), bool))
        back = _matched(
            caption_vectors,
            image_vectors,
            lambda captions, images: match_scores(images, captions),
            candidates,
            back,
            to_image,
            np.ones(len(pool.image_group), bool),
        )
    return _report(pool, within, pooled, back)


def measure_scores(scores: Float[np.ndarray, "I T"], pool: Pool) -> ImageTextReport:
    """Measure both directions by finite scores of every image with every caption."""
    once = select_queries(pool.image_to_text(), np.arange(len(pool.image_group)))
    above = passages_above_by_scores(lambda block: scores[block], once)
    back = passages_above_by_scores(lambda block: scores.T[block], pool.text_to_image())
    return _report(
        pool, ranks_within_language(above, once), ranks_in_pool(above), ranks_in_pool(back)
    )


def _report(
    pool: Pool,
    within: Int[np.ndarray, "I R"],
    pooled: Int[np.ndarray, "I R"],
    back: Int[np.ndarray, "T S"],
) -> ImageTextReport:
    """Measures of the ranks of images, which stand for each language in turn, and of captions."""
    languages = len(pool.languages)
    to_text, to_image = pool.image_to_text(), pool.text_to_image()
    distance = rank_distance(pooled, to_text.gains[: len(pooled)])
    return ImageTextReport(
        images=len(pool.image_group),
        captions=pool.counts(),
        image_to_text=report(
            np.tile(within, (languages, 1)),
            np.tile(pooled, (languages, 1)),
            to_text,
            whole=False,
            measures=MEASURES,
            more={"rank_distance": np.tile(distance, languages)},
        ),
        text_to_image=report(back, back, to_image, whole=False, measures=MEASURES),
        chance=pool.chance(),
    )


def reranked(
    ranks: Int[np.ndarray, "Q R"],
    relevant: Int[np.ndarray, "Q R"],
    candidates: Int[np.ndarray, "Q K"],
    match: Float[np.ndarray, "Q K"],
) -> Int[np.ndarray, "Q R"]:
    """Ranks once the first K of each ranking are ordered by their match score, the rest behind.

    Args:
        ranks: of the right answers before.
        relevant: the right answers, -1 where there is none.
        candidates: the first K, best first.
        match: their scores; equal ones keep their order.
    """
    order = np.argsort(-match, axis=1, kind="stable")
    place = np.argsort(order, axis=1, kind="stable")  # the inverse
    hit = (relevant[:, :, None] == candidates[:, None, :]) & (relevant >= 0)[:, :, None]
    return np.where(hit.any(axis=2), (hit * (place[:, None, :] + 1)).sum(axis=2), ranks)


def _matched(
    query_vectors: Float[np.ndarray, "Q E"],
    answer_vectors: Float[np.ndarray, "T E"],
    match: MatchScores,
    k: int,
    ranks: Int[np.ndarray, "Q R"],
    task: RetrievalDataset,
    chosen: Bool[np.ndarray, "T"],
) -> Int[np.ndarray, "Q R"]:
    """`reranked`, among some of the answers."""
    among = np.flatnonzero(chosen)
    if not len(among):
        return ranks
    tie_order = tie_order_of(task.passage_ids)[among]
    vectors = make_vectors(np.asarray(answer_vectors, np.float32)[among])
    found = among[search(query_vectors, vectors, k, tie_order=tie_order).places]
    queries = np.repeat(np.arange(len(found)), found.shape[1])
    scores = np.asarray(match(queries, found.reshape(-1)), np.float64).reshape(found.shape)
    if not np.isfinite(scores).all():
        raise UserError(f"{task.name}: a match score is not finite; mend the model")
    return reranked(ranks, task.relevant, found, scores)
