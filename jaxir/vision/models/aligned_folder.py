"""A trained ALBEF in a folder: weights, tokenizer, maximum caption length, background.

The folder holds `config.json`, `model.safetensors` (each leaf under its path, joined by dots) and
the tokenizer's files.
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
from jaxir.models.config_files import read_object, save_json
from jaxir.models.dual_encoder import Params
from jaxir.models.hf import read_tokenizer
from jaxir.models.weights import Weights, save_tensors, set_leaf
from jaxir.runtime.files import is_remote, path_of, publish, replacing
from jaxir.vision.models.albef import abstract_params

MODEL_TYPE = "jaxir-albef"  # in config.json


@dataclass(frozen=True, eq=False)
class AlignedModel:
    """A trained ALBEF: config, parameters, tokenizer, and what its training data had in common."""

    config: AlbefModelConfig
    params: Params
    tokenizer: Any
    max_caption_tokens: int
    background: tuple[int, int, int]  # RGB, behind transparent images


def write_aligned(folder: os.PathLike, model: AlignedModel) -> None:
    """Write a model atomically, to a local folder or a bucket.

    Raises:
        UserError: it cannot be written.
    """
    target = path_of(folder)
    with tempfile.TemporaryDirectory() as temporary:
        local = Path(temporary) / target.name if is_remote(target) else Path(target).absolute()
        with replacing(local) as new:
            model.tokenizer.save_pretrained(new)
            leaves = jax.tree_util.tree_leaves_with_path(model.params)
            tensors = {
                ".".join(key.key for key in path): np.asarray(leaf, np.float32)
                for path, leaf in leaves
            }
            save_tensors(new / "model.safetensors", tensors)
            shape = {"model_type": MODEL_TYPE, "model": dataclasses.asdict(model.config)}
            limits = {
                "max_caption_tokens": model.max_caption_tokens,
                "background": model.background,
            }
            save_json(new / "config.json", shape | limits)
        if is_remote(target):
            publish(local, target, "config.json")


def is_aligned(folder: Path) -> bool:
    """True for a folder that `write_aligned` wrote."""
    path = folder / "config.json"
    try:
        return path.exists() and json.loads(path.read_text()).get("model_type") == MODEL_TYPE
    except (ValueError, AttributeError):
        return False


def aligned_model_of_run(config: AlbefConfig, params: Params, tokenizer: Any) -> AlignedModel:
    """The model that a run has trained; `config.model` has the shape of `params`."""
    captions = config.captions
    return AlignedModel(
        config.model, params, tokenizer, captions.max_caption_tokens, captions.background
    )


def read_aligned_folder(folder: Path) -> AlignedModel:
    """Read a folder that `write_aligned` wrote.

    Raises:
        UserError: the folder holds something else, or is damaged.
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
            set_leaf(params, names, weights.read(".".join(names), leaf.shape))
    return AlignedModel(config, params, read_tokenizer(folder), limit, background)
