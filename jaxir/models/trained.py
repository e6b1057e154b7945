"""A trained model: weights, tokenizer, prefixes and maximum lengths."""

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxir.config import COMPUTE_DTYPES, DualEncoderConfig, EncoderConfig
from jaxir.errors import UserError
from jaxir.models.hf import read_model, read_tokenizer


@dataclass(frozen=True)
class ModelSettings:
    """Settings that a user may change of a trained model; None: the model's own.

    Raises:
        UserError: `compute_dtype` is not supported.
    """

    query_prefix: str | None = None
    passage_prefix: str | None = None
    max_query_tokens: int | None = None  # longer queries are cut; special tokens count
    max_passage_tokens: int | None = None
    compute_dtype: str = "float32"  # of matrix products, or bfloat16
    batch_tokens: int = 0  # tokens encoded at a time, with padding; 0: what suits the devices

    def __post_init__(self):
        if self.compute_dtype not in COMPUTE_DTYPES:
            names = " or ".join(COMPUTE_DTYPES)
            raise UserError(f"compute_dtype {self.compute_dtype!r}: must be {names}")


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A dual encoder, its tokenizer, and the prefixes and maximum lengths of its texts."""

    config: DualEncoderConfig
    params: Any
    tokenizer: Any
    query_prefix: str
    passage_prefix: str
    max_query_tokens: int  # with the special tokens
    max_passage_tokens: int

    def adjusted(self, settings: ModelSettings) -> "TrainedModel":
        """The model with other prefixes, limits and precision."""
        config = dataclasses.replace(self.config, compute_dtype=settings.compute_dtype)
        texts = {
            name: value
            for name in ("query_prefix", "passage_prefix", "max_query_tokens", "max_passage_tokens")
            if (value := getattr(settings, name)) is not None
        }
        return dataclasses.replace(self, config=config, **texts)

    def weights_digest(self) -> str:
        """SHA-256 of the parameters."""
        digest = hashlib.sha256()
        for leaf in jax.tree.leaves(self.params):
            digest.update(np.ascontiguousarray(leaf).tobytes())
        return digest.hexdigest()


def match_tokenizer(encoder: EncoderConfig, tokenizer: Any, name: str) -> EncoderConfig:
    """The encoder's config with its tokenizer's padding id.

    XLM-R counts positions from `pad_id + 1`, so that encoder and tokenizer must agree on it. In a
    BERT it is only PyTorch's `padding_idx`, and published configs are often wrong about it (E5 has
    0, its tokenizer 1); the tokenizer's id is the one that pads.

    Args:
        encoder: config that came with the weights.
        tokenizer: of the encoder.
        name: of the model, for the message.

    Raises:
        UserError: the tokenizer is another model's.
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
    encoder = match_tokenizer(model.config.encoder, tokenizer, name)
    return TrainedModel(
        dataclasses.replace(model.config, encoder=encoder),
        model.params,
        tokenizer,
        model.query_prefix,
        model.passage_prefix,
        model.max_tokens,
        model.max_tokens,
    )
