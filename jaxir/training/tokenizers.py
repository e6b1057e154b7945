"""The tokenizer of a run: named, trained on its own texts, or that of the initial weights."""

import dataclasses
import logging
import tempfile
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from etils import epath

from jaxir.config import EncoderConfig
from jaxir.data.collection import Collection
from jaxir.data.tokenizer import train_tokenizer
from jaxir.errors import UserError
from jaxir.models.hf import read_tokenizer
from jaxir.models.trained import match_tokenizer
from jaxir.runtime.claims import Claims, make_together
from jaxir.runtime.files import as_local, is_remote, publish

logger = logging.getLogger(__name__)

# More texts hardly change the pieces, and cost minutes.
TOKENIZER_TEXTS = 50_000


class TokenizerFields(Protocol):
    """The fields of a model's config that decide its tokenizer."""

    tokenizer: str
    trained_tokenizer_size: int
    trained_tokenizer_kind: str


def tokenizer_of(
    model: TokenizerFields,
    init: str,
    training: Collection | None,
    workdir: epath.Path,
    with_mask: bool = False,
) -> Any:
    """The tokenizer of a run.

    Args:
        model: decides which.
        init: folder or hub name of the initial weights, or "".
        training: texts to train a tokenizer on; None: it has been trained.
        workdir: holds a trained tokenizer.
        with_mask: a trained tokenizer gets a mask token.

    Raises:
        UserError: none is named, or it cannot be read.
    """
    if model.trained_tokenizer_size:
        return _trained_tokenizer(model, training, workdir, with_mask)
    if model.tokenizer or init:
        return read_tokenizer(model.tokenizer or init)
    raise UserError(
        "config.model.tokenizer is empty: name a tokenizer's folder or hub name, "
        "or set config.model.trained_tokenizer_size"
    )


def fit_to_tokenizer(
    encoder: EncoderConfig, tokenizer: Any, model: TokenizerFields, init: str
) -> EncoderConfig:
    """The encoder's shape with the vocabulary and padding of its tokenizer.

    Args:
        encoder: the shape, of the initial weights if there are any.
        tokenizer: makes its input.
        model: says whose tokenizer it is, for the message.
        init: folder or hub name of the initial weights; "": random ones, whose embedding table
            gets a row for each token.

    Raises:
        UserError: the tokenizer does not belong to the weights.
    """
    if not init:
        shape = {"vocab_size": len(tokenizer), "pad_id": tokenizer.pad_token_id}
        return dataclasses.replace(encoder, **shape)
    other = f" with config.model.tokenizer = {model.tokenizer!r}" if model.tokenizer else ""
    return match_tokenizer(encoder, tokenizer, f"{init}{other}")


def _trained_tokenizer(
    model: TokenizerFields, training: Collection | None, workdir: epath.Path, with_mask: bool
) -> Any:
    """A tokenizer trained once, by one process, then read: other hosts and restarts get its ids."""
    folder = workdir / "tokenizer"
    written_last = folder / "tokenizer.json"

    def make(_: str) -> None:
        assert training is not None
        used = np.unique(np.concatenate([training.query.reshape(-1), training.passage.reshape(-1)]))
        used = used[:: max(1, len(used) // TOKENIZER_TEXTS)]
        size, kind = model.trained_tokenizer_size, model.trained_tokenizer_kind
        logger.info("training a tokenizer of %d pieces", size)
        texts = (training.texts[i] for i in used if i >= 0)
        tokenizer = train_tokenizer(texts, size, with_mask, kind)
        parent = None if is_remote(workdir) else workdir
        with tempfile.TemporaryDirectory(prefix="unfinished-", dir=parent) as unfinished:
            tokenizer.save_pretrained(Path(unfinished) / "tokenizer")
            publish(Path(unfinished) / "tokenizer", folder, written_last.name)

    if training is not None and not written_last.exists():
        with Claims(workdir) as claims:
            make_together({"tokenizer": written_last}, make, claims)
    with as_local(folder) as local:
        return read_tokenizer(str(local))
