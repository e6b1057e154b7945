"""A trained model in use: texts into embeddings, passages into an index, queries into results.

    from jaxir import Retriever

    retriever = Retriever.load("DIR")
    index = retriever.index(["Die Donau entspringt ...", "..."])
    for result in index.search(["Where does the Danube rise?"], k=3)[0]:
        print(result.score, result.text)

Dimension key: T texts, D embedding width.
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

from jaxir.data.tokens import Tokens
from jaxir.data.tokens import fingerprint as tokenizer_fingerprint
from jaxir.data.unicode import check_unicode
from jaxir.errors import UserError
from jaxir.models.trained import TrainedModel
from jaxir.retrieval.index import Index, make_shard
from jaxir.retrieval.text_encoder import Embeddings, TextEncoder


class Retriever(TextEncoder):
    """A dual encoder on all devices of this machine.

    Args:
        model: what encodes.
        name: what indexes call it.
        batch_tokens: tokens encoded at a time, padding included; 0: what suits the devices.
    """

    def __init__(self, model: TrainedModel, name: str = "", batch_tokens: int = 0):
        super().__init__(model, batch_tokens)
        self.name = name
        self._said: set[str] = set()

    @classmethod
    def load(
        cls,
        name: str | Path,
        *,
        query_prefix: str | None = None,
        passage_prefix: str | None = None,
        max_query_tokens: int | None = None,
        max_passage_tokens: int | None = None,
        compute_dtype: str = "float32",
        batch_tokens: int = 0,
    ) -> "Retriever":
        """Read a model.

        Args:
            name: the workdir of a run, a transformers or sentence-transformers folder, or a model
                of the hub.
            query_prefix: before each query; None, here and below: the model's own.
            passage_prefix: before each passage.
            max_query_tokens: longer queries are cut, special tokens counted.
            max_passage_tokens: longer passages are cut.
            compute_dtype: of matrix products, float32 or bfloat16.
            batch_tokens: tokens encoded at a time, padding included; 0: what suits the devices.

        Raises:
            UserError: there is no such model, it is damaged, or a value is impossible.
        """
        from jaxir.training.trained import read_trained

        if compute_dtype not in ("float32", "bfloat16"):
            raise UserError(f"compute_dtype {compute_dtype!r}: must be float32 or bfloat16")
        model = read_trained(str(name)).adjusted(
            compute_dtype,
            query_prefix=query_prefix,
            passage_prefix=passage_prefix,
            max_query_tokens=max_query_tokens,
            max_passage_tokens=max_passage_tokens,
        )
        return cls(model, str(name), batch_tokens)

    def index(
        self,
        passages: Sequence[str],
        ids: Sequence[str] | None = None,
        languages: Sequence[str] | str = "",
        *,
        dtype: str = "float32",
    ) -> Index:
        """An index of some passages, in memory; `python -m jaxir.encode` makes larger ones.

        Args:
            passages: texts, without the model's prefix.
            ids: one a passage, none twice; None: their numbers, from 0.
            languages: one for all, or one a passage; "": unknown.
            dtype: of the embeddings: float32, bfloat16 or int8.

        Raises:
            UserError: a passage is no text or empty, an id is there twice, or lengths differ.
        """
        return Index(self, [make_shard(self, passages, ids, languages, dtype)])

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all that decides a passage's embedding, but for the precision."""
        model = self.model
        config = dataclasses.asdict(model.config)
        # fields that only training knows are no part of the model
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
            self._say_once(
                "empty", f"{empty} of {len(texts)} texts are empty and were encoded as such"
            )
        return super()._tokens(prefix, texts, cache)

    def encode_tokens(
        self, tokens: Tokens, limit: int, on_devices: bool = False, progress: str | None = None
    ) -> Embeddings:
        """As a `TextEncoder` does; warns the first time that a text is cut."""
        cut = int((tokens.lengths_with_frame(np.arange(len(tokens.length))) > limit).sum())
        if cut:
            count = len(tokens.length)
            message = f"{cut} of {count} texts are longer than {limit} tokens and were cut there"
            self._say_once("cut", message)
        return super().encode_tokens(tokens, limit, on_devices, progress)

    def _say_once(self, what: str, message: str) -> None:
        if what not in self._said:
            self._said.add(what)
            warnings.warn(f"{message} (said once)", stacklevel=5)


def _check_texts(texts: Sequence[Any]) -> None:
    if isinstance(texts, str):
        raise UserError("a list of texts is needed, not one text: put it into brackets")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise UserError(f"text {number} is a {type(text).__name__}; it must be a str")
        check_unicode(text, f"text {number}")
