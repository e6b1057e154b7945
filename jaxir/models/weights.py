"""transformers' `config.json` and safetensors files, to and from our config and parameters.

Only JSON and safetensors are read, within bounds: no pickle, nothing that runs. N layers.
"""

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxir.config import ARCHITECTURES, DualEncoderConfig, EncoderConfig
from jaxir.errors import UserError
from jaxir.models.dual_encoder import Params, abstract_params

# Where transformers keeps each module of ours, in `encoder` and in one of its layers.
_TOP = {
    "token_embedding": "embeddings.word_embeddings",
    "position_embedding": "embeddings.position_embeddings",
    "token_type_embedding": "embeddings.token_type_embeddings",
    "embedding_norm": "embeddings.LayerNorm",
    "final_norm": "encoder.LayerNorm",
}
_LAYER = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
    "feed_forward_norm": "output.LayerNorm",
}
_XL_LAYER = _LAYER | {
    "attention_norm": "attention.self_attn_layer_norm",
    "feed_forward_norm": "LayerNorm",
}
_LEAF = {"kernel": "weight", "embedding": "weight", "scale": "weight", "bias": "bias"}
_OLD_LEAF = {"weight": "gamma", "bias": "beta"}  # LayerNorm in weights that came from TensorFlow

_JSON_LIMIT = 1 << 24  # bytes; the index of a sharded model is the largest, about 100 KB
_CONVERT = (
    'convert pickled weights first: python -c "from transformers import AutoModel; '
    "AutoModel.from_pretrained('NAME').save_pretrained('FOLDER', safe_serialization=True)\""
)


def read_json(path: Path) -> Any:
    """The value that a JSON file of bounded size holds.

    Raises:
        UserError: there is no such file, or it is not JSON.
    """
    try:
        if path.stat().st_size > _JSON_LIMIT:
            raise UserError(
                f"{path}: larger than {_JSON_LIMIT} bytes, so not the file it should be"
            )
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; is the folder complete?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from error


def read_object(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds; raises as `read_json` does."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path}: must hold a JSON object")
    return value


def checked_field(
    values: dict, name: str, kinds: type | tuple, path: Path, default: Any = None
) -> Any:
    """The field, checked for its type; numbers also for being finite and not negative."""
    value = values.get(name, default)
    good = isinstance(value, kinds) and (isinstance(value, bool) <= (kinds is bool))
    if good and isinstance(value, int | float):
        good = math.isfinite(value) and 0 <= value < 1 << 24
    if not good:
        raise UserError(f"{path}: {name} = {value!r}: missing or impossible")
    return value


def read_encoder_config(path: Path) -> EncoderConfig:
    """Translate transformers' config.json."""
    values = read_object(path)
    architecture = values.get("model_type")
    if architecture not in ARCHITECTURES:
        names = ", ".join(ARCHITECTURES)
        raise UserError(f"{path}: model_type = {architecture!r}: must be one of {names}")
    for name, only in {"hidden_act": "gelu", "position_embedding_type": "absolute"}.items():
        if values.get(name, only) != only:
            raise UserError(f"{path}: {name} = {values[name]!r}: only {only!r} is supported")
    integers = {
        ours: checked_field(values, theirs, int, path, default)
        for ours, theirs, default in (
            ("vocab_size", "vocab_size", None),
            ("hidden_size", "hidden_size", None),
            ("layers", "num_hidden_layers", None),
            ("heads", "num_attention_heads", None),
            ("intermediate_size", "intermediate_size", None),
            ("positions", "max_position_embeddings", None),
            ("token_types", "type_vocab_size", 2),
        )
    }
    positive = all(number for name, number in integers.items() if name != "layers")
    if not positive or integers["hidden_size"] % integers["heads"]:
        raise UserError(f"{path}: impossible shape: {integers}")
    number = (int, float)
    return EncoderConfig(
        architecture=architecture,
        **integers,
        pad_id=checked_field(values, "pad_token_id", int, path, 0 if architecture == "bert" else 1),
        layer_norm_epsilon=checked_field(values, "layer_norm_eps", number, path, 1e-12),
        dropout=checked_field(values, "hidden_dropout_prob", number, path, 0.1),
        attention_dropout=checked_field(values, "attention_probs_dropout_prob", number, path, 0.1),
    )


