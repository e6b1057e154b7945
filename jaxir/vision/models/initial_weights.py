"""What a run of ALBEF starts from: its model's true shape, weights and tokenizer."""

import dataclasses
from typing import Any

import jax
from etils import epath

from jaxir.config import AlbefConfig, AlbefModelConfig
from jaxir.data.collection import Collection
from jaxir.errors import UserError
from jaxir.models.trained import fitted
from jaxir.training.tokenizers import named, tokenizer_of, with_vocab_of
from jaxir.vision.models.pretrained import params_from_folders


def load_initial_weights(
    config: AlbefConfig, training: Collection | None, workdir: epath.Path
) -> tuple[AlbefModelConfig, Any | None, Any]:
    """The model with its true shape, the weights it starts from, and its tokenizer.

    Args:
        config: the run.
        training: what a tokenizer of its own is trained on; None: it has been.
        workdir: where that tokenizer is kept.

    Raises:
        UserError: names what is wrong in the weights, the tokenizer or the config.
    """
    model = config.model
    tokenizer = tokenizer_of(model, model.init_text, training, workdir, with_mask=True)
    if tokenizer.mask_token_id is None:
        raise UserError(f"config.model.tokenizer = {model.tokenizer!r}: it has no mask token")
    params = None
    if not model.init_text:
        model = dataclasses.replace(model, text=with_vocab_of(tokenizer, model.text))
    if model.init_text or model.init_vision:
        model, params = params_from_folders(model, jax.random.key(config.seed))
    if model.init_text:
        text = fitted(model.text, tokenizer, named(model, model.init_text))
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
