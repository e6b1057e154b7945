"""The judge: CLIPScore of the top-ranked captions of an evaluated model, by another model.

For each image the caption that ranks first in each language is scored against the image. A judge
that was trained apart gives the same caption the same score whatever model retrieved it, so models
compare by it; its scores of matching and of other pairs (its calibration) give them a scale.

Dimension key: I images, T captions, N languages, E width of the judge's vectors, U groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from jaxir.errors import UserError
from jaxir.evaluation.ranks import tie_order_of
from jaxir.evaluation.settings import MetricSums, json_value
from jaxir.retrieval.topk import search
from jaxir.retrieval.vectors import make_vectors
from jaxir.vision.clipscore.clipscore import WEIGHT, clip_scores
from jaxir.vision.clipscore.scorer import Scorer, load_scorer
from jaxir.vision.evaluation.dataset import ImageTextDataset, ImageTextEmbeddings
from jaxir.vision.evaluation.pool import Pool

NO_CAPTION = -1  # in place of a caption's index, where the language has none
IMAGE_BLOCK = 256  # images that are embedded, or scored with all captions, together


@dataclass(frozen=True, eq=False)
class Judgement:
    """CLIPScores of a model's top-ranked captions, and the judge's calibration."""

    languages: tuple[str, ...]
    scores: MetricSums  # cells are languages, units groups
    calibration: dict[str, dict[str, float]]  # by language: "matched", "mismatched"

    def to_dict(self) -> dict[str, Any]:
        """The judgement for JSON; null where a language has no captions."""
        by_language = dict(zip(self.languages, self.scores.means().tolist()))
        report = {"mean": float(self.scores.mean()), "by_language": by_language}
        whole = {name: json_value(value) for name, value in report.items()}
        return whole | {"calibration": json_value(self.calibration)}


@dataclass(frozen=True, eq=False)
class _JudgeVectors:
    """A dataset's images and captions embedded by the judge."""

    images: Float[np.ndarray, "I E"]
    captions: Float[np.ndarray, "T E"]
    calibration: dict[str, dict[str, float]]


@dataclass(frozen=True, eq=False)
class Judge:
    """A scorer that judges models; it embeds each dataset once."""

    scorer: Scorer
    known: dict[str, _JudgeVectors] = field(default_factory=dict)  # by the dataset's name

    def score(
        self, name: str, dataset: ImageTextDataset, embeddings: ImageTextEmbeddings
    ) -> Judgement:
        """Score the captions that a model ranks first.

        Args:
            name: of the dataset.
            dataset: images and captions.
            embeddings: of the dataset, by the model that is judged.

        Raises:
            UserError: an image cannot be decoded.
        """
        if name not in self.known:
            self.known[name] = self._embed(dataset)
        vectors, pool = self.known[name], dataset.pool
        top = top_captions(embeddings.images, embeddings.captions, pool)
        scores = caption_score_sums(top, vectors.images, vectors.captions, pool)
        return Judgement(pool.languages, scores, vectors.calibration)

    def _embed(self, dataset: ImageTextDataset) -> _JudgeVectors:
        # the background that the judge was trained with, not that of the model that it judges
        vectors, background = [], self.scorer.background
        for start in range(0, len(dataset.images), IMAGE_BLOCK):
            block = dataset.images[start : start + IMAGE_BLOCK].tolist()
            opened: Sequence[Image.Image] = [
                dataset.captions.open(index, background) for index in block
            ]
            vectors.append(self.scorer.image_features(opened))
        images = np.concatenate(vectors)
        texts = dataset.captions.collection.texts
        prompts = [self.scorer.prefix + texts[index] for index in dataset.texts.tolist()]
        captions = self.scorer.text_features(prompts)
        return _JudgeVectors(images, captions, calibration(images, captions, dataset.pool))


def load_judge(name: str) -> Judge:
    """Load a judge by the names that `jaxir.vision.clipscore.scorer.load_scorer` knows.

    Raises:
        UserError: there is no such model, or it is damaged.
    """
    try:
        return Judge(load_scorer(name))
    except UserError as error:
        raise UserError(f"config.evaluation.judge = {name!r}: {error}") from None


def top_captions(
    images: Float[np.ndarray, "I E"], captions: Float[np.ndarray, "T E"], pool: Pool
) -> Int[np.ndarray, "N I"]:
    """Index of the top-ranked caption of each image in each language, or `NO_CAPTION`."""
    top = np.full((len(pool.languages), len(images)), NO_CAPTION)
    tie_order = tie_order_of(pool.image_to_text().passage_ids)
    for language in range(len(pool.languages)):
        subset = np.flatnonzero(pool.caption_language == language)
        if len(subset):
            vectors = make_vectors(np.asarray(captions[subset], np.float32))
            hits = search(images, vectors, 1, tie_order=tie_order[subset])
            top[language] = subset[hits.indices[:, 0]]
    return top


def caption_score_sums(
    chosen: Int[np.ndarray, "N I"],
    images: Float[np.ndarray, "I E"],
    captions: Float[np.ndarray, "T E"],
    pool: Pool,
) -> MetricSums:
    """CLIPScores of a caption for each image and language, summed over the images of a group.

    Args:
        chosen: indices of captions, `NO_CAPTION` where there is none.
        images: the judge's unit vectors.
        captions: the judge's unit vectors.
        pool: groups and languages of the images and captions.
    """
    group = np.unique(pool.image_group, return_inverse=True)[1]
    groups = int(group.max()) + 1
    scores = [clip_scores(images, captions[indices]) for indices in chosen]
    # index -1 reads the last caption, whose score the mask then takes out of the sum
    known = (chosen != NO_CAPTION).astype(np.int64)
    sums = [np.bincount(group, values * mask, groups) for values, mask in zip(scores, known)]
    counts = [np.bincount(group, mask, groups).astype(np.int64) for mask in known]
    return MetricSums(np.stack(sums, axis=1), np.stack(counts, axis=1))


def calibration(
    images: Float[np.ndarray, "I E"], captions: Float[np.ndarray, "T E"], pool: Pool
) -> dict[str, dict[str, float]]:
    """Mean CLIPScore of a language's matching pairs, and of all its other pairs.

    Returns:
        "matched" and "mismatched" by language; NaN of no pairs.
    """
    means = {}
    for index, language in enumerate(pool.languages):
        subset = pool.caption_language == index
        means[language] = _mean_scores(
            images, pool.image_group, captions[subset], pool.caption_group[subset]
        )
    return means


def _mean_scores(
    images: Float[np.ndarray, "I E"],
    image_group: Int[np.ndarray, "I"],
    captions: Float[np.ndarray, "T E"],
    caption_group: Int[np.ndarray, "T"],
) -> dict[str, float]:
    total, count = np.zeros(2), np.zeros(2)
    for start in range(0, len(images), IMAGE_BLOCK):
        block = slice(start, start + IMAGE_BLOCK)
        scores = WEIGHT * np.maximum(images[block].astype(np.float64) @ captions.T, 0)
        matched = image_group[block, None] == caption_group
        total += scores[matched].sum(), scores[~matched].sum()
        count += matched.sum(), (~matched).sum()
    means = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return {"matched": float(means[0]), "mismatched": float(means[1])}
