"""A pool of images and captions, as the two retrieval tasks that it stands for.

Dimension key: I images, T captions, N languages, Q queries, R right answers of a query at most.

    image to text  the captions of one language as the pool ("monolingual"), and those of all
                   languages ("multilingual")
    text to image  the captions of one language as queries, all images as the pool ("multilingual")

An answer is right if it is of the same group as the query: of the same thing depicted.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int

from jaxir.errors import UserError
from jaxir.evaluation.dataset import RetrievalDataset
from jaxir.vision.data.captions import CaptionSet


@dataclass(frozen=True, eq=False)
class Pool:
    """What is retrieved: images and captions, and what they are of.

    Raises:
        UserError: arrays that do not fit together, or nothing in one of them.
    """

    languages: tuple[str, ...]
    image_group: Int[np.ndarray, "I"]
    caption_group: Int[np.ndarray, "T"]
    caption_language: Int[np.ndarray, "T"]  # index into languages

    def __post_init__(self):
        if len(self.caption_group) != len(self.caption_language):
            raise UserError(
                f"image-text retrieval: {len(self.caption_group)} groups of captions come with "
                f"{len(self.caption_language)} languages"
            )
        if not len(self.image_group) or not len(self.caption_group):
            raise UserError(
                f"image-text retrieval: {len(self.image_group)} images and "
                f"{len(self.caption_group)} captions; both are needed"
            )

    def image_to_text(self) -> RetrievalDataset:
        """Every image once for each language, language by language; settings without cross."""
        images, languages = len(self.image_group), len(self.languages)
        ids = _ids(images * languages)
        return self._task(
            "image to text",
            ids,
            np.repeat(np.arange(languages), images),
            np.tile(self._question(self.image_group), languages),
            _ids(len(self.caption_group)),
            self.caption_language,
            np.tile(right_answers(self.image_group, self.caption_group), (languages, 1)),
            ("monolingual", "multilingual"),
        )

    def text_to_image(self) -> RetrievalDataset:
        """Every caption, against all images, which have no language."""
        return self._task(
            "text to image",
            _ids(len(self.caption_group)),
            self.caption_language,
            self._question(self.caption_group),
            _ids(len(self.image_group)),
            np.zeros(len(self.image_group), np.int64),
            right_answers(self.caption_group, self.image_group),
            ("multilingual",),
        )

    def of_style(
        self, image_style: Int[np.ndarray, "I"], caption_style: Int[np.ndarray, "T"]
    ) -> "Pool":
        """The same pool where only an answer of the query's own style is right."""
        styles = int(max(image_style.max(), caption_style.max())) + 1
        return replace(
            self,
            image_group=self.image_group * styles + image_style,
            caption_group=self.caption_group * styles + caption_style,
        )

    def _question(self, group: Int[np.ndarray, "Q"]) -> Int[np.ndarray, "Q"]:
        """One number for what is depicted, in both directions: what a test has to draw together."""
        known = np.unique(np.concatenate([self.image_group, self.caption_group]))
        return np.searchsorted(known, group)

    def _task(self, name, ids, language, question, answers, answer_language, relevant, settings):
        return RetrievalDataset(
            name=name,
            languages=self.languages,
            queries=ids,
            query_ids=ids,
            query_language=language,
            passages=answers,
            passage_ids=answers,
            passage_language=answer_language,
            relevant=relevant,
            question=question,
            settings=settings,
        )

    def counts(self) -> dict[str, int]:
        """Captions by language."""
        counts = np.bincount(self.caption_language, minlength=len(self.languages))
        return dict(zip(self.languages, counts.tolist()))

    def chance(self) -> dict[str, float]:
        """R@1 of a random order, over the queries that have a right answer.

        Returns:
            By "image_to_text/en" and "text_to_image/en", and "image_to_text" in the pool of all
            languages; NaN where nothing is right.
        """
        chance = {"image_to_text": _share(self.image_group, self.caption_group)}
        for number, language in enumerate(self.languages):
            groups = self.caption_group[self.caption_language == number]
            chance[f"image_to_text/{language}"] = _share(self.image_group, groups)
            chance[f"text_to_image/{language}"] = _share(groups, self.image_group)
        return chance


def pool_of(
    captions: CaptionSet,
) -> tuple[Pool, Int[np.ndarray, "I"], Int[np.ndarray, "T"]]:
    """The pool that a caption set makes, a caption once for all images of what it tells.

    Returns:
        The pool, its images as indexes of `captions.contents`, and its captions as indexes of
        `captions.collection.texts`.
    """
    collection = captions.collection
    images, first = np.unique(captions.image, return_index=True)
    row, language = np.nonzero(collection.query >= 0)
    told = np.stack([collection.query[row, language], collection.cluster[row], language])
    texts, group, language = np.unique(told, axis=1)
    pool = Pool(collection.languages, collection.cluster[first], group, language)
    return pool, images, texts


def right_answers(
    query_group: Int[np.ndarray, "Q"], answer_group: Int[np.ndarray, "T"]
) -> Int[np.ndarray, "Q R"]:
    """Rows of the answers of each query's group, padded with -1."""
    order = np.argsort(answer_group, kind="stable")
    first, last = _spans(query_group, answer_group[order])
    number = np.arange(max(1, int((last - first).max())))
    place = first[:, None] + number
    inside = place < last[:, None]
    return np.where(inside, order[np.where(inside, place, 0)], -1)


def _spans(
    query_group: Int[np.ndarray, "Q"], ordered: Int[np.ndarray, "T"]
) -> tuple[Int[np.ndarray, "Q"], Int[np.ndarray, "Q"]]:
    """First and last + 1 place of each group among sorted ones."""
    return (
        np.searchsorted(ordered, query_group, side="left"),
        np.searchsorted(ordered, query_group, side="right"),
    )


def _ids(rows: int) -> list[str]:
    return [f"{row:09d}" for row in range(rows)]


def _share(query_group: np.ndarray, answer_group: np.ndarray) -> float:
    """Mean share of right answers in the pool, of the queries that have any; NaN of none."""
    first, last = _spans(query_group, np.sort(answer_group))
    counts = (last - first)[last > first]
    return float(counts.mean() / len(answer_group)) if len(counts) else float("nan")
