"""CLIPScore and RefCLIPScore, and how well they agree with people.

Dimension key: N captions, each with its image, E width of their vectors, R references.

Source: Hessel et al., CLIPScore, arXiv 2104.08718, section 3.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

WEIGHT = 2.5  # stretches the cosines that CLIP gives over about 0 to 1
PREFIX = "A photo depicts "  # before every caption and reference that CLIP sees


def clip_scores(
    images: Float[np.ndarray, "N E"], captions: Float[np.ndarray, "N E"]
) -> Float[np.ndarray, "N"]:
    """2.5 times the cosine of a caption and its image, 0 where that is negative.

    Args:
        images: unit vectors.
        captions: unit vectors.
    """
    cosines = np.einsum("ne,ne->n", images.astype(np.float64), captions.astype(np.float64))
    return WEIGHT * np.maximum(cosines, 0)


def reference_scores(
    captions: Float[np.ndarray, "N E"],
    references: Float[np.ndarray, "R E"],
    own: Sequence[Sequence[int]],
) -> Float[np.ndarray, "N"]:
    """The cosine of a caption and the nearest of its references, 0 where that is negative.

    Args:
        captions: unit vectors.
        references: unit vectors.
        own: the numbers of each caption's references, one at least.
    """
    nearest = [
        np.max(np.asarray(references[list(some)], np.float64) @ caption.astype(np.float64))
        for caption, some in zip(captions, own)
    ]
    return np.maximum(np.asarray(nearest, np.float64), 0)


def ref_clip_scores(
    scores: Float[np.ndarray, "N"], nearest: Float[np.ndarray, "N"]
) -> Float[np.ndarray, "N"]:
    """The harmonic mean of what `clip_scores` and `reference_scores` give; 0 where both are."""
    total = scores + nearest
    return np.divide(2 * scores * nearest, total, out=np.zeros_like(total), where=total > 0)


def kendall_tau(
    scores: Float[np.ndarray, "N"], ratings: Float[np.ndarray, "N"], variant: str
) -> float:
    """Kendall's rank correlation of scores and ratings; NaN where either is all the same.

    Args:
        scores: of a measure.
        ratings: of people, for the same things.
        variant: "b", which takes ties out, or "c", for ratings with few values.
    """
    from scipy.stats import kendalltau

    return float(kendalltau(scores, ratings, variant=variant).statistic)
