"""ALBEF's two towers as a scorer of captions.

Dimension key: B images, T texts, E projected width.
"""

import os
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float
from PIL import Image

from jaxir.data.tokens import tokenize
from jaxir.runtime.mesh import AXES
from jaxir.vision.data.augment import center_crop
from jaxir.vision.data.images import open_image
from jaxir.vision.evaluation.encoders import encode_captions, encode_pixels, make_encoders
from jaxir.vision.models.aligned_folder import AlignedModel


class AlbefScorer:
    """ALBEF's two towers as a `jaxir.vision.clipscore.scorer.Scorer`."""

    prefix = ""  # it was trained on captions as they are

    def __init__(self, model: AlignedModel):
        self.background = model.background
        self.model, self.encoders = model, make_encoders(model.config)
        self.mesh = jax.make_mesh((1, jax.device_count()), AXES)

    def image_features(
        self, images: Sequence[Image.Image | str | os.PathLike]
    ) -> Float[np.ndarray, "B E"]:
        """Unit vectors of images, in RGB or files.

        Raises:
            UserError: names the file that is not an image.
        """
        size = self.model.config.vit.image_size

        def read(batch: np.ndarray) -> np.ndarray:
            opened = (
                image if isinstance(image, Image.Image) else open_image(image, "", self.background)
                for image in (images[index] for index in batch)
            )
            return np.stack([np.asarray(center_crop(image, size)) for image in opened])

        with jax.set_mesh(self.mesh):
            return encode_pixels(self.encoders, self.model.params, read, len(images))[0]

    def text_features(self, texts: Sequence[str]) -> Float[np.ndarray, "T E"]:
        """Unit vectors of texts."""
        tokens = tokenize(list(texts), self.model.tokenizer)
        indices, limit = np.arange(len(texts)), self.model.max_caption_tokens
        with jax.set_mesh(self.mesh):
            return encode_captions(self.encoders, self.model.params, tokens, indices, limit)
