"""Initial weights of ALBEF, with its tokenizer and its true shape."""

import dataclasses
from typing import Any

import jax
from etils import epath

from jaxir.config import AlbefConfig, AlbefModelConfig
from jaxir.data.collection import Collection
from jaxir.errors import UserError
from jaxir.training.tokenizers import fit_to_tokenizer, tokenizer_of
from jaxir.vision.models.pretrained import params_from_folders


def load_initial_weights(
    config: AlbefConfig, training: Collection | None, workdir: epath.Path
) -> tuple[AlbefModelConfig, Any | None, Any]:
    """The model with its true shape, its initial weights (None: random) and its tokenizer.

    Args:
        config: the run.
        training: captions to train a tokenizer on; None: it has been trained.
        workdir: holds that tokenizer.

    Raises:
        UserError: names what is wrong in the weights, the tokenizer or the config.
    """
    model, params = config.model, None
    tokenizer = tokenizer_of(model, model.init_text, training, workdir, with_mask=True)
    if tokenizer.mask_token_id is None:
        raise UserError(f"config.model.tokenizer = {model.tokenizer!r}: it has no mask token")
    if not model.init_text:  # before any random weights are made
        text = fit_to_tokenizer(model.text, tokenizer, model, "")
        model = dataclasses.replace(model, text=text)
    if model.init_text or model.init_vision:
        model, params = params_from_folders(model, jax.random.key(config.seed))
    if model.init_text:
        text = fit_to_tokenizer(model.text, tokenizer, model, model.init_text)
        model = dataclasses.replace(model, text=text)
    tokens, limit = config.captions.max_caption_tokens, model.text.max_tokens
    if tokens > limit:
        raise UserError(
            f"config.captions.max_caption_tokens = {tokens}: must be from 3 to the {limit} that "
            f"the model's {model.text.positions} positions have room for"
        )
    special = tuple(sorted(set(tokenizer.all_special_ids)))
    model = dataclasses.replace(model, mask_id=tokenizer.mask_token_id, special_ids=special)
    return model, params, tokenizer
