"""CLIPScore, RefCLIPScore, and their rank correlation with human ratings.

Dimension key: N captions, each with its image, E width of their vectors, R references.

Source: Hessel et al., CLIPScore, arXiv 2104.08718, section 3.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

WEIGHT = 2.5  # stretches CLIP's cosines of captions and images to about 0 to 1
PREFIX = "A photo depicts "  # before every caption and reference that CLIP embeds


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
    reference_rows: Sequence[Sequence[int]],
) -> Float[np.ndarray, "N"]:
    """The cosine of a caption and the nearest of its references, 0 where that is negative.

    Args:
        captions: unit vectors.
        references: unit vectors.
        reference_rows: indices of each caption's references, at least one.
    """
    nearest = [
        np.max(np.asarray(references[list(rows)], np.float64) @ caption.astype(np.float64))
        for caption, rows in zip(captions, reference_rows)
    ]
    return np.maximum(np.asarray(nearest, np.float64), 0)


def ref_clip_scores(
    scores: Float[np.ndarray, "N"], nearest: Float[np.ndarray, "N"]
) -> Float[np.ndarray, "N"]:
    """Harmonic mean of the results of `clip_scores` and `reference_scores`; 0 where both are 0."""
    total = scores + nearest
    return np.divide(2 * scores * nearest, total, out=np.zeros_like(total), where=total > 0)


def kendall_tau(
    scores: Float[np.ndarray, "N"], ratings: Float[np.ndarray, "N"], variant: str
) -> float:
    """Kendall's rank correlation of scores and ratings; NaN where all values of either are equal.

    Args:
        scores: of a metric.
        ratings: of people, for the same pairs.
        variant: "b", which corrects for ties, or "c", for ratings with few values.
    """
    from scipy.stats import kendalltau

    return float(kendalltau(scores, ratings, variant=variant).statistic)
