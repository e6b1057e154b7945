"""A model that is ready for use: weights, tokenizer, and how it wants its texts."""

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxir.config import DualEncoderConfig
from jaxir.models.hf import read_model, read_tokenizer


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A dual encoder, its tokenizer, and how it wants its texts."""

    config: DualEncoderConfig
    params: Any
    tokenizer: Any
    query_prefix: str
    passage_prefix: str
    max_query_tokens: int  # with the special tokens
    max_passage_tokens: int

    def adjusted(self, compute_dtype: str, **wanted: Any) -> "TrainedModel":
        """The model with other prefixes or limits, where they are not None, and precision."""
        config = dataclasses.replace(self.config, compute_dtype=compute_dtype)
        given = {name: value for name, value in wanted.items() if value is not None}
        return dataclasses.replace(self, config=config, **given)

    def weights_digest(self) -> str:
        """SHA-256 of the parameters."""
        digest = hashlib.sha256()
        for leaf in jax.tree.leaves(self.params):
            digest.update(np.ascontiguousarray(leaf).tobytes())
        return digest.hexdigest()


def read_folder(name: str) -> TrainedModel:
    """Read a transformers or sentence-transformers folder, or a model of the hub.

    Raises:
        UserError: there is no such model, it is damaged, or lacks its weights or its tokenizer.
    """
    model = read_model(name)
    limits = (model.max_tokens, model.max_tokens)
    prefixes = (model.query_prefix, model.passage_prefix)
    return TrainedModel(
        model.config, model.params, read_tokenizer(model.folder), *prefixes, *limits
    )
