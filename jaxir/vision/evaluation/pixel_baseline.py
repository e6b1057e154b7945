"""A baseline from pixels alone: an image gets the captions of the most similar training image.

A model of images and texts has to beat this: no text is read, and an image of what is not in
training cannot be recognised at all.

Dimension key: M training images, I images, T captions, S side, F features, U groups.
"""

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from jaxir.vision.data.collection import CaptionSet
from jaxir.vision.data.images import WHITE, Color
from jaxir.vision.evaluation.pool import Pool, make_pool
from jaxir.vision.evaluation.retrieval import ImageTextReport, evaluate_scores

IMAGE_BLOCK = 256  # images compared with all training images together
UNKNOWN = -2.0  # the score of a caption without a training image, below every cosine


def pixel_features(
    pixels: UInt8[np.ndarray, "I S S 3"], side: int = 16, grey: bool = False
) -> Float[np.ndarray, "I F"]:
    """Pixels less the image's mean in each channel, as unit vectors; a blank image is zero.

    Args:
        pixels: of one size.
        side: to which larger images are averaged first, since outlines seldom coincide.
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
    """Cosine of each image with the most similar training image of each group."""
    known, index = np.unique(training_group, return_inverse=True)
    # training images sorted by group, so that each group's maximum is one segment of a reduceat
    order = np.argsort(index, kind="stable")
    starts = np.searchsorted(index[order], np.arange(len(known)))
    transposed = training[order].T
    best = np.empty((len(images), len(known)), np.float32)
    for first in range(0, len(images), IMAGE_BLOCK):
        block = slice(first, first + IMAGE_BLOCK)
        best[block] = np.maximum.reduceat(images[block] @ transposed, starts, axis=1)
    column = np.minimum(np.searchsorted(known, groups), len(known) - 1)
    return np.where(known[column] == groups, best[:, column], np.float32(UNKNOWN))


def evaluate_pixels(
    training_pixels: UInt8[np.ndarray, "M S S 3"],
    training_group: Int[np.ndarray, "M"],
    pixels: UInt8[np.ndarray, "I S S 3"],
    pool: Pool,
    side: int = 16,
    grey: bool = False,
) -> ImageTextReport:
    """Evaluate the baseline on the pool that a model is evaluated on.

    Args:
        training_pixels: of the model's training images.
        training_group: of the training images, numbered as in the pool.
        pixels: of the pool's images, of the same size.
        pool: groups and languages of the images and captions.
        side: that both are compared at.
        grey: compare without colours.
    """
    groups, index = np.unique(pool.caption_group, return_inverse=True)
    scores = pixel_scores(
        pixel_features(training_pixels, side, grey),
        training_group,
        pixel_features(pixels, side, grey),
        groups,
    )
    return evaluate_scores(scores[:, index], pool)


def pixel_baseline(
    training: CaptionSet, evaluated: CaptionSet, side: int = 16, background: Color = WHITE
) -> ImageTextReport:
    """Evaluate the baseline on all images and captions of a set.

    Args:
        training: the images that may be looked up.
        evaluated: a set from the same call of `read_captions`, since clusters are compared by
            number.
        side: that images are compared at.
        background: behind transparent images.

    Raises:
        UserError: an image that cannot be decoded.
    """
    pool, images, _ = make_pool(evaluated)
    training_pool, training_images, _ = make_pool(training)
    return evaluate_pixels(
        _read_pixels(training, training_images, side, background),
        training_pool.image_group,
        _read_pixels(evaluated, images, side, background),
        pool,
        side,
    )


def _read_pixels(
    captions: CaptionSet, images: Int[np.ndarray, "I"], side: int, background: Color
) -> UInt8[np.ndarray, "I S S 3"]:
    pixels = []
    for index in images.tolist():
        image = captions.open(index, background)
        pixels.append(np.asarray(image.resize((side, side), Image.Resampling.BOX)))
    return np.stack(pixels)
