"""An aligned model read back, from a run or from its export, and as a scorer of captions.

Dimension key: B images, T texts, E projected width.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float
from PIL import Image

from jaxir.config import AlbefConfig
from jaxir.data.tokens import tokenize
from jaxir.errors import UserError
from jaxir.runtime.files import as_local, path_of
from jaxir.runtime.mesh import AXES
from jaxir.training.trained import is_workdir, newest_params
from jaxir.training.workdir import read_config
from jaxir.vision.data.augment import centred
from jaxir.vision.data.images import open_image
from jaxir.vision.evaluation.image_task import encode_captions, encode_pixels, make_programs
from jaxir.vision.models.aligned_folder import AlignedModel, of_run, read_folder
from jaxir.vision.models.initial_weights import load_initial_weights
from jaxir.vision.training.objective import ALIGNING


def read_aligned(name: str) -> AlignedModel:
    """Read such a folder, or the workdir of a run: its export, or its best checkpoint so far.

    Raises:
        UserError: there is no such model, or it is damaged.
    """
    if not is_workdir(name):
        return read_folder(Path(name))
    workdir = path_of(name)
    if (workdir / "export" / "config.json").exists():
        with as_local(workdir / "export") as folder:
            return read_folder(folder)
    config = read_config(workdir)
    if not isinstance(config, AlbefConfig):
        raise UserError(f"{workdir}: a run of {config.task}; one that aligns images is needed here")
    model, start, tokenizer = load_initial_weights(config, None, workdir)
    config = dataclasses.replace(config, model=model)
    params = newest_params(config, workdir, start, ALIGNING)
    return of_run(config, params, tokenizer)


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
