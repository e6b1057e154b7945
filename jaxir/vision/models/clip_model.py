"""A CLIP model that is ready for use, from a folder of transformers.

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
from jaxir.models.trained import read_folder
from jaxir.retrieval.text_encoder import TextEncoder
from jaxir.retrieval.topk import data_mesh
from jaxir.vision.models.clip import embed_images, embed_texts
from jaxir.vision.models.clip_preprocessing import Preprocessing, read_preprocessing
from jaxir.vision.models.weights import read_clip_config, read_clip_params

IMAGES_AT_ONCE = 32  # on a device
TEXTS_AT_ONCE = 64
_VOCABULARIES = (("tokenizer.json",), ("vocab.json", "merges.txt"))


class ClipModel:
    """Both sides of a CLIP, on all devices of the mesh that is set, or of the machine.

    Args:
        config: its shape.
        params: its parameters.
        preprocessing: of images.
        texts: the tokenizer of its own text side, or the encoder that stands in for that side.

    Raises:
        UserError: the tokenizer or the encoder does not belong to the model.
    """

    def __init__(
        self, config: ClipConfig, params: Params, preprocessing: Preprocessing, texts: Any
    ):
        side = config.vision.image_size
        if preprocessing.size != (side, side):
            raise UserError(
                f"images are prepared to {preprocessing.size} pixels, "
                f"the model sees {side} x {side}"
            )
        if config.text is not None and len(texts) > config.text.vocab_size:
            raise UserError(
                f"the tokenizer has {len(texts):,} tokens, the model {config.text.vocab_size:,}: "
                "they do not belong together"
            )
        if config.text is None and texts.width != config.projection:
            raise UserError(
                f"the text model's embeddings have {texts.width} numbers, the image model's "
                f"{config.projection}: they do not belong together"
            )
        self.config, self.preprocessing, self.texts = config, preprocessing, texts
        self.mesh = data_mesh()
        self.params = jax.device_put(params, NamedSharding(self.mesh, PartitionSpec()))
        self._embed_images = _whole(partial(embed_images, config))
        self._embed_texts = _whole(partial(embed_texts, config))

    @property
    def width(self) -> int:
        """E."""
        return self.config.projection

    def image_features(self, pixels: Float[np.ndarray, "B S S 3"]) -> Float[np.ndarray, "B E"]:
        """Unit vectors of images that `jaxir.vision.models.clip_preprocessing.prepare` prepared."""
        return self._in_batches(self._embed_images, pixels, IMAGES_AT_ONCE)

    def text_features(self, texts: Sequence[str]) -> Float[np.ndarray, "T E"]:
        """Unit vectors of texts; what is too long is cut."""
        if self.config.text is None:
            return np.asarray(l2_normalize(self.texts.encode_passages(texts)))
        if not texts:
            return np.empty((0, self.width), np.float32)
        limit = self.config.text.positions
        # always of one length: nothing that follows a text's end changes its vector
        tokens = self.texts(list(texts), padding="max_length", truncation=True, max_length=limit)
        ids = np.asarray(tokens["input_ids"], np.int32)
        return self._in_batches(self._embed_texts, ids, TEXTS_AT_ONCE)

    def _in_batches(self, embed: Callable, rows: np.ndarray, at_once: int) -> np.ndarray:
        found = [np.empty((0, self.width), np.float32)]
        by_row = NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names))
        devices, start = self.mesh.size, 0
        while start < len(rows):
            # few rows do not fill a batch; absent ones complete a power of two
            needed = 1 << (-(-(len(rows) - start) // devices) - 1).bit_length()
            some = rows[start : start + min(at_once, needed) * devices]
            absent = min(at_once, needed) * devices - len(some)
            batch = np.pad(some, [(0, absent)] + [(0, 0)] * (rows.ndim - 1))
            with jax.set_mesh(self.mesh):
                placed = jax.make_array_from_callback(
                    batch.shape, by_row, lambda index, batch=batch: batch[index]
                )
                found.append(np.asarray(embed(self.params, placed))[: len(some)])
            start += len(some)
        return np.concatenate(found)


def _whole(function: Callable[[Params, Array], Array]) -> Callable[[Params, Array], Array]:
    """Jitted, and every process reads all of what comes out."""
    return jax.jit(lambda params, rows: jax.reshard(function(params, rows), PartitionSpec()))


def read_clip(name: str | os.PathLike, text_model: str = "") -> ClipModel:
    """Read a CLIP of transformers: a folder or a hub name.

    Args:
        name: config.json, safetensors, preprocessor_config.json and the tokenizer's files.
        text_model: folder or hub name of a dual encoder that embeds texts in its place, of which
            the vectors have the width of the images'; "": CLIP's own text side.

    Raises:
        UserError: names the file, field or tensor that is missing, damaged or unsupported.
    """
    folder = local_folder(name)
    inner = folder / "0_CLIPModel"  # where sentence-transformers keeps it
    if not (folder / "config.json").exists() and inner.is_dir():
        folder = inner
    config = read_clip_config(folder / "config.json", with_text=not text_model)
    params = read_clip_params(folder, config)
    preprocessing = read_preprocessing(folder)
    texts: Any = None
    if text_model:
        texts = TextEncoder(read_folder(text_model).adjusted(config.compute_dtype))
    if config.text is not None:
        texts = read_clip_tokenizer(folder, config.text)
    return ClipModel(config, params, preprocessing, texts)


def read_clip_tokenizer(folder: Path, config: ClipTextConfig) -> Any:
    """CLIP's tokenizer, of tokenizer.json or of vocab.json and merges.txt.

    Raises:
        UserError: there is none, or it does not mark where a text ends.
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
        raise UserError(f"{folder}: the tokenizer does not end texts as config.json says")
    return tokenizer
