"""What pixels alone achieve: an image gets the captions of the most similar training image.

A model of images and texts has to beat this: no text is read, and an image of what is not in
training cannot be recognised at all.

Dimension key: M training images, I images, T captions, S side, F features, U groups.
"""

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from jaxir.vision.data.captions import CaptionSet
from jaxir.vision.data.images import WHITE, Color
from jaxir.vision.evaluation.pool import Pool, pool_of
from jaxir.vision.evaluation.retrieval import ImageTextReport, measure_scores

IMAGES_AT_ONCE = 256
NOTHING = -2.0  # the score of a caption without a training image, under every cosine


def pixel_features(
    pixels: UInt8[np.ndarray, "I S S 3"], side: int = 16, grey: bool = False
) -> Float[np.ndarray, "I F"]:
    """Pixels less the image's mean in each channel, as unit vectors; a blank image is zero.

    Args:
        pixels: of one size.
        side: to which larger images are averaged first: outlines seldom lie on each other.
        grey: take the mean over channels.
    """
    small = (min(side, pixels.shape[2]), min(side, pixels.shape[1]))
    box = Image.Resampling.BOX
    resized = [np.asarray(Image.fromarray(image).resize(small, box)) for image in pixels]
    values = np.stack(resized).astype(np.float32)
    if grey:
        values = values.mean(axis=3, keepdims=True)
    centred = values - values.mean(axis=(1, 2), keepdims=True)
    features = centred.reshape(len(pixels), -1)
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(norms > 0, norms, 1.0)


def pixel_scores(
    training: Float[np.ndarray, "M F"],
    training_group: Int[np.ndarray, "M"],
    images: Float[np.ndarray, "I F"],
    groups: Int[np.ndarray, "U"],
) -> Float[np.ndarray, "I U"]:
    """Cosine of each image with the most alike training image of each group."""
    known, place = np.unique(training_group, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(len(known)))
    transposed = training[order].T
    best = np.empty((len(images), len(known)), np.float32)
    for first in range(0, len(images), IMAGES_AT_ONCE):
        part = slice(first, first + IMAGES_AT_ONCE)
        best[part] = np.maximum.reduceat(images[part] @ transposed, starts, axis=1)
    column = np.minimum(np.searchsorted(known, groups), len(known) - 1)
    return np.where(known[column] == groups, best[:, column], np.float32(NOTHING))


def measure_pixels(
    training_pixels: UInt8[np.ndarray, "M S S 3"],
    training_group: Int[np.ndarray, "M"],
    pixels: UInt8[np.ndarray, "I S S 3"],
    pool: Pool,
    side: int = 16,
    grey: bool = False,
) -> ImageTextReport:
    """Measure the baseline on the pool that a model is measured on.

    Args:
        training_pixels: what the model was trained on.
        training_group: what they show, numbered as in the pool.
        pixels: the pool's images, of the same size.
        pool: what the images and captions are.
        side: that both are compared at.
        grey: compare without colours.
    """
    groups, place = np.unique(pool.caption_group, return_inverse=True)
    scores = pixel_scores(
        pixel_features(training_pixels, side, grey),
        training_group,
        pixel_features(pixels, side, grey),
        groups,
    )
    return measure_scores(scores[:, place], pool)


def pixel_baseline(
    training: CaptionSet, evaluated: CaptionSet, side: int = 16, background: Color = WHITE
) -> ImageTextReport:
    """Measure the baseline on all images and captions of a set, as a model is measured.

    Args:
        training: the images that may be looked up.
        evaluated: a set of the same reading, since clusters are compared by number.
        side: that images are compared at.
        background: behind transparent images.

    Raises:
        UserError: an image that cannot be decoded.
    """
    pool, images, _ = pool_of(evaluated)
    known, known_images, _ = pool_of(training)
    return measure_pixels(
        _decoded(training, known_images, side, background),
        known.image_group,
        _decoded(evaluated, images, side, background),
        pool,
        side,
    )


def _decoded(
    captions: CaptionSet, images: Int[np.ndarray, "I"], side: int, background: Color
) -> UInt8[np.ndarray, "I S S 3"]:
    found = []
    for number in images.tolist():
        image = captions.open(number, background)
        found.append(np.asarray(image.resize((side, side), Image.Resampling.BOX)))
    return np.stack(found)
