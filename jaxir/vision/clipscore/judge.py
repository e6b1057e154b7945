"""CLIPScore of the captions that a model finds, by another model, which judges them all.

For each image the caption that ranks first in each language is scored against the image. A judge
that was trained apart says of every model the same of the same caption, so models compare by it;
its scores of right and of wrong captions say what a figure is worth (its calibration).

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
from jaxir.evaluation.settings import MetricSums, plain
from jaxir.retrieval.topk import make_vectors, search
from jaxir.vision.clipscore.scorer import Scorer, load_scorer
from jaxir.vision.clipscore.scores import WEIGHT, clip_scores
from jaxir.vision.evaluation.image_task import Encoded, ImageTask
from jaxir.vision.evaluation.pool import Pool

NOTHING = -1  # in place of a caption: the language has none
IMAGES_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class Judgement:
    """Scores of the captions found, and of right and wrong ones, by the same judge."""

    languages: tuple[str, ...]
    found: MetricSums  # cells are languages, units what is depicted
    calibration: dict[str, dict[str, float]]  # by language: "matched", "mismatched"

    def to_dict(self) -> dict[str, Any]:
        """As a report has it; null where a language has no captions."""
        by_language = dict(zip(self.languages, self.found.means().tolist()))
        report = {"mean": float(self.found.figure()), "by_language": by_language}
        whole = {name: plain(value) for name, value in report.items()}
        return whole | {"calibration": plain(self.calibration)}


@dataclass(frozen=True, eq=False)
class _Judged:
    """What a judge makes of a task, whoever is judged."""

    images: Float[np.ndarray, "I E"]
    captions: Float[np.ndarray, "T E"]
    calibration: dict[str, dict[str, float]]


@dataclass(frozen=True, eq=False)
class Judge:
    """A scorer, and its vectors of the tasks seen so far, each made once."""

    scorer: Scorer
    known: dict[str, _Judged] = field(default_factory=dict)

    def of(self, name: str, task: ImageTask, encoded: Encoded) -> Judgement:
        """Judge what a model's features find.

        Args:
            name: of the task.
            task: its images and captions.
            encoded: the features of the model that is judged.

        Raises:
            UserError: an image cannot be decoded.
        """
        if name not in self.known:
            self.known[name] = self._judged(task)
        judged, pool = self.known[name], task.pool
        first = first_captions(encoded.images, encoded.captions, pool)
        found = totals_of_captions(first, judged.images, judged.captions, pool)
        return Judgement(pool.languages, found, judged.calibration)

    def _judged(self, task: ImageTask) -> _Judged:
        vectors, background = [], self.scorer.background  # what the judge was trained on
        for start in range(0, len(task.images), IMAGES_AT_ONCE):
            some = task.images[start : start + IMAGES_AT_ONCE].tolist()
            opened: Sequence[Image.Image] = [task.captions.open(x, background) for x in some]
            vectors.append(self.scorer.image_features(opened))
        images = np.concatenate(vectors)
        found = task.captions.collection.texts
        texts = [self.scorer.prefix + found[number] for number in task.texts.tolist()]
        captions = self.scorer.text_features(texts)
        return _Judged(images, captions, calibration(images, captions, task.pool))


def load_judge(name: str) -> Judge:
    """The judge of that name, as `jaxir.vision.clipscore.scorer.load_scorer` finds it.

    Raises:
        UserError: there is no such model, or it is damaged.
    """
    try:
        return Judge(load_scorer(name))
    except UserError as error:
        raise UserError(f"config.evaluation.judge = {name!r}: {error}") from None


def first_captions(
    images: Float[np.ndarray, "I E"], captions: Float[np.ndarray, "T E"], pool: Pool
) -> Int[np.ndarray, "N I"]:
    """Row of the caption that ranks first for each image in each language."""
    first = np.full((len(pool.languages), len(images)), NOTHING)
    tie_order = tie_order_of(pool.image_to_text().passage_ids)
    for language, own in enumerate(first):
        among = np.flatnonzero(pool.caption_language == language)
        if len(among):
            vectors = make_vectors(np.asarray(captions[among], np.float32))
            found = search(images, vectors, 1, tie_order=tie_order[among])
            own[:] = among[found.places[:, 0]]
    return first


def totals_of_captions(
    chosen: Int[np.ndarray, "N I"],
    images: Float[np.ndarray, "I E"],
    captions: Float[np.ndarray, "T E"],
    pool: Pool,
) -> MetricSums:
    """CLIPScore of a caption for each image and language, summed over what is depicted.

    Args:
        chosen: rows of captions, `NOTHING` where there is none.
        images: the judge's unit vectors.
        captions: the judge's unit vectors.
        pool: what they are of.
    """
    unit = np.unique(pool.image_group, return_inverse=True)[1]
    size = int(unit.max()) + 1
    scores = [clip_scores(images, captions[own]) for own in chosen]
    there = (chosen != NOTHING).astype(np.int64)
    sums = [np.bincount(unit, own * here, size) for own, here in zip(scores, there)]
    counts = [np.bincount(unit, here, size).astype(np.int64) for here in there]
    return MetricSums(np.stack(sums, axis=1), np.stack(counts, axis=1))


def calibration(
    images: Float[np.ndarray, "I E"], captions: Float[np.ndarray, "T E"], pool: Pool
) -> dict[str, dict[str, float]]:
    """Mean CLIPScore of all pairs of a language that belong together, and of all others.

    Returns:
        By language "matched" and "mismatched"; NaN of no pairs.
    """
    return {
        language: _calibration(
            images, pool.image_group, captions[pool.caption_language == number],
            pool.caption_group[pool.caption_language == number],
        )
        for number, language in enumerate(pool.languages)
    }  # fmt: skip


def _calibration(
    images: Float[np.ndarray, "I E"],
    image_group: Int[np.ndarray, "I"],
    captions: Float[np.ndarray, "T E"],
    caption_group: Int[np.ndarray, "T"],
) -> dict[str, float]:
    total, count = np.zeros(2), np.zeros(2)
    for start in range(0, len(images), IMAGES_AT_ONCE):
        some = slice(start, start + IMAGES_AT_ONCE)
        scores = WEIGHT * np.maximum(images[some].astype(np.float64) @ captions.T, 0)
        right = image_group[some, None] == caption_group
        total += scores[right].sum(), scores[~right].sum()
        count += right.sum(), (~right).sum()
    means = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return {"matched": float(means[0]), "mismatched": float(means[1])}
