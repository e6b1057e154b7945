"""An aligned model that is ready for use: ALBEF's towers, its tokenizer, how it wants its images.

Its folder holds `config.json`, `model.safetensors` (each leaf under its path, joined by dots) and
the tokenizer's files.

Dimension key: B images, T texts, E projected width.
"""

import contextlib
import dataclasses
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dacite
import jax
import numpy as np
from jaxtyping import Float
from PIL import Image

from jaxir.data.tokens import tokenize
from jaxir.errors import UserError
from jaxir.models.hf import read_tokenizer
from jaxir.models.weights import Weights, put, read_object, save_json, save_tensors
from jaxir.training.sharding import AXES
from jaxir.training.trained import is_workdir, newest_params
from jaxir.training.workdir import read_config
from jaxir.vision.albef import Params, abstract_params
from jaxir.vision.augment import centred
from jaxir.vision.config import AlbefConfig, AlbefModelConfig
from jaxir.vision.images import open_image
from jaxir.vision.tasks import encode_captions, encode_pixels, make_programs
from jaxir.whole_files import as_local, is_remote, path_of, publish, replacing

KIND = "jaxir-albef"  # in config.json


@dataclass(frozen=True, eq=False)
class AlignedModel:
    """Weights and what they were trained with."""

    config: AlbefModelConfig
    params: Params
    tokenizer: Any
    max_caption_tokens: int
    background: tuple[int, int, int]  # behind transparent images


def write_aligned(folder: os.PathLike, model: AlignedModel) -> None:
    """Write a model, whole or not at all, also to a bucket.

    Raises:
        UserError: it cannot be written.
    """
    target = path_of(folder)
    with tempfile.TemporaryDirectory() as near:
        local = Path(near) / target.name if is_remote(target) else Path(target).absolute()
        with replacing(local) as new:
            model.tokenizer.save_pretrained(new)
            leaves = jax.tree_util.tree_leaves_with_path(model.params)
            tensors = {
                ".".join(key.key for key in path): np.asarray(leaf, np.float32)
                for path, leaf in leaves
            }
            save_tensors(new / "model.safetensors", tensors)
            shape = {"model_type": KIND, "model": dataclasses.asdict(model.config)}
            limits = {
                "max_caption_tokens": model.max_caption_tokens,
                "background": model.background,
            }
            save_json(new / "config.json", shape | limits)
        if is_remote(target):
            publish(local, target, "config.json")


def is_aligned(folder: Path) -> bool:
    """Whether a folder holds a model that `write_aligned` wrote."""
    path = folder / "config.json"
    try:
        return path.exists() and json.loads(path.read_text()).get("model_type") == KIND
    except (ValueError, AttributeError):
        return False


def read_aligned(name: str) -> AlignedModel:
    """Read such a folder, or the workdir of a run: its export, or its best checkpoint so far.

    Raises:
        UserError: there is no such model, or it is damaged.
    """
    if not is_workdir(name):
        return _read_folder(Path(name))
    workdir = path_of(name)
    if (workdir / "export" / "config.json").exists():
        with as_local(workdir / "export") as folder:
            return _read_folder(folder)
    config = read_config(workdir)
    if not isinstance(config, AlbefConfig):
        raise UserError(f"{workdir}: a run of {config.task}; one that aligns images is needed here")
    from jaxir.vision.family import ALBEF  # it writes what is read here
    from jaxir.vision.inputs import read_start

    model, start, tokenizer = read_start(config, None, workdir)
    config = dataclasses.replace(config, model=model)
    params = newest_params(config, workdir, start, ALBEF.objective)
    return of_run(config, params, tokenizer)


def of_run(config: AlbefConfig, params: Params, tokenizer: Any) -> AlignedModel:
    """What a run has trained; its config has the model's true shape."""
    captions = config.captions
    return AlignedModel(
        config.model, params, tokenizer, captions.max_caption_tokens, captions.background
    )


def _read_folder(folder: Path) -> AlignedModel:
    path = folder / "config.json"
    if not is_aligned(folder):
        raise UserError(f"{folder}: no workdir or export of a run that aligns images and captions")
    values = read_object(path)
    try:
        config = dacite.from_dict(AlbefModelConfig, values["model"], dacite.Config(cast=[tuple]))
        limit, background = int(values["max_caption_tokens"]), tuple(values["background"])
    except (KeyError, TypeError, ValueError, dacite.DaciteError) as error:
        raise UserError(f"{path}: not a config of this version of jaxir ({error})") from error
    params: Params = {}
    with contextlib.ExitStack() as stack:
        weights = Weights(folder, stack)
        for keys, leaf in jax.tree_util.tree_leaves_with_path(abstract_params(config)):
            names = tuple(key.key for key in keys)
            put(params, names, weights.read(".".join(names), leaf.shape))
    return AlignedModel(config, params, read_tokenizer(folder), limit, background)


class AlignedScorer:
    """ALBEF's two towers as what `jaxir.vision.scorer.Scorer` asks for."""

    def __init__(self, model: AlignedModel):
        self.model, self.programs = model, make_programs(model.config)
        self.mesh = jax.make_mesh((1, jax.device_count()), AXES)

    def image_features(
        self, images: Sequence[Image.Image | str | os.PathLike]
    ) -> Float[np.ndarray, "B E"]:
        """Unit vectors of images, in RGB or files.

        Raises:
            UserError: names the file that is no image.
        """
        size, background = self.model.config.vit.image_size, self.model.background

        def pixels(chosen: np.ndarray) -> np.ndarray:
            opened = (
                image if isinstance(image, Image.Image) else open_image(image, "", background)
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
