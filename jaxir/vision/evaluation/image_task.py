"""Images and captions that a model is measured by, and its figures on them.

Dimension key: I images, T captions, M pairs of them, S image side, L tokens, P patches, D hidden
width, E projected width.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxir.config import AlbefConfig, AlbefModelConfig
from jaxir.data.tokens import Tokens
from jaxir.models.dual_encoder import matmul_precision
from jaxir.retrieval.encoding import encode, rows_to_devices, tokens_at_once
from jaxir.runtime.mesh import gather, on_each_device
from jaxir.vision.data.captions import CaptionSet
from jaxir.vision.data.pipeline import pixels_of
from jaxir.vision.evaluation.pool import Pool, pool_of
from jaxir.vision.evaluation.retrieval import ImageTextReport, measure_retrieval
from jaxir.vision.models import albef

IMAGES_AT_ONCE = 64  # on a device
PAIRS_AT_ONCE = 256  # on a device


@dataclass(frozen=True, eq=False)
class ImageTask:
    """Images, their captions, each once, and what they depict."""

    captions: CaptionSet
    tokens: Tokens  # of the set's texts
    images: Int[np.ndarray, "I"]  # indexes of the set's images
    texts: Int[np.ndarray, "T"]  # indexes of the set's texts
    pool: Pool

    def first(self, images: int) -> "ImageTask":
        """Always the same images, evenly taken, with all captions; 0: all of them."""
        if not 0 < images < len(self.images):
            return self
        chosen = np.linspace(0, len(self.images) - 1, images).round().astype(np.int64)
        pool = replace(self.pool, image_group=self.pool.image_group[chosen])
        return replace(self, images=self.images[chosen], pool=pool)


def image_task(captions: CaptionSet, tokens: Tokens) -> ImageTask:
    """The task of a captioned image set: each image and each caption of what it depicts once."""
    pool, images, texts = pool_of(captions)
    return ImageTask(captions, tokens, images, texts, pool)


@dataclass(frozen=True)
class Programs:
    """Jitted functions of a model's parameters, to be made once and kept."""

    config: AlbefModelConfig
    text: Callable[[Any, Array, Array], Array]  # (params, ids "B L", lengths "B") -> "B E"
    image: Callable[[Any, Array], tuple[Array, Array]]  # (params, pixels) -> "B E", "B P D"
    match: Callable[[Any, Array, Array, Array], Array]  # (params, states, ids, lengths) -> "B"


def make_programs(config: AlbefModelConfig) -> Programs:
    """Of a model of that shape; each gives whole arrays to every process."""

    @jax.jit
    def text(params: Any, ids: Array, lengths: Array) -> Array:
        return gather(albef.text_features(config, params, ids, lengths))

    def see(params: Any, pixels: Array, _: None) -> tuple[Array, Array]:
        model = albef.module(config, params)
        states = model.image_states(pixels, None)
        return model.image_features(states), states

    @jax.jit
    def image(params: Any, pixels: Array) -> tuple[Array, Array]:
        with matmul_precision(config.compute_dtype):
            vectors, states = on_each_device(see, params, pixels)
        return gather(vectors), gather(states.astype(jnp.float32))

    @jax.jit
    def match(params: Any, states: Array, ids: Array, lengths: Array) -> Array:
        return gather(albef.match_scores(config, params, states, ids, lengths))

    return Programs(config, text, image, match)


@dataclass(frozen=True, eq=False)
class Encoded:
    """A model's view of a task."""

    images: Float[np.ndarray, "I E"]  # unit vectors
    states: Float[np.ndarray, "I P D"]  # of the images, that captions are matched with
    captions: Float[np.ndarray, "T E"]  # unit vectors


def encode_task(programs: Programs, params: Any, task: ImageTask, config: AlbefConfig) -> Encoded:
    """Encode each image and each caption of a task once."""

    def pixels(chosen: Int[np.ndarray, "B"]) -> np.ndarray:
        return pixels_of(task.captions, task.images[chosen].tolist(), config.captions)

    vectors, states = encode_pixels(programs, params, pixels, len(task.images))
    limit = config.captions.max_caption_tokens
    captions = encode_captions(programs, params, task.tokens, task.texts, limit)
    return Encoded(vectors, states, captions)


def encode_pixels(
    programs: Programs, params: Any, pixels: Callable[[np.ndarray], np.ndarray], count: int
) -> tuple[Float[np.ndarray, "I E"], Float[np.ndarray, "I P D"]]:
    """Unit vectors and states of `count` images, whose pixels are asked for some at a time."""
    vectors, states = [], []
    for chosen in _parts(count, IMAGES_AT_ONCE):
        found = jax.device_get(programs.image(params, _padded(pixels(chosen), IMAGES_AT_ONCE)))
        vectors.append(found[0][: len(chosen)])
        states.append(found[1][: len(chosen)])
    return np.concatenate(vectors), np.concatenate(states)


def encode_captions(
    programs: Programs, params: Any, tokens: Tokens, texts: Int[np.ndarray, "T"], limit: int
) -> Float[np.ndarray, "T E"]:
    """Unit vectors of texts, cut to `limit` tokens."""
    return encode(programs.text, params, tokens, texts, limit, tokens_at_once(0))


def measure_task(
    programs: Programs,
    params: Any,
    task: ImageTask,
    encoded: Encoded,
    config: AlbefConfig,
    candidates: int = 0,
) -> ImageTextReport:
    """Both directions ranked by ITC, the first `candidates` re-scored by ITM; 0: none."""
    limit = config.captions.max_caption_tokens
    match = partial(_match, programs, params, encoded.states, task, limit) if candidates else None
    return measure_retrieval(encoded.images, encoded.captions, task.pool, match, candidates)


def _match(
    programs: Programs,
    params: Any,
    states: Float[np.ndarray, "I P D"],
    task: ImageTask,
    limit: int,
    images: Int[np.ndarray, "M"],
    captions: Int[np.ndarray, "M"],
) -> Float[np.ndarray, "M"]:
    scores = []
    for chosen in _parts(len(images), PAIRS_AT_ONCE):
        ids, lengths = task.tokens.padded(task.texts[captions[chosen]], limit)
        arrays = (states[images[chosen]], ids, lengths)
        placed = (_padded(array, PAIRS_AT_ONCE) for array in arrays)
        scores.append(jax.device_get(programs.match(params, *placed))[: len(ids)])
    return np.concatenate(scores)


def _parts(count: int, a_device: int) -> list[np.ndarray]:
    size = a_device * _devices()
    return [np.arange(start, min(start + size, count)) for start in range(0, count, size)]


def _padded(array: np.ndarray, a_device: int) -> Array:
    """On the devices, filled up with copies of the first row, so that there is one shape."""
    missing = a_device * _devices() - len(array)
    return rows_to_devices(np.concatenate([array, np.repeat(array[:1], missing, axis=0)]))


def _devices() -> int:
    mesh = jax.sharding.get_mesh()
    return 1 if mesh.empty else mesh.size
