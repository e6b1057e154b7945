"""ALBEF's two towers as a scorer of captions.

Dimension key: B images, T texts, E projected width.
"""

import os
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Float
from PIL import Image

from jaxir.data.tokens import tokenize
from jaxir.runtime.mesh import AXES
from jaxir.vision.data.augment import centred
from jaxir.vision.data.images import open_image
from jaxir.vision.evaluation.image_task import encode_captions, encode_pixels, make_programs
from jaxir.vision.models.aligned_folder import AlignedModel


class AlignedScorer:
    """ALBEF's two towers as what `jaxir.vision.clipscore.scorer.Scorer` asks for."""

    prefix = ""  # it was trained on captions as they are

    def __init__(self, model: AlignedModel):
        self.background = model.background
        self.model, self.programs = model, make_programs(model.config)
        self.mesh = jax.make_mesh((1, jax.device_count()), AXES)

    def image_features(
        self, images: Sequence[Image.Image | str | os.PathLike]
    ) -> Float[np.ndarray, "B E"]:
        """Unit vectors of images, in RGB or files.

        Raises:
            UserError: names the file that is no image.
        """
        size = self.model.config.vit.image_size

        def pixels(chosen: np.ndarray) -> np.ndarray:
            opened = (
                image if isinstance(image, Image.Image) else open_image(image, "", self.background)
                for image in (images[number] for number in chosen)
            )
            return np.stack([np.asarray(centred(image, size)) for image in opened])

        return self._on_mesh(
            lambda: encode_pixels(self.programs, self.model.params, pixels, len(images))[0]
        )

    def text_features(self, texts: Sequence[str]) -> Float[np.ndarray, "T E"]:
        """Unit vectors of texts."""
        tokens = tokenize(list(texts), self.model.tokenizer)
        every, limit = np.arange(len(texts)), self.model.max_caption_tokens
        return self._on_mesh(
            lambda: encode_captions(self.programs, self.model.params, tokens, every, limit)
        )

    def _on_mesh(self, encode: Callable[[], np.ndarray]) -> np.ndarray:
        with jax.set_mesh(self.mesh):
            return encode()
