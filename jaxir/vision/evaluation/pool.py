"""A pool of images and captions, and the two retrieval datasets that it makes.

Dimension key: I images, T captions, N languages, Q queries, R relevant candidates of a query at
most.

    image to text  the captions of one language as the pool ("monolingual"), and those of all
                   languages ("multilingual")
    text to image  the captions of one language as queries, all images as the pool ("multilingual")

A candidate is relevant if it is of the query's group: both depict the same.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from jaxir.errors import UserError
from jaxir.evaluation.dataset import RetrievalDataset
from jaxir.vision.data.collection import CaptionSet


@dataclass(frozen=True, eq=False)
class Pool:
    """Groups and languages of the images and captions that are retrieved.

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
                f"{len(self.caption_language)} languages; each caption needs one of each"
            )
        if not len(self.image_group) or not len(self.caption_group):
            raise UserError(
                f"image-text retrieval: {len(self.image_group)} images and "
                f"{len(self.caption_group)} captions; both are needed"
            )

    def image_to_text(self) -> RetrievalDataset:
        """Dataset with every image as a query once per language, in the order of languages.

        An image has no language; as a query of a language it is held against the captions of that
        language alone. There is no cross-lingual setting.
        """
        images, languages = len(self.image_group), len(self.languages)
        relevant = relevant_candidates(self.image_group, self.caption_group)
        return self._dataset(
            "image to text",
            _ids(images * languages),
            np.repeat(np.arange(languages), images),
            np.tile(self._question(self.image_group), languages),
            _ids(len(self.caption_group)),
            self.caption_language,
            np.tile(relevant, (languages, 1)),
            ("monolingual", "multilingual"),
        )

    def text_to_image(self) -> RetrievalDataset:
        """Dataset with every caption as a query, against all images, which have no language."""
        return self._dataset(
            "text to image",
            _ids(len(self.caption_group)),
            self.caption_language,
            self._question(self.caption_group),
            _ids(len(self.image_group)),
            np.zeros(len(self.image_group), np.int64),
            relevant_candidates(self.caption_group, self.image_group),
            ("multilingual",),
        )

    def _question(self, group: Int[np.ndarray, "Q"]) -> Int[np.ndarray, "Q"]:
        """Number of each group, the same in both directions, so that tests draw it together."""
        known = np.unique(np.concatenate([self.image_group, self.caption_group]))
        return np.searchsorted(known, group)

    def _dataset(
        self, name, ids, language, question, candidates, candidate_language, relevant, settings
    ):
        return RetrievalDataset(
            name=name,
            languages=self.languages,
            queries=ids,
            query_ids=ids,
            query_language=language,
            passages=candidates,
            passage_ids=candidates,
            passage_language=candidate_language,
            relevant=relevant,
            question=question,
            settings=settings,
        )

    def counts(self) -> dict[str, int]:
        """Captions by language."""
        counts = np.bincount(self.caption_language, minlength=len(self.languages))
        return dict(zip(self.languages, counts.tolist()))

    def chance(self) -> dict[str, float]:
        """R@1 of a random ranking, over the queries that have a relevant candidate.

        Returns:
            By "image_to_text/en" and "text_to_image/en", and "image_to_text" in the multilingual
            pool; NaN where nothing is relevant.
        """
        chance = {"image_to_text": _relevant_share(self.image_group, self.caption_group)}
        for index, language in enumerate(self.languages):
            groups = self.caption_group[self.caption_language == index]
            chance[f"image_to_text/{language}"] = _relevant_share(self.image_group, groups)
            chance[f"text_to_image/{language}"] = _relevant_share(groups, self.image_group)
        return chance


def make_pool(
    captions: CaptionSet,
) -> tuple[Pool, Int[np.ndarray, "I"], Int[np.ndarray, "T"]]:
    """Make the pool of a caption set, in which a caption stands once for all images of its group.

    Returns:
        The pool, its images as indices of `captions.contents`, and its captions as indices of
        `captions.collection.texts`.
    """
    collection = captions.collection
    images, first = np.unique(captions.image, return_index=True)
    row, language = np.nonzero(collection.query >= 0)
    # a caption is a text of a group in a language: images of one group may share it
    columns = np.stack([collection.query[row, language], collection.cluster[row], language])
    texts, group, language = np.unique(columns, axis=1)
    pool = Pool(collection.languages, collection.cluster[first], group, language)
    return pool, images, texts


def relevant_candidates(
    query_group: Int[np.ndarray, "Q"], candidate_group: Int[np.ndarray, "T"]
) -> Int[np.ndarray, "Q R"]:
    """Indices of the candidates of each query's group, padded with -1."""
    order = np.argsort(candidate_group, kind="stable")
    first, last = _spans(query_group, candidate_group[order])
    offset = np.arange(max(1, int((last - first).max())))
    index = first[:, None] + offset
    inside = index < last[:, None]
    return np.where(inside, order[np.where(inside, index, 0)], -1)


def _spans(
    query_group: Int[np.ndarray, "Q"], sorted_group: Int[np.ndarray, "T"]
) -> tuple[Int[np.ndarray, "Q"], Int[np.ndarray, "Q"]]:
    """First and last + 1 index of each query's group among the sorted groups."""
    return (
        np.searchsorted(sorted_group, query_group, side="left"),
        np.searchsorted(sorted_group, query_group, side="right"),
    )


def _ids(rows: int) -> list[str]:
    return [f"{row:09d}" for row in range(rows)]


def _relevant_share(query_group: np.ndarray, candidate_group: np.ndarray) -> float:
    """Mean share of relevant candidates, over the queries that have any; NaN of none."""
    first, last = _spans(query_group, np.sort(candidate_group))
    counts = (last - first)[last > first]
    return float(counts.mean() / len(candidate_group)) if len(counts) else float("nan")
