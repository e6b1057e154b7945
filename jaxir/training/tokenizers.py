"""Which tokenizer a run has, and what it decides of the model's shape."""

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
from jaxir.runtime.claims import Claims, make_together
from jaxir.runtime.files import as_local, is_remote, publish

logger = logging.getLogger(__name__)

# More hardly change its pieces, and cost minutes.
TOKENIZER_TEXTS = 50_000


class NamesTokenizer(Protocol):
    """Fields of a model's config that say which tokenizer it has."""

    tokenizer: str
    trained_tokenizer_size: int
    trained_tokenizer_kind: str


def tokenizer_of(
    model: NamesTokenizer,
    init: str,
    training: Collection | None,
    workdir: epath.Path,
    with_mask: bool = False,
) -> Any:
    """The tokenizer of a run: trained on its texts, the one that is named, or that of the weights.

    Args:
        model: which of them.
        init: folder of the weights to start from, or "".
        training: what a tokenizer of its own is trained on; None: it has been.
        workdir: where that is kept.
        with_mask: one that is trained gets a token for those that are to be guessed.

    Raises:
        UserError: none is named, or it cannot be read.
    """
    if model.trained_tokenizer_size:
        return _own_tokenizer(model, training, workdir, with_mask)
    if model.tokenizer or init:
        return read_tokenizer(model.tokenizer or init)
    raise UserError(
        "config.model.tokenizer is empty: name a tokenizer's folder or hub name, "
        "or set config.model.trained_tokenizer_size"
    )


def with_vocab_of(tokenizer: Any, encoder: EncoderConfig) -> EncoderConfig:
    """The shape of an encoder from scratch, with a row of its table for each token."""
    return dataclasses.replace(encoder, vocab_size=len(tokenizer), pad_id=tokenizer.pad_token_id)


def named(model: NamesTokenizer, init: str) -> str:
    """How a message calls weights, and their tokenizer where it is another's."""
    return f"{init} with config.model.tokenizer = {model.tokenizer!r}" if model.tokenizer else init


def _own_tokenizer(
    model: NamesTokenizer, training: Collection | None, workdir: epath.Path, with_mask: bool = False
) -> Any:
    """Trained once, by one process, then read: resumed runs and other hosts get the same ids.

    Args:
        model: how large it becomes, and of which kind.
        training: whose texts it is trained on; None: it has been.
        workdir: where it is kept.
        with_mask: it has a token for those that are to be guessed.
    """
    folder = workdir / "tokenizer"
    whole = folder / "tokenizer.json"

    def make(_: str) -> None:
        assert training is not None
        used = np.unique(np.concatenate([training.query.reshape(-1), training.passage.reshape(-1)]))
        used = used[:: max(1, len(used) // TOKENIZER_TEXTS)]
        size, kind = model.trained_tokenizer_size, model.trained_tokenizer_kind
        logger.info("training a tokenizer of %d pieces", size)
        texts = (training.texts[i] for i in used if i >= 0)
        tokenizer = train_tokenizer(texts, size, with_mask, kind)
        near = None if is_remote(workdir) else workdir
        with tempfile.TemporaryDirectory(prefix="unfinished-", dir=near) as unfinished:
            tokenizer.save_pretrained(Path(unfinished) / "tokenizer")
            publish(Path(unfinished) / "tokenizer", folder, whole.name)

    if training is not None and not whole.exists():
        with Claims(workdir) as claims:
            make_together({"tokenizer": whole}, make, claims)
    with as_local(folder) as local:
        return read_tokenizer(str(local))
