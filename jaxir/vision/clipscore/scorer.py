"""Scorers: models whose image and text vectors CLIPScore compares.

Dimension key: B images, T texts, E width.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Float
from PIL import Image

from jaxir.errors import UserError
from jaxir.training.trained import is_workdir
from jaxir.vision.clipscore.albef_scorer import AlbefScorer
from jaxir.vision.clipscore.clipscore import PREFIX
from jaxir.vision.data.images import WHITE, Color, open_image
from jaxir.vision.models.aligned_folder import is_aligned
from jaxir.vision.models.clip_model import ClipModel, read_clip
from jaxir.vision.models.clip_preprocessing import preprocess
from jaxir.vision.models.trained import read_aligned

Picture = Image.Image | str | os.PathLike  # in RGB, or a file
_IMAGE_BATCH = 128  # images whose pixels are in memory


class Scorer(Protocol):
    """A dual encoder of images and texts whose unit vectors' products are cosines."""

    prefix: str  # before every text that is scored
    background: Color  # behind transparent images

    def image_features(self, images: Sequence[Picture]) -> Float[np.ndarray, "B E"]:
        """Unit vectors of images."""

    def text_features(self, texts: Sequence[str]) -> Float[np.ndarray, "T E"]:
        """Unit vectors of texts."""


class ClipScorer:
    """A CLIP model as a scorer."""

    prefix = PREFIX
    background = WHITE

    def __init__(self, model: ClipModel):
        self.model = model

    def image_features(self, images: Sequence[Picture]) -> Float[np.ndarray, "B E"]:
        """Unit vectors of images.

        Raises:
            UserError: names the file that is not an image.
        """
        vectors = [np.empty((0, self.model.width), np.float32)]
        for start in range(0, len(images), _IMAGE_BATCH):
            batch = images[start : start + _IMAGE_BATCH]
            opened = [x if isinstance(x, Image.Image) else open_image(x) for x in batch]
            vectors.append(self.model.image_features(preprocess(opened, self.model.preprocessing)))
        return np.concatenate(vectors)

    def text_features(self, texts: Sequence[str]) -> Float[np.ndarray, "T E"]:
        """Unit vectors of texts."""
        return self.model.text_features(texts)


def load_scorer(name: str, text_model: str = "") -> Scorer:
    """Load a scorer: an ALBEF run or export, a CLIP folder, or a name on the hub.

    Args:
        name: of the model.
        text_model: folder or hub name of a dual encoder that embeds the texts; "": the same model.

    Raises:
        UserError: there is no such model, or it is damaged.
    """
    if is_workdir(name) or is_aligned(Path(name)):
        if text_model:
            raise UserError(f"--text_model {text_model}: {name} embeds texts itself; leave it out")
        return AlbefScorer(read_aligned(name))
    return ClipScorer(read_clip(name, text_model))
