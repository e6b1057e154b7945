"""ALBEF's initial weights, from transformers folders of a text encoder and of a ViT."""

import contextlib
import dataclasses
from pathlib import Path

import jax
from jaxtyping import PRNGKeyArray

from jaxir.config import AlbefModelConfig, DualEncoderConfig
from jaxir.models.config_files import read_encoder_config
from jaxir.models.dual_encoder import Params
from jaxir.models.hf import local_folder
from jaxir.models.weights import Weights, read_encoder, read_leaf, set_leaf
from jaxir.vision.models.albef import init_params
from jaxir.vision.models.weights import read_vit

# transformers' names of the head for masked tokens: dense layer, LayerNorm, bias
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
    """The config with the shapes of `init_text` and `init_vision`, and initial parameters.

    The first `text_layers` layers of `init_text` go to the text encoder, the rest to the fusion
    layers. Cross-attention and projections stay random, and so does the head for masked tokens if
    the folder has none. The position table of the image encoder is resized to the config's image
    size.

    Args:
        config: names the folders; "" for random weights.
        key: of the random weights.

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
        _set_text_layers(config, params, text)
        _read_head(Path(folder), config, params)
    return config, params


def _set_text_layers(config: AlbefModelConfig, params: Params, text: Params) -> None:
    """Split an encoder's layers between the text encoder and the fusion layers."""
    split, fusion = config.text_layers, params["fusion"]["layers"]
    layers = text.pop("layers")
    text["layers"] = jax.tree.map(lambda leaf: leaf[:split], layers)
    params["text_encoder"] = text
    # `|` keeps the fusion layers' cross-attention, which the encoder does not have
    params["fusion"] = {"layers": fusion | jax.tree.map(lambda leaf: leaf[split:], layers)}


def _read_head(folder: Path, config: AlbefModelConfig, params: Params) -> None:
    """Set the head for masked tokens, if the folder has one."""
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
            set_leaf(head, path, read_leaf(weights, path, name, head[path[0]][path[1]].shape))
        head["bias"] = read_leaf(weights, ("bias",), bias, head["bias"].shape)
