"""A trained CLIP with its tokenizer and preprocessing, from a transformers folder.

Dimension key: B images, T texts, S side in pixels, L tokens, E projected width.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from jaxir.config import ClipConfig, ClipTextConfig
from jaxir.errors import UserError
from jaxir.models.dual_encoder import Params, l2_normalize
from jaxir.models.hf import local_folder
from jaxir.models.trained import ModelSettings, read_folder
from jaxir.retrieval.chunks import data_mesh
from jaxir.retrieval.text_encoder import TextEncoder
from jaxir.vision.models.clip import embed_images, embed_texts
from jaxir.vision.models.clip_preprocessing import Preprocessing, read_preprocessing
from jaxir.vision.models.weights import read_clip_config, read_clip_params

IMAGE_BATCH = 32  # on each device
TEXT_BATCH = 64
_VOCABULARIES = (("tokenizer.json",), ("vocab.json", "merges.txt"))


class ClipModel:
    """A CLIP on all devices of the current mesh, or of the machine.

    Args:
        config: the model's shape.
        params: its parameters.
        preprocessing: of images.
        texts: the tokenizer of the text tower, or the `TextEncoder` in its place.

    Raises:
        UserError: preprocessing, tokenizer or text encoder do not fit the model.
    """

    def __init__(
        self, config: ClipConfig, params: Params, preprocessing: Preprocessing, texts: Any
    ):
        side = config.vision.image_size
        if preprocessing.size != (side, side):
            raise UserError(
                f"preprocessor_config.json gives images of {preprocessing.size} pixels, "
                f"the model needs {side} x {side}; mend it"
            )
        if config.text is not None and len(texts) > config.text.vocab_size:
            raise UserError(
                f"the tokenizer has {len(texts):,} tokens, the model {config.text.vocab_size:,}: "
                "they do not belong together; give the model its own tokenizer"
            )
        if config.text is None and texts.width != config.projection:
            raise UserError(
                f"the text model's embeddings have {texts.width} numbers, the image model's "
                f"{config.projection}: they do not belong together; name another text model"
            )
        self.config, self.preprocessing, self.texts = config, preprocessing, texts
        self.mesh = data_mesh()
        self.params = jax.device_put(params, NamedSharding(self.mesh, PartitionSpec()))
        self._embed_images = _jit_replicated(partial(embed_images, config))
        self._embed_texts = _jit_replicated(partial(embed_texts, config))

    @property
    def width(self) -> int:
        """Length of a vector, E."""
        return self.config.projection

    def image_features(self, pixels: Float[np.ndarray, "B S S 3"]) -> Float[np.ndarray, "B E"]:
        """Unit vectors of images from `jaxir.vision.models.clip_preprocessing.preprocess`."""
        return self._in_batches(self._embed_images, pixels, IMAGE_BATCH)

    def text_features(self, texts: Sequence[str]) -> Float[np.ndarray, "T E"]:
        """Unit vectors of texts, cut to the model's maximum length."""
        if self.config.text is None:
            return np.asarray(l2_normalize(self.texts.encode_passages(texts)))
        if not texts:
            return np.empty((0, self.width), np.float32)
        limit = self.config.text.positions
        # all padded to one length, for one compilation: padding does not change a text's vector
        tokens = self.texts(list(texts), padding="max_length", truncation=True, max_length=limit)
        ids = np.asarray(tokens["input_ids"], np.int32)
        return self._in_batches(self._embed_texts, ids, TEXT_BATCH)

    def _in_batches(self, embed: Callable, rows: np.ndarray, batch_size: int) -> np.ndarray:
        """Vectors of rows, `batch_size` at a time on each device."""
        vectors = [np.empty((0, self.width), np.float32)]
        by_row = NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names))
        devices, start = self.mesh.size, 0
        while start < len(rows):
            # the last batch has the next power of two of rows a device, padded with zeros: few
            # shapes to compile
            needed = 1 << (-(-(len(rows) - start) // devices) - 1).bit_length()
            chunk = rows[start : start + min(batch_size, needed) * devices]
            padding = min(batch_size, needed) * devices - len(chunk)
            batch = np.pad(chunk, [(0, padding)] + [(0, 0)] * (rows.ndim - 1))
            with jax.set_mesh(self.mesh):
                on_devices = jax.make_array_from_callback(
                    batch.shape, by_row, lambda index, batch=batch: batch[index]
                )
                vectors.append(np.asarray(embed(self.params, on_devices))[: len(chunk)])
            start += len(chunk)
        return np.concatenate(vectors)


def _jit_replicated(function: Callable[[Params, Array], Array]) -> Callable[[Params, Array], Array]:
    """The jitted function with a replicated result, which every process can read."""
    return jax.jit(lambda params, rows: jax.reshard(function(params, rows), PartitionSpec()))


def read_clip(name: str | os.PathLike, text_model: str = "") -> ClipModel:
    """Read transformers' CLIP from a folder or the hub.

    Args:
        name: folder or hub name, with config.json, safetensors, preprocessor_config.json and the
            tokenizer's files.
        text_model: folder or hub name of a dual encoder that embeds texts in place of CLIP's text
            tower, into vectors of the same width; "": CLIP's own.

    Raises:
        UserError: names the file, field or tensor that is missing, damaged or unsupported.
    """
    folder = local_folder(name)
    inner = folder / "0_CLIPModel"  # sentence-transformers' layout
    if not (folder / "config.json").exists() and inner.is_dir():
        folder = inner
    config = read_clip_config(folder / "config.json", with_text=not text_model)
    params = read_clip_params(folder, config)
    preprocessing = read_preprocessing(folder)
    texts: Any = None
    if text_model:
        settings = ModelSettings(compute_dtype=config.compute_dtype)
        texts = TextEncoder(read_folder(text_model).adjusted(settings))
    if config.text is not None:
        texts = read_clip_tokenizer(folder, config.text)
    return ClipModel(config, params, preprocessing, texts)


def read_clip_tokenizer(folder: Path, config: ClipTextConfig) -> Any:
    """CLIP's tokenizer, from tokenizer.json or from vocab.json and merges.txt.

    Raises:
        UserError: there is none, or it does not end texts with the config's end token.
    """
    from transformers import CLIPTokenizer

    if not any(all((folder / file).exists() for file in files) for files in _VOCABULARIES):
        raise UserError(
            f"{folder}: no tokenizer; tokenizer.json or vocab.json and merges.txt are needed"
        )
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder, trust_remote_code=False)
        ids = tokenizer("a")["input_ids"]
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{folder}: no tokenizer that transformers can read ({reason})") from error
    if not (max(ids) == ids[-1] if config.highest_id_ends else config.end_id in ids):
        raise UserError(
            f"{folder}: the tokenizer does not end texts with config.json's eos_token_id; give the "
            "model its own tokenizer"
        )
    return tokenizer
