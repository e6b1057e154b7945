"""A trained model that turns texts into embeddings.

Dimension key: T texts, D embedding width.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float

from jaxir.config import BATCH_TOKENS
from jaxir.data.tokens import Tokens, read_tokens, tokenize
from jaxir.errors import UserError
from jaxir.models.trained import TrainedModel
from jaxir.retrieval.encoding import encode, make_embed
from jaxir.retrieval.topk import data_mesh


class TextEncoder:
    """A model on all devices of the mesh that is set, or of the machine.

    Args:
        model: what encodes.
        batch_tokens: tokens encoded at a time, padding included.

    Raises:
        UserError: a limit is beyond the model's positions, or the tokenizer is another model's.
    """

    def __init__(self, model: TrainedModel, batch_tokens: int = BATCH_TOKENS):
        _check(model)
        self.mesh, self.batch_tokens = data_mesh(), batch_tokens
        everywhere = jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec())
        params = jax.device_put(model.params, everywhere)
        self.model = dataclasses.replace(model, params=params)
        self._embed = make_embed(model.config)

    @property
    def width(self) -> int:
        """Length of an embedding."""
        return self.model.config.embedding_size

    def encode_queries(
        self, texts: Sequence[str], *, progress: str | None = None, cache: Path | None = None
    ) -> Float[np.ndarray, "T D"]:
        """Embeddings of queries, in their order.

        Args:
            texts: queries, without the model's prefix.
            progress: name of a progress bar; None: none is shown.
            cache: folder in which token ids are kept for another time.
        """
        model = self.model
        tokens = self._tokens(model.query_prefix, texts, cache)
        return self.encode_tokens(tokens, model.max_query_tokens, progress)

    def encode_passages(
        self, texts: Sequence[str], *, progress: str | None = None, cache: Path | None = None
    ) -> Float[np.ndarray, "T D"]:
        """Embeddings of passages, in their order; arguments as of `encode_queries`."""
        model = self.model
        tokens = self._tokens(model.passage_prefix, texts, cache)
        return self.encode_tokens(tokens, model.max_passage_tokens, progress)

    def _tokens(self, prefix: str, texts: Sequence[str], cache: Path | None) -> Tokens:
        whole = [prefix + text for text in texts]
        if cache is None:
            return tokenize(whole, self.model.tokenizer)
        return read_tokens(whole, self.model.tokenizer, cache)

    def encode_tokens(
        self, tokens: Tokens, limit: int, progress: str | None = None
    ) -> Float[np.ndarray, "T D"]:
        """Embeddings of texts that are tokenized, cut to `limit` tokens."""
        every = np.arange(len(tokens.length))
        if not len(every):
            return np.empty((0, self.width), np.float32)
        with jax.set_mesh(self.mesh):
            params, size = self.model.params, self.batch_tokens
            return encode(self._embed, params, tokens, every, limit, size, progress)


def _check(model: TrainedModel) -> None:
    encoder = model.config.encoder
    for side in ("query", "passage"):
        limit = getattr(model, f"max_{side}_tokens")
        if not 3 <= limit <= encoder.max_tokens:
            raise UserError(
                f"max_{side}_tokens {limit}: must be from 3 to the model's "
                f"{encoder.max_tokens} positions"
            )
    if len(model.tokenizer) > encoder.vocab_size:
        raise UserError(
            f"the tokenizer has {len(model.tokenizer):,} tokens, the model "
            f"{encoder.vocab_size:,}: they do not belong together"
        )
