"""Initial weights of a retriever, with its tokenizer and its true shape."""

import dataclasses
from typing import Any

import jax
from etils import epath

from jaxir.config import Config, ModelConfig
from jaxir.data.collection import Collection
from jaxir.models.dual_encoder import init_params
from jaxir.models.hf import HuggingFaceModel, read_model
from jaxir.training.tokenizers import fit_to_tokenizer, tokenizer_of


def load_initial_weights(
    config: Config, training: Collection | None, workdir: epath.Path
) -> tuple[ModelConfig, Any | None, Any]:
    """The model with its true shape, its initial weights (None: random) and its tokenizer.

    Args:
        config: the run.
        training: texts to train a tokenizer on; None: it has been trained.
        workdir: holds that tokenizer.

    Raises:
        UserError: names what is wrong in the weights, the tokenizer or the config.
    """
    model, params = config.model, None
    if model.init:
        model, params = _shaped_like(read_model(model.init), model, config.seed)
    tokenizer = tokenizer_of(model, model.init, training, workdir)
    encoder = fit_to_tokenizer(model.encoder, tokenizer, model, model.init)
    return dataclasses.replace(model, encoder=encoder), params, tokenizer


def _shaped_like(
    weights: HuggingFaceModel, model: ModelConfig, seed: int
) -> tuple[ModelConfig, Any]:
    """The config with the shape of the weights, and parameters of that shape.

    A sentence-transformers folder decides pooling, Dense and normalization; a bare encoder leaves
    them to the config, and the head that it lacks is random.
    """
    encoder = dataclasses.replace(
        weights.config.encoder,
        dropout=model.encoder.dropout,
        attention_dropout=model.encoder.attention_dropout,
    )
    model = dataclasses.replace(model, encoder=encoder)
    if (weights.folder / "modules.json").exists():
        head = ("pooling", "dense", "projection", "normalize")
        shape = {name: getattr(weights.config, name) for name in head}
        return dataclasses.replace(model, **shape), weights.params
    random = init_params(model, jax.random.key(seed))
    return model, {**random, "encoder": weights.params["encoder"]}
