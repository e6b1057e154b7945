"""A trained model that turns texts into embeddings.

Dimension key: T texts, D embedding width.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float

from jaxir.data.tokens import read_tokens
from jaxir.errors import UserError
from jaxir.models.trained import TrainedModel
from jaxir.retrieval.encoding import Embed, encode, make_embed
from jaxir.retrieval.topk import data_mesh


@dataclass(frozen=True, eq=False)
class TextEncoder:
    """Runs a model on all devices of the mesh that is set."""

    model: TrainedModel  # its parameters on the devices
    batch_size: int
    embed: Embed

    def queries(
        self, texts: Sequence[str], cache: Path, progress: str | None = None
    ) -> Float[np.ndarray, "T D"]:
        """Embeddings of queries, in their order."""
        model = self.model
        return self._encode(texts, model.query_prefix, model.max_query_tokens, cache, progress)

    def passages(
        self, texts: Sequence[str], cache: Path, progress: str | None = None
    ) -> Float[np.ndarray, "T D"]:
        """Embeddings of passages, in their order."""
        model = self.model
        return self._encode(texts, model.passage_prefix, model.max_passage_tokens, cache, progress)

    def _encode(self, texts, prefix, limit, cache, progress) -> Float[np.ndarray, "T D"]:
        tokens = read_tokens([prefix + text for text in texts], self.model.tokenizer, cache)
        every = np.arange(len(texts))
        return encode(
            self.embed, self.model.params, tokens, every, limit, self.batch_size, progress
        )


def make_text_encoder(model: TrainedModel, batch_size: int) -> TextEncoder:
    """Put a model on all devices of the mesh; the batch is rounded up to a multiple of them.

    Raises:
        UserError: a limit is beyond the model's positions, or the tokenizer is another model's.
    """
    encoder = model.config.encoder
    for side in ("query", "passage"):
        limit = getattr(model, f"max_{side}_tokens")
        if not 3 <= limit <= encoder.max_tokens:
            raise UserError(
                f"--max_{side}_tokens {limit}: must be from 3 to the model's "
                f"{encoder.max_tokens} positions"
            )
    if len(model.tokenizer) > encoder.vocab_size:
        raise UserError(
            f"the tokenizer has {len(model.tokenizer):,} tokens, the model "
            f"{encoder.vocab_size:,}: they do not belong together"
        )
    mesh = data_mesh()
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    placed = dataclasses.replace(model, params=jax.device_put(model.params, everywhere))
    devices = mesh.size
    return TextEncoder(placed, -(-batch_size // devices) * devices, make_embed(model.config))
