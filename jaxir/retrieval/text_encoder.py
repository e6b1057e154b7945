"""A trained model that turns texts into embeddings.

Dimension key: T texts, D embedding width.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias, overload

import jax
import numpy as np
from jaxtyping import Array, Float

from jaxir.data.tokens import Tokens, read_tokens, tokenize
from jaxir.errors import UserError
from jaxir.models.trained import TrainedModel, fitted
from jaxir.retrieval.encoding import encode, encode_on_devices, make_embed, tokens_at_once
from jaxir.retrieval.topk import data_mesh

Embeddings: TypeAlias = Float[np.ndarray, "T D"] | Float[Array, "T D"]


class TextEncoder:
    """A model on all devices of the mesh that is set, or of the machine.

    Args:
        model: what encodes.
        batch_tokens: tokens encoded at a time, padding included; 0: what suits the devices.

    Raises:
        UserError: a limit is beyond the model's positions, or the tokenizer is another model's.
    """

    def __init__(self, model: TrainedModel, batch_tokens: int = 0):
        _check(model)
        self.mesh, self.batch_tokens = data_mesh(), tokens_at_once(batch_tokens)
        self._everywhere = jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec())
        params = jax.device_put(model.params, self._everywhere)
        self.model = dataclasses.replace(model, params=params)
        self._embed = make_embed(model.config)

    @property
    def width(self) -> int:
        """Length of an embedding."""
        return self.model.config.embedding_size

    @overload
    def encode_queries(
        self,
        texts: Sequence[str],
        *,
        on_devices: Literal[False] = False,
        progress: str | None = None,
        cache: Path | None = None,
    ) -> Float[np.ndarray, "T D"]: ...

    @overload
    def encode_queries(
        self,
        texts: Sequence[str],
        *,
        on_devices: Literal[True],
        progress: str | None = None,
        cache: Path | None = None,
    ) -> Float[Array, "T D"]: ...

    def encode_queries(
        self,
        texts: Sequence[str],
        *,
        on_devices: bool = False,
        progress: str | None = None,
        cache: Path | None = None,
    ) -> Embeddings:
        """Embeddings of queries, in their order.

        Args:
            texts: queries, without the model's prefix.
            on_devices: give a `jax.Array`, whole on each device, in place of a NumPy array.
            progress: name of a progress bar; None: none is shown.
            cache: folder in which token ids are kept for another time.
        """
        model = self.model
        tokens = self._tokens(model.query_prefix, texts, cache)
        return self.encode_tokens(tokens, model.max_query_tokens, on_devices, progress)

    @overload
    def encode_passages(
        self,
        texts: Sequence[str],
        *,
        on_devices: Literal[False] = False,
        progress: str | None = None,
        cache: Path | None = None,
    ) -> Float[np.ndarray, "T D"]: ...

    @overload
    def encode_passages(
        self,
        texts: Sequence[str],
        *,
        on_devices: Literal[True],
        progress: str | None = None,
        cache: Path | None = None,
    ) -> Float[Array, "T D"]: ...

    def encode_passages(
        self,
        texts: Sequence[str],
        *,
        on_devices: bool = False,
        progress: str | None = None,
        cache: Path | None = None,
    ) -> Embeddings:
        """Embeddings of passages, in their order; arguments as of `encode_queries`."""
        model = self.model
        tokens = self._tokens(model.passage_prefix, texts, cache)
        return self.encode_tokens(tokens, model.max_passage_tokens, on_devices, progress)

    def _tokens(self, prefix: str, texts: Sequence[str], cache: Path | None) -> Tokens:
        whole = [prefix + text for text in texts]
        if cache is None:
            return tokenize(whole, self.model.tokenizer)
        return read_tokens(whole, self.model.tokenizer, cache)

    def encode_tokens(
        self, tokens: Tokens, limit: int, on_devices: bool = False, progress: str | None = None
    ) -> Embeddings:
        """Embeddings of texts that are tokenized, cut to `limit` tokens."""
        every = np.arange(len(tokens.length))
        if not len(every):
            nothing = np.empty((0, self.width), np.float32)
            return jax.device_put(nothing, self._everywhere) if on_devices else nothing
        with jax.set_mesh(self.mesh):
            run = encode_on_devices if on_devices else encode
            params, size = self.model.params, self.batch_tokens
            return run(self._embed, params, tokens, every, limit, size, progress)


def _check(model: TrainedModel) -> None:
    encoder = model.config.encoder
    for side in ("query", "passage"):
        limit = getattr(model, f"max_{side}_tokens")
        if not 3 <= limit <= encoder.max_tokens:
            raise UserError(
                f"max_{side}_tokens {limit}: must be from 3 to the model's "
                f"{encoder.max_tokens} positions"
            )
    fitted(encoder, model.tokenizer, "the model")
