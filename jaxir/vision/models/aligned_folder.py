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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dacite
import jax
import numpy as np

from jaxir.config import AlbefConfig, AlbefModelConfig
from jaxir.errors import UserError
from jaxir.models.hf import read_tokenizer
from jaxir.models.weights import Weights, put, read_object, save_json, save_tensors
from jaxir.runtime.files import is_remote, path_of, publish, replacing
from jaxir.vision.models.albef import Params, abstract_params

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


def of_run(config: AlbefConfig, params: Params, tokenizer: Any) -> AlignedModel:
    """What a run has trained; its config has the model's true shape."""
    captions = config.captions
    return AlignedModel(
        config.model, params, tokenizer, captions.max_caption_tokens, captions.background
    )


def read_folder(folder: Path) -> AlignedModel:
    """Read what `write_aligned` wrote.

    Raises:
        UserError: it holds something else, or is damaged.
    """
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
