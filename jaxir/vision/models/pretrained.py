"""Weights that ALBEF starts from: transformers folders of a text encoder and of a ViT.

N layers.
"""

import contextlib
import dataclasses
from pathlib import Path

import jax
from jaxtyping import PRNGKeyArray

from jaxir.config import AlbefModelConfig, DualEncoderConfig
from jaxir.models.dual_encoder import Params
from jaxir.models.hf import local_folder
from jaxir.models.weights import Weights, put, read_encoder, read_encoder_config, read_leaf
from jaxir.vision.models.albef import init_params
from jaxir.vision.models.weights import read_vit

# where transformers keeps the head that predicts masked tokens: dense, LayerNorm, bias
_HEADS = {
    "bert": (
        "cls.predictions.transform.dense",
        "cls.predictions.transform.LayerNorm",
        "cls.predictions.bias",
    ),
    "xlm-roberta": ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias"),
}


def params_from_folders(
    config: AlbefModelConfig, key: PRNGKeyArray
) -> tuple[AlbefModelConfig, Params]:
    """The config with the shapes of `init_text` and `init_vision`, and parameters of that shape.

    The text encoder gets the first `text_layers` layers and the fusion layers the rest. Random stay
    cross-attention, projections, and the head for masked tokens where the folder has none. The
    position table of the image side is resized to the config's image size.

    Raises:
        UserError: names the file, field or tensor that is missing, damaged or unsupported.
    """
    text = vision = None
    if config.init_text:
        folder = local_folder(config.init_text)
        shape = read_encoder_config(folder / "config.json")
        config = dataclasses.replace(config, text=shape)
        text = read_encoder(folder, DualEncoderConfig(encoder=shape))
    if config.init_vision:
        vit, vision = read_vit(local_folder(config.init_vision), config.vit.image_size)
        vit.dropout, vit.attention_dropout = config.vit.dropout, config.vit.attention_dropout
        config = dataclasses.replace(config, vit=vit)
    params = init_params(config, key)
    if vision is not None:
        params["image_encoder"] = vision
    if text is not None:
        _place_text(config, params, text)
        _read_head(Path(folder), config, params)
    return config, params


def _place_text(config: AlbefModelConfig, params: Params, text: Params) -> None:
    """Share an encoder's layers out between the text encoder and the fusion layers."""
    first, fused = config.text_layers, params["fusion"]["layers"]
    layers = text.pop("layers")
    text["layers"] = jax.tree.map(lambda leaf: leaf[:first], layers)
    params["text_encoder"] = text
    params["fusion"] = {"layers": fused | jax.tree.map(lambda leaf: leaf[first:], layers)}


def _read_head(folder: Path, config: AlbefModelConfig, params: Params) -> None:
    """The head for masked tokens, if the folder has one."""
    dense, norm, bias = _HEADS[config.text.architecture]
    head = params["masked_token_head"]
    with contextlib.ExitStack() as stack:
        weights = Weights(folder, stack)
        if bias not in weights.files:
            return
        weights.prefix = ""
        for path, name in (
            (("dense", "kernel"), f"{dense}.weight"),
            (("dense", "bias"), f"{dense}.bias"),
            (("norm", "scale"), f"{norm}.weight"),
            (("norm", "bias"), f"{norm}.bias"),
        ):
            put(head, path, read_leaf(weights, path, name, head[path[0]][path[1]].shape))
        head["bias"] = read_leaf(weights, ("bias",), bias, head["bias"].shape)