class Weights:
    """Tensors of one safetensors file, or of the files that an index names; read when asked for."""

    def __init__(
        self, folder: Path, stack: contextlib.ExitStack, prefixes: tuple[str, ...] = ("",)
    ):
        single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
        self.path = single if single.exists() else index
        if not self.path.exists():
            pickled = (folder / "pytorch_model.bin").exists()
            instead = (
                ", and pytorch_model.bin is refused since pickles can run code" if pickled else ""
            )
            raise UserError(f"{folder}: no model.safetensors{instead}; {_CONVERT}")
        names = {single.name}
        if self.path == index:
            shards = checked_field(read_object(index), "weight_map", dict, index)
            names = {str(name) for name in shards.values()}
        self.files = {}
        for name in sorted(names):
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise UserError(f"{index}: {name!r} is not a safetensors file of this folder")
            file = stack.enter_context(_open(folder / name))
            self.files.update(dict.fromkeys(file.keys(), file))
        self.prefix = next(
            (p for p in prefixes if f"{p}embeddings.word_embeddings.weight" in self.files), ""
        )

    def check(self, name: str, shape: tuple[int, ...]) -> tuple[Any, str]:
        """The file with the tensor and its name there; its type and shape are checked unread."""
        full = self.prefix + name
        if full not in self.files:
            stem, _, leaf = full.rpartition(".")
            full = f"{stem}.{_OLD_LEAF.get(leaf)}"
        if full not in self.files:
            raise UserError(f"{self.path}: no tensor {self.prefix + name}")
        found = self.files[full].get_slice(full)
        if tuple(found.get_shape()) != shape or found.get_dtype() not in ("F32", "F16", "BF16"):
            raise UserError(
                f"{self.path}: {full} is {found.get_dtype()} {found.get_shape()}, "
                f"not floats of shape {list(shape)} as its config says"
            )
        return self.files[full], full

    def read(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """The tensor in float32."""
        file, full = self.check(name, shape)
        return np.asarray(file.get_tensor(full), np.float32)


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            yield file
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; is the folder complete?") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a whole safetensors file ({error})") from error


def _leaves(config: DualEncoderConfig) -> Iterator[tuple[tuple[str, ...], str, tuple[int, ...]]]:
    """For each leaf of `encoder`: its path, transformers' name ("{}" for the layer), its shape."""
    layer = _XL_LAYER if config.encoder.architecture == "xlm-roberta-xl" else _LAYER
    shapes = abstract_params(config)["encoder"]
    for keys, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        path = tuple(key.key for key in keys)
        module, name = path[-2:]
        stem = f"encoder.layer.{{}}.{layer[module]}" if path[0] == "layers" else _TOP[module]
        yield path, f"{stem}.{_LEAF[name]}", leaf.shape


def put(params: Params, path: tuple[str, ...], value: np.ndarray) -> None:
    """Set a leaf of nested dicts, which are made where they are missing."""
    for name in path[:-1]:
        params = params.setdefault(name, {})
    params[path[-1]] = value


def read_leaf(
    weights: Weights, path: tuple[str, ...], name: str, shape: tuple[int, ...]
) -> np.ndarray:
    """One leaf of ours, from a tensor, or from those of all layers where "{}" stands for a number.

    Args:
        weights: where the tensors are.
        path: of the leaf; kernels are stored transposed.
        name: of the tensor.
        shape: of the leaf.
    """
    stacked = "{}" in name
    stored = shape[1:] if stacked else shape
    stored = stored[::-1] if path[-1] == "kernel" else stored

    def turned(tensor: np.ndarray) -> np.ndarray:
        return tensor.T if path[-1] == "kernel" else tensor

    if not stacked:
        return np.ascontiguousarray(turned(weights.read(name, stored)))
    names = [name.format(i) for i in range(shape[0]) if weights.check(name.format(i), stored)]
    leaf = np.empty(shape, np.float32)
    for i, one in enumerate(names):
        leaf[i] = turned(weights.read(one, stored))
    return leaf


def read_encoder(folder: Path, config: DualEncoderConfig) -> Params:
    """The parameters of the encoder, from one file or from shards; poolers and heads are left out.

    Raises:
        UserError: names the file or tensor that is missing, damaged or of another shape.
    """
    params: Params = {}
    with contextlib.ExitStack() as stack:
        weights = Weights(folder, stack, ("", "roberta.", "bert."))
        layer = next((name for name in weights.files if "layer.0." in name), None)
        if layer and not config.encoder.layers:  # a model that would answer without them
            raise UserError(f"{weights.path}: {layer}, but num_hidden_layers = 0 in config.json")
        for path, name, shape in _leaves(config):
            put(params, path, read_leaf(weights, path, name, shape))
    return params


def config_json(config: EncoderConfig, tokenizer) -> dict[str, Any]:
    """What transformers' config.json says of such an encoder."""
    architectures = {
        "xlm-roberta": "XLMRobertaModel",
        "xlm-roberta-xl": "XLMRobertaXLModel",
        "bert": "BertModel",
    }
    return {
        "architectures": [architectures[config.architecture]],
        "model_type": config.architecture,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.intermediate_size,
        "hidden_act": "gelu",
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "max_position_embeddings": config.positions,
        "type_vocab_size": config.token_types,
        "layer_norm_eps": config.layer_norm_epsilon,
        "pad_token_id": config.pad_id,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "dtype": "float32",
    }


def encoder_tensors(config: DualEncoderConfig, params: Params) -> dict[str, np.ndarray]:
    """The encoder under transformers' names."""
    tensors = {}
    for path, name, _ in _leaves(config):
        value: Any = params["encoder"]
        for key in path:
            value = value[key]
        value = np.asarray(value, np.float32)
        for i, tensor in enumerate(value if path[0] == "layers" else [value]):
            tensors[name.format(i)] = tensor.T if path[-1] == "kernel" else tensor
    return tensors


def save_json(path: Path, value: Any) -> None:
    """Write a JSON file, and its folder if need be."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def save_tensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Write a safetensors file that transformers reads.

    Raises:
        OSError: it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    # unlike `ascontiguousarray` this leaves a single number without an axis
    whole = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    try:
        save_file(whole, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"{path}: {error}") from error
