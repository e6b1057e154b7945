"""The retriever: a trained model that encodes texts, builds indexes and searches them.

from jaxir import Retriever

retriever = Retriever.load("DIR")
index = retriever.index(["Die Donau entspringt ...", "..."])
for result in index.search(["Where does the Danube rise?"], k=3)[0]:
    print(result.score, result.text)
"""

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jaxir.data.checks import check_unicode
from jaxir.data.tokens import Tokens
from jaxir.data.tokens import fingerprint as tokenizer_fingerprint
from jaxir.errors import UserError
from jaxir.models.trained import ModelSettings, TrainedModel
from jaxir.retrieval.encoding import Embeddings
from jaxir.retrieval.index import Index, make_shard
from jaxir.retrieval.text_encoder import TextEncoder
from jaxir.training.trained import read_trained


class Retriever(TextEncoder):
    """A dual encoder on all devices of this machine.

    Args:
        model: weights, tokenizer, prefixes and limits.
        name: recorded in indexes as the model that made them.
        batch_tokens: tokens of a batch, padding included; 0: what suits the devices.
    """

    def __init__(self, model: TrainedModel, name: str = "", batch_tokens: int = 0):
        super().__init__(model, batch_tokens)
        self.name = name
        self._warned: set[str] = set()

    @classmethod
    def load(cls, name: str | Path, settings: ModelSettings | None = None) -> "Retriever":
        """Read a model.

        Args:
            name: the workdir of a run, a transformers or sentence-transformers folder, or a model
                of the hub.
            settings: prefixes, limits, precision and batch size; None: the defaults, which keep
                the model's own prefixes and limits.

        Raises:
            UserError: there is no such model, it is damaged, or a setting is impossible.
        """
        settings = settings or ModelSettings()
        model = read_trained(str(name)).adjusted(settings)
        return cls(model, str(name), settings.batch_tokens)

    def index(
        self,
        passages: Sequence[str],
        ids: Sequence[str] | None = None,
        languages: Sequence[str] | str = "",
        *,
        dtype: str = "float32",
    ) -> Index:
        """Make an index in memory; `python -m jaxir.encode` makes larger ones on disk.

        Args:
            passages: texts, without the model's prefix.
            ids: one a passage, all different; None: their positions, from 0.
            languages: one for all, or one a passage; "": unknown.
            dtype: of the embeddings: float32, bfloat16 or int8.

        Raises:
            UserError: a passage is no text or empty, an id is there twice, or lengths differ.
        """
        return Index(self, [make_shard(self, passages, ids, languages, dtype)])

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all that determines a passage's embedding, except for the precision."""
        model = self.model
        config = dataclasses.asdict(model.config)
        # fields that only training uses are left out
        shape = {k: config[k] for k in ("encoder", "pooling", "dense", "projection", "normalize")}
        shape["encoder"] = {k: v for k, v in shape["encoder"].items() if "dropout" not in k}
        parts = [
            *(json.dumps(shape, sort_keys=True), model.weights_digest()),
            *(
                tokenizer_fingerprint(model.tokenizer),
                model.passage_prefix,
                str(model.max_passage_tokens),
            ),
        ]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def _tokens(self, prefix: str, texts: Sequence[str], cache: Path | None) -> Tokens:
        _check_texts(texts)
        empty = sum(not text.strip() for text in texts)
        if empty:
            self._warn_once(
                "empty", f"{empty} of {len(texts)} texts are empty and were encoded as such"
            )
        return super()._tokens(prefix, texts, cache)

    def encode_tokens(
        self,
        tokens: Tokens,
        limit: int,
        progress: str | None = None,
        *,
        on_devices: bool = False,
    ) -> Embeddings:
        """Encode as `TextEncoder.encode_tokens`; warns the first time that a text is cut."""
        cut = int((tokens.lengths_with_special_tokens(np.arange(len(tokens.length))) > limit).sum())
        if cut:
            count = len(tokens.length)
            message = f"{cut} of {count} texts are longer than {limit} tokens and were cut there"
            self._warn_once("cut", message)
        return super().encode_tokens(tokens, limit, progress, on_devices=on_devices)

    def _warn_once(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(f"{message} (said once)", stacklevel=5)


def _check_texts(texts: Sequence[Any]) -> None:
    if isinstance(texts, str):
        raise UserError("a list of texts is needed, not one text: put it into brackets")
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise UserError(f"text {position} is a {type(text).__name__}; it must be a str")
        check_unicode(text, f"text {position}")
