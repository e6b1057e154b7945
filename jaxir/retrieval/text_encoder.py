"""A trained model that turns texts into embeddings.

Dimension key: T texts, D embedding width.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from jaxir.data.tokens import Tokens, read_tokens, tokenize
from jaxir.errors import UserError
from jaxir.models.trained import TrainedModel, match_tokenizer
from jaxir.retrieval.chunks import data_mesh
from jaxir.retrieval.encoding import Embeddings, encode, make_embed, resolve_batch_tokens


class TextEncoder:
    """A model on all devices of the mesh that is set, or of the machine.

    Args:
        model: weights, tokenizer, prefixes and limits.
        batch_tokens: tokens of a batch, padding included; 0: what suits the devices.

    Raises:
        UserError: a limit is beyond the model's positions, or the tokenizer is another model's.
    """

    def __init__(self, model: TrainedModel, batch_tokens: int = 0):
        _check(model)
        self.mesh, self.batch_tokens = data_mesh(), resolve_batch_tokens(batch_tokens)
        self._replicated = jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec())
        params = jax.device_put(model.params, self._replicated)
        self.model = dataclasses.replace(model, params=params)
        self._embed = make_embed(model.config)

    @property
    def width(self) -> int:
        """Length of an embedding."""
        return self.model.config.embedding_size

    def encode_queries(
        self,
        texts: Sequence[str],
        *,
        on_devices: bool = False,
        progress: str | None = None,
        cache: Path | None = None,
    ) -> Embeddings:
        """Embeddings [T, D] of queries, in their order.

        Args:
            texts: queries, without the model's prefix.
            on_devices: return a `jax.Array`, whole on each device, in place of a NumPy array.
            progress: name of a progress bar; None: none is shown.
            cache: folder in which token ids are kept for another time; None: they are not kept.
        """
        model = self.model
        tokens = self._tokens(model.query_prefix, texts, cache)
        return self.encode_tokens(tokens, model.max_query_tokens, progress, on_devices=on_devices)

    def encode_passages(
        self,
        texts: Sequence[str],
        *,
        on_devices: bool = False,
        progress: str | None = None,
        cache: Path | None = None,
    ) -> Embeddings:
        """Embeddings [T, D] of passages, in their order; arguments as of `encode_queries`."""
        model = self.model
        tokens = self._tokens(model.passage_prefix, texts, cache)
        return self.encode_tokens(tokens, model.max_passage_tokens, progress, on_devices=on_devices)

    def _tokens(self, prefix: str, texts: Sequence[str], cache: Path | None) -> Tokens:
        prefixed = [prefix + text for text in texts]
        if cache is None:
            return tokenize(prefixed, self.model.tokenizer)
        return read_tokens(prefixed, self.model.tokenizer, cache)

    def encode_tokens(
        self,
        tokens: Tokens,
        limit: int,
        progress: str | None = None,
        *,
        on_devices: bool = False,
    ) -> Embeddings:
        """Embeddings [T, D] of tokenized texts, cut to `limit` tokens."""
        texts = np.arange(len(tokens.length))
        if not len(texts):
            empty = np.empty((0, self.width), np.float32)
            return jax.device_put(empty, self._replicated) if on_devices else empty
        with jax.set_mesh(self.mesh):
            return encode(
                self._embed,
                self.model.params,
                tokens,
                texts,
                limit,
                self.batch_tokens,
                progress,
                on_devices=on_devices,
            )


def _check(model: TrainedModel) -> None:
    encoder = model.config.encoder
    for side in ("query", "passage"):
        limit = getattr(model, f"max_{side}_tokens")
        if not 3 <= limit <= encoder.max_tokens:
            raise UserError(
                f"max_{side}_tokens {limit}: must be from 3 to the model's "
                f"{encoder.max_tokens} positions"
            )
    match_tokenizer(encoder, model.tokenizer, "the model")
