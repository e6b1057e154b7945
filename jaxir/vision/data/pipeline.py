"""From the rows of a step to pixels and caption ids: decode, augment, cut, pad.

Dimension key: B rows (images), S image side, C channels (3), L tokens, I images,
R images made together.

`jaxir.data.hybrid` decides which rows make the batch and in which languages their captions are;
`jaxir.data.pipeline.batches` runs the loader in tf.data. Pixels are integers until they are on the
device, a quarter of the bytes.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxir.config import CaptionsConfig
from jaxir.data.batch import Batch
from jaxir.data.hybrid import KINDS, Hybrid
from jaxir.data.tokens import Tokens
from jaxir.vision.data.augment import augment_image, center_crop
from jaxir.vision.data.collection import CaptionSet

FIELDS: dict[str, type] = {
    "pixels": np.uint8,  # B S S C
    "image_group": np.int32,  # B; what is depicted
    "caption_ids": np.int32,  # B L
    "caption_lengths": np.int32,  # B
    "other_ids": np.int32,  # B L; captions in another language, in a cross-lingual batch; else B 0
    "other_lengths": np.int32,  # B; 0 without another caption
}
# Pillow decodes and resizes without Python's lock
THREADS = os.cpu_count() or 1
_threads = ThreadPoolExecutor(THREADS, "images")


def _stack_images(
    count: int, size: int, make: Callable[[int], Image.Image]
) -> UInt8[np.ndarray, "R S S C"]:
    """Pixels of `make(0)` to `make(count - 1)`, which run on several threads."""
    pixels = np.empty((count, size, size, 3), np.uint8)

    def fill(indices: np.ndarray) -> None:
        for index in indices.tolist():
            pixels[index] = np.asarray(make(index))

    # the loop waits for all, and raises the error of a thread
    for _ in _threads.map(fill, np.array_split(np.arange(count), THREADS)):
        pass
    return pixels


def evaluation_pixels(
    captions: CaptionSet, images: Sequence[int], config: CaptionsConfig
) -> UInt8[np.ndarray, "I S S C"]:
    """Pixels of images as they are evaluated: resized and center-cropped, nothing random.

    Raises:
        UserError: names the image that cannot be decoded.
    """

    def make(index: int) -> Image.Image:
        return center_crop(captions.open(images[index], config.background), config.image_size)

    return _stack_images(len(images), config.image_size, make)


@dataclass(frozen=True)
class CaptionLoader:
    """Loader of a step's arrays, from a captioned image set and the tokens of its texts."""

    captions: CaptionSet
    hybrid: Hybrid
    tokens: Tokens  # of captions.collection.texts
    config: CaptionsConfig
    augments: bool = True  # False: images as they are evaluated

    @property
    def fields(self) -> Mapping[str, type]:
        """Names of a batch's arrays, and their data types."""
        return FIELDS

    def shapes(self, batch: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """The batch, and its shapes with and without other captions if the schedule has both."""
        limit, batch_width = self.config.max_caption_tokens, batch["other_ids"].shape[1]
        kinds = {KINDS[kind] for kind, _ in self.hybrid.streams}
        for width in sorted({limit if kind == "cross_lingual" else 0 for kind in kinds}):
            if width == batch_width:
                yield batch
                continue
            yield {
                name: jax.ShapeDtypeStruct(
                    (len(x), width) if name == "other_ids" else x.shape,
                    x.dtype,
                    sharding=x.sharding,
                )
                for name, x in batch.items()
            }

    def batch(self, step: int, rows: slice = slice(None)) -> Batch:
        """The arrays of a slice of a step's global batch.

        Raises:
            UserError: names the image that cannot be decoded.
        """
        drawn, collection = self.hybrid.batch(step), self.captions.collection
        groups = drawn.groups[rows]
        texts = collection.query[groups, drawn.query_language[rows]]
        limit = self.config.max_caption_tokens
        if drawn.kind == "cross_lingual":
            others = collection.passage[groups, drawn.passage_language[rows]]
            other_ids, other_lengths = self.tokens.padded(others, limit)
        else:
            other_ids = np.empty((len(groups), 0), np.int32)
            other_lengths = np.zeros(len(groups), np.int32)
        ids, lengths = self.tokens.padded(texts, limit)
        arrays = {
            "pixels": self._pixels(step, self.captions.image[drawn.groups], rows),
            "image_group": collection.cluster[groups],
            "caption_ids": ids,
            "caption_lengths": lengths,
            "other_ids": other_ids,
            "other_lengths": other_lengths,
        }
        return {name: arrays[name].astype(dtype, copy=False) for name, dtype in FIELDS.items()}

    def _pixels(self, step: int, images: np.ndarray, rows: slice) -> UInt8[np.ndarray, "B S S C"]:
        if not self.augments:
            return evaluation_pixels(self.captions, images[rows].tolist(), self.config)
        batch_rows, config = range(*rows.indices(len(images))), self.config

        def make(index: int) -> Image.Image:
            # seeded by the row in the global batch, so it does not matter which process has it
            row = batch_rows[index]
            rng = np.random.default_rng((self.hybrid.seed, step, row))
            image = self.captions.open(int(images[row]), config.background)
            return augment_image(image, config.image_size, config.augment, rng)

        return _stack_images(len(batch_rows), config.image_size, make)
