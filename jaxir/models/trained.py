"""A model that is ready for use: weights, tokenizer, and how it wants its texts."""

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxir.config import DualEncoderConfig, EncoderConfig
from jaxir.errors import UserError
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


def fitted(encoder: EncoderConfig, tokenizer: Any, name: str) -> EncoderConfig:
    """The encoder's shape with the padding of the tokenizer that it is used with.

    XLM-R counts positions from `pad_id + 1`, so there both must name the same. In a BERT that id
    is only PyTorch's `padding_idx`, and published configs are often wrong about it (E5 has 0, its
    tokenizer 1); the tokenizer knows.

    Args:
        encoder: shape of the weights.
        tokenizer: what makes their input.
        name: of the model, for the message.

    Raises:
        UserError: the tokenizer is another model's, with what both say.
    """
    if len(tokenizer) > encoder.vocab_size:
        raise UserError(
            f"{name}: its tokenizer has {len(tokenizer):,} tokens, its weights have embeddings of "
            f"{encoder.vocab_size:,}: they do not belong together; give the weights "
            "their own tokenizer"
        )
    if encoder.architecture != "bert" and tokenizer.pad_token_id != encoder.pad_id:
        raise UserError(
            f"{name}: its tokenizer pads with token {tokenizer.pad_token_id}, its weights count "
            f"positions from pad_token_id = {encoder.pad_id}: they do not belong together; give "
            "the weights their own tokenizer, or mend config.json"
        )
    return dataclasses.replace(encoder, pad_id=tokenizer.pad_token_id)


def read_folder(name: str) -> TrainedModel:
    """Read a transformers or sentence-transformers folder, or a model of the hub.

    Raises:
        UserError: there is no such model, it is damaged, or lacks its weights or its tokenizer.
    """
    model = read_model(name)
    tokenizer = read_tokenizer(model.folder)
    encoder = fitted(model.config.encoder, tokenizer, name)
    return TrainedModel(
        dataclasses.replace(model.config, encoder=encoder),
        model.params,
        tokenizer,
        model.query_prefix,
        model.passage_prefix,
        model.max_tokens,
        model.max_tokens,
    )
