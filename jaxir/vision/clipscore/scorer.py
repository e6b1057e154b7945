"""What gives images and texts the vectors that CLIPScore compares.

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
from jaxir.vision.clipscore.albef_scorer import AlignedScorer
from jaxir.vision.clipscore.scores import PREFIX
from jaxir.vision.data.images import WHITE, Color, open_image
from jaxir.vision.models.aligned_folder import is_aligned
from jaxir.vision.models.clip_model import ClipModel, read_clip
from jaxir.vision.models.clip_preprocessing import prepare
from jaxir.vision.models.trained import read_aligned

Picture = Image.Image | str | os.PathLike  # in RGB, or a file
_PREPARED = 128  # images whose pixels are held at a time


class Scorer(Protocol):
    """A model with an image and a text side, whose unit vectors' products are cosines."""

    prefix: str  # that its captions are scored with
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
            UserError: names the file that is no image.
        """
        found = [np.empty((0, self.model.width), np.float32)]
        for start in range(0, len(images), _PREPARED):
            some = images[start : start + _PREPARED]
            opened = [x if isinstance(x, Image.Image) else open_image(x) for x in some]
            found.append(self.model.image_features(prepare(opened, self.model.preprocessing)))
        return np.concatenate(found)

    def text_features(self, texts: Sequence[str]) -> Float[np.ndarray, "T E"]:
        """Unit vectors of texts."""
        return self.model.text_features(texts)


def load_scorer(name: str, text_model: str = "") -> Scorer:
    """The scorer of that name: an ALBEF run or export, a CLIP folder, or a name on the hub.

    Args:
        name: of the model.
        text_model: folder or hub name of a dual encoder that embeds the texts; "": the model does.

    Raises:
        UserError: there is no such model, or it is damaged.
    """
    if is_workdir(name) or is_aligned(Path(name)):
        if text_model:
            raise UserError(f"--text_model {text_model}: {name} embeds texts itself; leave it out")
        return AlignedScorer(read_aligned(name))
    return ClipScorer(read_clip(name, text_model))
