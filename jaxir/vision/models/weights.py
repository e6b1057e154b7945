"""transformers' CLIP and ViT folders: config.json and safetensors files, no code."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from jaxir.config import ClipConfig, ClipTextConfig, VitConfig
from jaxir.errors import UserError
from jaxir.models.config_files import checked_field, read_object
from jaxir.models.dual_encoder import Params
from jaxir.models.encoder import ACTIVATIONS
from jaxir.models.weights import Weights, read_leaf, set_leaf
from jaxir.vision.models.clip import abstract_params
from jaxir.vision.models.vit import VisionTransformer, patch_kernel, resized_positions

_LEAF = {"kernel": ".weight", "embedding": ".weight", "scale": ".weight", "bias": ".bias"}
# transformers' name of each module; "{}" is the number of a layer
_CLIP_LAYER = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "attention_output": "self_attn.out_proj",
    "attention_norm": "layer_norm1",
    "intermediate": "mlp.fc1",
    "output": "mlp.fc2",
    "feed_forward_norm": "layer_norm2",
}
_CLIP = {
    "vision": {
        "patch_embedding": "vision_model.embeddings.patch_embedding",
        "class_embedding": "vision_model.embeddings.class_embedding",
        "position_embedding": "vision_model.embeddings.position_embedding",
        "embedding_norm": "vision_model.pre_layrnorm",
        "final_norm": "vision_model.post_layernorm",
    }
    | {name: f"vision_model.encoder.layers.{{}}.{theirs}" for name, theirs in _CLIP_LAYER.items()},
    "text": {
        "token_embedding": "text_model.embeddings.token_embedding",
        "position_embedding": "text_model.embeddings.position_embedding",
        "final_norm": "text_model.final_layer_norm",
    }
    | {name: f"text_model.encoder.layers.{{}}.{theirs}" for name, theirs in _CLIP_LAYER.items()},
    "vision_projection": {"vision_projection": "visual_projection"},
    "text_projection": {"text_projection": "text_projection"},
}
_VIT = {
    "patch_embedding": "embeddings.patch_embeddings.projection",
    "class_embedding": "embeddings.cls_token",
    "position_embedding": "embeddings.position_embeddings",
    "final_norm": "layernorm",
} | {
    name: f"encoder.layer.{{}}.{theirs}"
    for name, theirs in {
        "query": "attention.attention.query",
        "key": "attention.attention.key",
        "value": "attention.attention.value",
        "attention_output": "attention.output.dense",
        "attention_norm": "layernorm_before",
        "intermediate": "intermediate.dense",
        "output": "output.dense",
        "feed_forward_norm": "layernorm_after",
    }.items()
}
_POSITIVE = (
    *("vocab_size", "hidden_size", "layers", "heads", "intermediate_size", "positions"),
    *("image_size", "patch_size"),
)


def _transformer(values: dict, path: Path, vision: bool, default: dict[str, Any]) -> dict[str, Any]:
    """Fields of a `VitConfig` or `ClipTextConfig`, from those of transformers."""
    names = {"hidden_size": "hidden_size", "intermediate_size": "intermediate_size"}
    names |= {"layers": "num_hidden_layers", "heads": "num_attention_heads"}
    if vision:
        names |= {"image_size": "image_size", "patch_size": "patch_size"}
    else:
        names |= {"vocab_size": "vocab_size", "positions": "max_position_embeddings"}
    shape: dict[str, Any] = {
        ours: checked_field(values, theirs, int, path, default.get(ours))
        for ours, theirs in names.items()
    }
    if not all(shape[name] for name in _POSITIVE if name in shape) or (
        shape["hidden_size"] % shape["heads"]
    ):
        raise UserError(f"{path}: impossible shape: {shape}")
    if values.get("num_channels", 3) != 3:
        raise UserError(f"{path}: num_channels = {values['num_channels']!r}: only 3 is supported")
    activation = values.get("hidden_act", default["activation"])
    if activation not in ACTIVATIONS:
        allowed = ", ".join(ACTIVATIONS)
        raise UserError(f"{path}: hidden_act = {activation!r}: must be one of {allowed}")
    epsilon = default["layer_norm_epsilon"]
    shape["layer_norm_epsilon"] = checked_field(
        values, "layer_norm_eps", (int, float), path, epsilon
    )
    return {**shape, "activation": activation}


def read_clip_config(path: Path, with_text: bool = True) -> ClipConfig:
    """CLIP's config from transformers' config.json.

    Args:
        path: of the file.
        with_text: False: leave out the text tower, which another model replaces.

    Raises:
        UserError: it is not CLIP's, or a field is missing, impossible or unsupported.
    """
    values = read_object(path)
    if values.get("model_type") != "clip":
        raise UserError(f"{path}: model_type = {values.get('model_type')!r}: must be 'clip'")
    default = vars(ClipConfig())

    def tower(name: str) -> dict:
        fields = checked_field(values, f"{name}_config", dict, path, {})
        # fields of old files' second object take precedence, as in transformers
        return fields | (values.get(f"{name}_config_dict") or {})

    vision = _transformer(tower("vision"), path, True, vars(default["vision"]) | {"patch_size": 32})
    config = ClipConfig(
        VitConfig(**vision, patch_bias=False, norm_before=True),
        None,
        checked_field(values, "projection_dim", int, path, 512),
    )
    if with_text:
        text = tower("text")
        end = checked_field(text, "eos_token_id", int, path, default["text"].end_id)
        shape = _transformer(text, path, False, vars(default["text"]))
        # OpenAI's files have a wrong end id, 2; in their vocabulary the end token has the highest
        config.text = ClipTextConfig(**shape, end_id=end, highest_id_ends=end == 2)
    return config


def read_clip_params(folder: Path, config: ClipConfig) -> Params:
    """CLIP's parameters, from one file or from shards.

    Raises:
        UserError: names the file or tensor that is missing, damaged or of another shape.
    """
    params: Params = {}
    with contextlib.ExitStack() as stack:
        weights = Weights(folder, stack)
        for path, shape in _leaves(abstract_params(config)):
            if path == ("logit_scale",):
                set_leaf(params, path, weights.read("logit_scale", ()).reshape(shape))
                continue
            set_leaf(params, path, _read(weights, path, _CLIP[path[0]][path[-2]], shape))
    return params


def _leaves(shapes: Params) -> Iterator[tuple[tuple[str, ...], tuple[int, ...]]]:
    for keys, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        yield tuple(key.key for key in keys), leaf.shape


def _read(weights: Weights, path: tuple[str, ...], name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A leaf of an image or text tower; three modules' tensors differ in shape from the leaf."""
    module = path[-2]
    if name in (_VIT["class_embedding"], _VIT["position_embedding"]):
        return weights.read(name, (1, *shape))[0]
    if module == "class_embedding":
        return weights.read(name, shape[1:])[None]
    if path[-2:] == ("patch_embedding", "kernel"):
        size = round((shape[0] // 3) ** 0.5)
        return patch_kernel(weights.read(f"{name}.weight", (shape[1], 3, size, size)))
    return read_leaf(weights, path, name + _LEAF[path[-1]], shape)


def read_vit(folder: Path, image_size: int = 0) -> tuple[VitConfig, Params]:
    """Config and parameters of transformers' ViT or DeiT (without distillation token).

    Args:
        folder: with config.json and safetensors.
        image_size: to which the position table is resized; 0: the model's own.

    Raises:
        UserError: names the file, field or tensor that is missing, damaged or unsupported.
    """
    path = folder / "config.json"
    values = read_object(path)
    if values.get("model_type") != "vit":
        raise UserError(f"{path}: model_type = {values.get('model_type')!r}: must be 'vit'")
    if values.get("qkv_bias", True) is not True:
        raise UserError(f"{path}: qkv_bias = {values['qkv_bias']!r}: only true is supported")
    config = VitConfig(
        **_transformer(values, path, True, vars(VitConfig()) | {"layer_norm_epsilon": 1e-12})
    )
    params: Params = {}
    with contextlib.ExitStack() as stack:
        weights = Weights(folder, stack)
        prefixes = ("vit.", "")
        first = _VIT["class_embedding"]
        weights.prefix = next((p for p in prefixes if p + first in weights.files), "")
        for leaf, shape in _leaves(_vit_shapes(config)):
            set_leaf(params, leaf, _read(weights, leaf, _VIT[leaf[-2]], shape))
    if image_size:
        resized = VitConfig(**vars(config) | {"image_size": image_size})
        table = params["position_embedding"]
        table["embedding"] = resized_positions(table["embedding"], config.side, resized.side)
        config = resized
    return config, params


def _vit_shapes(config: VitConfig) -> Params:
    def make() -> VisionTransformer:
        return VisionTransformer(config, np.dtype("float32"), nnx.Rngs(0))

    return nnx.to_pure_dict(nnx.state(nnx.eval_shape(make)))
