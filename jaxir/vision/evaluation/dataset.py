"""An image-text dataset, its embeddings by a model, and the evaluation of both directions.

Dimension key: I images, T captions, M pairs of them, B rows of a batch, P patches, D hidden width,
E projected width.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jaxir.config import AlbefConfig
from jaxir.data.tokens import Tokens
from jaxir.vision.data.collection import CaptionSet
from jaxir.vision.data.pipeline import evaluation_pixels
from jaxir.vision.evaluation.encoders import (
    AlbefEncoders,
    encode_captions,
    encode_pixels,
    match_pairs,
)
from jaxir.vision.evaluation.pool import Pool, make_pool
from jaxir.vision.evaluation.retrieval import ImageTextReport, evaluate_retrieval


@dataclass(frozen=True, eq=False)
class ImageTextDataset:
    """Images, their captions, each once, and the groups that tell which belong together."""

    captions: CaptionSet
    tokens: Tokens  # of the set's texts
    images: Int[np.ndarray, "I"]  # indices of the set's images
    texts: Int[np.ndarray, "T"]  # indices of the set's texts
    pool: Pool

    def subset(self, images: int) -> "ImageTextDataset":
        """Evenly spaced images, always the same, with all captions; 0: all images."""
        if not 0 < images < len(self.images):
            return self
        chosen = np.linspace(0, len(self.images) - 1, images).round().astype(np.int64)
        pool = replace(self.pool, image_group=self.pool.image_group[chosen])
        return replace(self, images=self.images[chosen], pool=pool)


def image_text_dataset(captions: CaptionSet, tokens: Tokens) -> ImageTextDataset:
    """The dataset of a caption set: each image once, and each caption of a group once."""
    pool, images, texts = make_pool(captions)
    return ImageTextDataset(captions, tokens, images, texts, pool)


@dataclass(frozen=True, eq=False)
class ImageTextEmbeddings:
    """A dataset's images and captions, embedded by a model."""

    images: Float[np.ndarray, "I E"]  # unit vectors
    states: Float[np.ndarray, "I P D"]  # of the images, that ITM matches captions with
    captions: Float[np.ndarray, "T E"]  # unit vectors


def encode_dataset(
    encoders: AlbefEncoders, params: Any, dataset: ImageTextDataset, config: AlbefConfig
) -> ImageTextEmbeddings:
    """Encode each image and each caption of a dataset once."""

    def read(batch: Int[np.ndarray, "B"]) -> np.ndarray:
        return evaluation_pixels(dataset.captions, dataset.images[batch].tolist(), config.captions)

    vectors, states = encode_pixels(encoders, params, read, len(dataset.images))
    limit = config.captions.max_caption_tokens
    captions = encode_captions(encoders, params, dataset.tokens, dataset.texts, limit)
    return ImageTextEmbeddings(vectors, states, captions)


def evaluate_dataset(
    encoders: AlbefEncoders,
    params: Any,
    dataset: ImageTextDataset,
    embeddings: ImageTextEmbeddings,
    config: AlbefConfig,
    candidates: int = 0,
) -> ImageTextReport:
    """Rank both directions by ITC and re-score the top `candidates` by ITM; 0: none."""
    limit = config.captions.max_caption_tokens

    def match_scores(
        images: Int[np.ndarray, "M"], captions: Int[np.ndarray, "M"]
    ) -> Float[np.ndarray, "M"]:
        texts = dataset.texts[captions]
        states, tokens = embeddings.states, dataset.tokens
        return match_pairs(encoders, params, states, images, tokens, texts, limit)

    return evaluate_retrieval(
        embeddings.images,
        embeddings.captions,
        dataset.pool,
        match_scores if candidates else None,
        candidates,
    )
