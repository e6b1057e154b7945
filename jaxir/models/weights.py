"""safetensors files, to and from jaxir's parameters; pickles, which can run code, are refused.

Dimension key: N layers.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxir.config import DualEncoderConfig
from jaxir.errors import UserError
from jaxir.models.config_files import checked_field, read_object
from jaxir.models.dual_encoder import Params, abstract_params

# transformers' name of each module, in the encoder and in a layer
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

_CONVERT = (
    'convert pickled weights first: python -c "from transformers import AutoModel; '
    "AutoModel.from_pretrained('NAME').save_pretrained('FOLDER', safe_serialization=True)\""
)


class Weights:
    """Tensors of a safetensors file, or of the files that an index names, read one at a time.

    Args:
        folder: with model.safetensors or model.safetensors.index.json.
        stack: closes the files.
        prefixes: that the tensors' names may have; the one in use is found by the token embedding.

    Raises:
        UserError: a file is missing or damaged.
    """

    def __init__(
        self, folder: Path, stack: contextlib.ExitStack, prefixes: tuple[str, ...] = ("",)
    ):
        single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
        self.path = single if single.exists() else index
        if not self.path.exists():
            pickled = (folder / "pytorch_model.bin").exists()
            refused = (
                ", and pytorch_model.bin is refused since pickles can run code" if pickled else ""
            )
            raise UserError(f"{folder}: no model.safetensors{refused}; {_CONVERT}")
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
        """The tensor's file and its name there; checks type and shape without reading the tensor.

        Raises:
            UserError: there is no such tensor, or its type or shape is another.
        """
        full = self.prefix + name
        if full not in self.files:
            stem, _, leaf = full.rpartition(".")
            full = f"{stem}.{_OLD_LEAF.get(leaf)}"
        if full not in self.files:
            raise UserError(f"{self.path}: no tensor {self.prefix + name}")
        tensor = self.files[full].get_slice(full)
        if tuple(tensor.get_shape()) != shape or tensor.get_dtype() not in ("F32", "F16", "BF16"):
            raise UserError(
                f"{self.path}: {full} is {tensor.get_dtype()} {tensor.get_shape()}, "
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
    """Leaves of `encoder`: path, transformers' name ("{}" for the layer's number), shape."""
    layer = _XL_LAYER if config.encoder.architecture == "xlm-roberta-xl" else _LAYER
    shapes = abstract_params(config)["encoder"]
    for keys, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        path = tuple(key.key for key in keys)
        module, name = path[-2:]
        stem = f"encoder.layer.{{}}.{layer[module]}" if path[0] == "layers" else _TOP[module]
        yield path, f"{stem}.{_LEAF[name]}", leaf.shape


def set_leaf(params: Params, path: tuple[str, ...], value: np.ndarray) -> None:
    """Set a leaf of nested dicts; missing dicts are made."""
    for name in path[:-1]:
        params = params.setdefault(name, {})
    params[path[-1]] = value


def read_leaf(
    weights: Weights, path: tuple[str, ...], name: str, shape: tuple[int, ...]
) -> np.ndarray:
    """A leaf of the parameters, from a tensor, or from each layer's stacked along the axis N.

    Args:
        weights: the tensors.
        path: of the leaf.
        name: of the tensor; "{}" in it stands for the layer's number.
        shape: of the leaf.

    Raises:
        UserError: a tensor is missing, damaged or of another shape.
    """
    is_stacked = "{}" in name
    tensor_shape = shape[1:] if is_stacked else shape
    # a kernel is [in, out], PyTorch's weight [out, in]
    is_kernel = path[-1] == "kernel"
    tensor_shape = tensor_shape[::-1] if is_kernel else tensor_shape

    def read(name: str) -> np.ndarray:
        tensor = weights.read(name, tensor_shape)
        return tensor.T if is_kernel else tensor

    if not is_stacked:
        return np.ascontiguousarray(read(name))
    names = [name.format(i) for i in range(shape[0])]
    # all layers' shapes are checked before memory for them is allocated
    for layer_name in names:
        weights.check(layer_name, tensor_shape)
    leaf = np.empty(shape, np.float32)
    for i, layer_name in enumerate(names):
        leaf[i] = read(layer_name)
    return leaf


def read_encoder(folder: Path, config: DualEncoderConfig) -> Params:
    """The parameters of the encoder, from one file or from shards, without poolers and heads.

    Raises:
        UserError: names the file or tensor that is missing, damaged or of another shape.
    """
    params: Params = {}
    with contextlib.ExitStack() as stack:
        weights = Weights(folder, stack, ("", "roberta.", "bert."))
        layer = next((name for name in weights.files if "layer.0." in name), None)
        if layer and not config.encoder.layers:
            # every tensor of a config without layers is there: it would load and embed badly
            raise UserError(f"{weights.path}: {layer}, but num_hidden_layers = 0 in config.json")
        for path, name, shape in _leaves(config):
            set_leaf(params, path, read_leaf(weights, path, name, shape))
    return params


def encoder_tensors(config: DualEncoderConfig, params: Params) -> dict[str, np.ndarray]:
    """The encoder's tensors by transformers' names."""
    tensors = {}
    for path, name, _ in _leaves(config):
        value: Any = params["encoder"]
        for key in path:
            value = value[key]
        value = np.asarray(value, np.float32)
        for i, tensor in enumerate(value if path[0] == "layers" else [value]):
            tensors[name.format(i)] = tensor.T if path[-1] == "kernel" else tensor
    return tensors


def save_tensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Write a safetensors file in transformers' format.

    Raises:
        OSError: it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    # unlike `ascontiguousarray` this keeps a scalar's shape ()
    contiguous = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    try:
        save_file(contiguous, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"{path}: {error}") from error
