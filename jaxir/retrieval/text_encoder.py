"""A trained model that turns texts into embeddings.

Dimension key: T texts, D embedding width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from jaxir.config import DualEncoderConfig
from jaxir.data.tokens import read_tokens
from jaxir.errors import UserError
from jaxir.retrieval.encoding import Embed, encode, make_embed
from jaxir.retrieval.topk import data_mesh


@dataclass(frozen=True, eq=False)
class TextEncoder:
    """Model, tokenizer, prefixes and limits; runs on all devices of the mesh that is set."""

    config: DualEncoderConfig
    params: Any
    tokenizer: Any
    query_prefix: str
    passage_prefix: str
    max_query_tokens: int  # with the special ones; longer texts are cut
    max_passage_tokens: int
    batch_size: int
    embed: Embed

    def queries(
        self, texts: Sequence[str], cache: Path, progress: str | None = None
    ) -> Float[np.ndarray, "T D"]:
        """Embeddings of queries, in their order."""
        return self._encode(texts, self.query_prefix, self.max_query_tokens, cache, progress)

    def passages(
        self, texts: Sequence[str], cache: Path, progress: str | None = None
    ) -> Float[np.ndarray, "T D"]:
        """Embeddings of passages, in their order."""
        return self._encode(texts, self.passage_prefix, self.max_passage_tokens, cache, progress)

    def _encode(self, texts, prefix, limit, cache, progress) -> Float[np.ndarray, "T D"]:
        tokens = read_tokens([prefix + text for text in texts], self.tokenizer, cache)
        every = np.arange(len(texts))
        return encode(self.embed, self.params, tokens, every, limit, self.batch_size, progress)


def make_text_encoder(
    config: DualEncoderConfig,
    params: Any,
    tokenizer: Any,
    *,
    query_prefix: str,
    passage_prefix: str,
    max_query_tokens: int,
    max_passage_tokens: int,
    batch_size: int,
) -> TextEncoder:
    """Put a model on all devices of the mesh; batches are rounded up to a multiple of them.

    Raises:
        UserError: a limit is beyond the model's positions, or the tokenizer is another model's.
    """
    longest = config.encoder.max_tokens
    for side, limit in (("query", max_query_tokens), ("passage", max_passage_tokens)):
        if not 3 <= limit <= longest:
            raise UserError(
                f"--max_{side}_tokens {limit}: must be from 3 to the model's {longest} positions"
            )
    if len(tokenizer) > config.encoder.vocab_size:
        raise UserError(
            f"the tokenizer has {len(tokenizer):,} tokens, the model "
            f"{config.encoder.vocab_size:,}: they do not belong together"
        )
    mesh = data_mesh()
    devices = mesh.shape["data"]
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return TextEncoder(
        config,
        jax.device_put(params, everywhere),
        tokenizer,
        query_prefix,
        passage_prefix,
        max_query_tokens,
        max_passage_tokens,
        -(-batch_size // devices) * devices,
        make_embed(config),
    )
