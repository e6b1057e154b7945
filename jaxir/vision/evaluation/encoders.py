"""ALBEF's compiled encoders, and embeddings of images and captions by them, batch by batch.

Dimension key: I images, T captions, M pairs of them, B rows of a batch, S image side, L tokens,
P patches, D hidden width, E projected width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxir.config import AlbefModelConfig
from jaxir.data.tokens import Tokens
from jaxir.models.dual_encoder import matmul_precision
from jaxir.retrieval.encoding import encode, resolve_batch_tokens, rows_to_devices
from jaxir.runtime.mesh import gather, on_each_device
from jaxir.vision.models import albef

IMAGES_PER_DEVICE = 64
PAIRS_PER_DEVICE = 256


@dataclass(frozen=True)
class AlbefEncoders:
    """Jitted functions of a model's parameters, to be made once and kept."""

    text: Callable[[Any, Array, Array], Array]  # (params, ids "B L", lengths "B") -> "B E"
    image: Callable[[Any, Array], tuple[Array, Array]]  # (params, pixels) -> "B E", "B P D"
    match: Callable[[Any, Array, Array, Array], Array]  # (params, states, ids, lengths) -> "B"


def make_encoders(config: AlbefModelConfig) -> AlbefEncoders:
    """Jit the encoders of a model's shape; each returns whole arrays to every process."""

    @jax.jit
    def text(params: Any, ids: Array, lengths: Array) -> Array:
        return gather(albef.text_features(config, params, ids, lengths))

    def encode_images(params: Any, pixels: Array, _: None) -> tuple[Array, Array]:
        model = albef.module(config, params)
        states = model.image_states(pixels, None)
        return model.image_features(states), states

    @jax.jit
    def image(params: Any, pixels: Array) -> tuple[Array, Array]:
        with matmul_precision(config.compute_dtype):
            vectors, states = on_each_device(encode_images, params, pixels)
        return gather(vectors), gather(states.astype(jnp.float32))

    @jax.jit
    def match(params: Any, states: Array, ids: Array, lengths: Array) -> Array:
        return gather(albef.match_scores(config, params, states, ids, lengths))

    return AlbefEncoders(text, image, match)


def encode_pixels(
    encoders: AlbefEncoders,
    params: Any,
    read: Callable[[Int[np.ndarray, "B"]], np.ndarray],
    count: int,
) -> tuple[Float[np.ndarray, "I E"], Float[np.ndarray, "I P D"]]:
    """Unit vectors and states of images.

    Args:
        encoders: of the model's shape.
        params: of the model.
        read: gives the pixels "B S S 3" of images by their index.
        count: of the images.
    """
    vectors, states = [], []
    for batch in _batches(count, IMAGES_PER_DEVICE):
        pixels = _to_devices(read(batch), IMAGES_PER_DEVICE)
        batch_vectors, batch_states = jax.device_get(encoders.image(params, pixels))
        vectors.append(batch_vectors[: len(batch)])
        states.append(batch_states[: len(batch)])
    return np.concatenate(vectors), np.concatenate(states)


def encode_captions(
    encoders: AlbefEncoders, params: Any, tokens: Tokens, texts: Int[np.ndarray, "T"], limit: int
) -> Float[np.ndarray, "T E"]:
    """Unit vectors of texts, cut to `limit` tokens."""
    return encode(encoders.text, params, tokens, texts, limit, resolve_batch_tokens(0))


def match_pairs(
    encoders: AlbefEncoders,
    params: Any,
    states: Float[np.ndarray, "I P D"],
    images: Int[np.ndarray, "M"],
    tokens: Tokens,
    texts: Int[np.ndarray, "M"],
    limit: int,
) -> Float[np.ndarray, "M"]:
    """ITM's log-odds that the image and the caption of a pair belong together.

    Args:
        encoders: of the model's shape.
        params: of the model.
        states: of the images.
        images: index of each pair's image among the states.
        tokens: of the captions.
        texts: index of each pair's caption among the tokens.
        limit: of a caption's tokens.
    """
    scores = []
    for batch in _batches(len(images), PAIRS_PER_DEVICE):
        arrays = (states[images[batch]], *tokens.padded(texts[batch], limit))
        placed = (_to_devices(array, PAIRS_PER_DEVICE) for array in arrays)
        scores.append(jax.device_get(encoders.match(params, *placed))[: len(batch)])
    return np.concatenate(scores)


def _batches(count: int, per_device: int) -> list[Int[np.ndarray, "B"]]:
    size = per_device * _devices()
    return [np.arange(start, min(start + size, count)) for start in range(0, count, size)]


def _to_devices(array: np.ndarray, per_device: int) -> Array:
    """Send rows to the devices, padded with copies of the first to a full batch: one shape."""
    missing = per_device * _devices() - len(array)
    return rows_to_devices(np.concatenate([array, np.repeat(array[:1], missing, axis=0)]))


def _devices() -> int:
    mesh = jax.sharding.get_mesh()
    return 1 if mesh.empty else mesh.size
