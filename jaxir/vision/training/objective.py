"""What ALBEF is trained by, as any family's step takes it."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxir.config import AlbefConfig
from jaxir.training.family import Metrics, Objective
from jaxir.vision.models import albef
from jaxir.vision.training.albef_loss import alpha_at, losses
from jaxir.vision.training.momentum import init_aux


def _init(config: AlbefConfig, model_params: Any | None) -> dict[str, Any]:
    if model_params is None:
        model_params = albef.init_params(config.model, jax.random.key(config.seed))
    return {"model": model_params}


def _loss(
    params: Any,
    aux_state: dict[str, Any],
    batch: dict[str, Array],
    config: AlbefConfig,
    step: Array,
    seed: Array,
) -> tuple[Array, tuple[Metrics, dict[str, Any]]]:
    alpha = alpha_at(config.loss, step)
    total, metrics, aux_state = losses(
        config.model, config.loss, params["model"], aux_state, batch, alpha, seed
    )
    return total, (metrics, aux_state)


def _held_out_loss(params: Any, batch: dict[str, Array], config: AlbefConfig) -> Array:
    """Of the batch alone: against one-hot targets, without a queue, with always the same masks."""
    alone = dataclasses.replace(config.loss, momentum=False)
    return losses(config.model, alone, params["model"], {}, batch, 0.0, jnp.uint32(0))[0]


ALIGNING = Objective(
    init=_init,
    carry=lambda config, params: init_aux(config.model, config.loss, params["model"]),
    loss=_loss,
    held_out_loss=_held_out_loss,
)
