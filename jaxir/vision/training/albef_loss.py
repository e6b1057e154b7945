"""ALBEF's training loss: encode a batch, then ITC, ITM and MLM, with the momentum model's targets.

Dimension key: B rows of the global batch, L tokens, P patches, D width of states, E width of
features, K masked tokens.

A batch's shapes tell what is in it: `other_ids` of L tokens are captions of the same images in
another language (the cross-lingual batches of CCLM, arXiv 2206.00621), of 0 tokens none. Those take
part in the contrasts only; matching and masked tokens see `caption_ids`.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from jaxir.config import AlbefLossConfig, AlbefModelConfig
from jaxir.models.dropout import fold_in
from jaxir.models.dual_encoder import matmul_precision
from jaxir.runtime.mesh import on_each_device, split
from jaxir.training.losses import clamped_temperature
from jaxir.training.task import AuxState, Metrics
from jaxir.vision.models.albef import Albef, Params, check_length, module
from jaxir.vision.training.losses import FeatureBlock, ModalityFeatures, contrast
from jaxir.vision.training.masking import MaskedCaptions, mask_tokens
from jaxir.vision.training.momentum import push, update_ema
from jaxir.vision.training.pair_losses import (
    StepScalars,
    pair_losses,
    states_at_masks,
)

# Streams of the step's seed; `jaxir.vision.training.pair_losses` has those from 5.
IMAGE, CAPTION, MASKED, OTHER, MASKS = range(5)
Rows = dict[str, Any]  # arrays with one row for each of a batch's images
Texts = dict[str, tuple[Array, Array, int]]  # ids, lengths and dropout stream, by name


def alpha_at(loss: AlbefLossConfig, step: Int[Array, ""]) -> Float[Array, ""]:
    """Weight of the momentum model's soft targets at a step: a linear ramp, then constant."""
    return loss.alpha * jnp.minimum(step / max(loss.ramp_steps, 1), 1.0).astype(jnp.float32)


def total_loss(
    config: AlbefModelConfig,
    loss: AlbefLossConfig,
    params: Params,
    aux_state: AuxState,
    batch: dict[str, Array],
    alpha: Float[Array, ""] | float,
    seed: UInt32[Array, ""],
) -> tuple[Float[Array, ""], Metrics, AuxState]:
    """Sum the losses that are on, and update the momentum model and its queues.

    Args:
        config: the model's shape.
        loss: the losses that are on, and their settings.
        params: of the online model; the gradient is taken with respect to these.
        aux_state: of `init_aux`, or of the previous step.
        batch: `pixels`, `image_group`, `caption_ids`, `caption_lengths`, `other_ids` and
            `other_lengths`.
        alpha: see `alpha_at`; unused without a momentum model.
        seed: of the step's random numbers: dropout (of the online model only), masks, negatives.

    Returns:
        The sum, metrics for the log, and the next step's `aux_state`.

    Raises:
        UserError: captions are longer than the position table, or the queue does not suit the
            batch and the devices.
    """
    check_length(config, batch["caption_ids"])
    group = batch["image_group"]
    rows = {name: value for name, value in batch.items() if name != "image_group"}
    rows["index"] = split(jnp.arange(len(batch["pixels"]), dtype=jnp.uint32))
    # the parameter is the log of the learned temperature over the one that the config names
    log_temperature = params["log_temperature"] + jnp.log(jnp.float32(loss.temperature))
    temperature = jnp.float32(clamped_temperature(log_temperature, loss))
    scalars = StepScalars(seed, jnp.float32(alpha), temperature)
    with matmul_precision(config.compute_dtype):
        online = on_each_device(partial(_encode, config, loss), params, rows, seed)
        momentum_params, momentum = {}, None
        if loss.momentum:
            # the average takes in this step's parameters before it gives this step's targets
            momentum_params = update_ema(loss, aux_state["momentum"], params)
            encode = partial(_encode_momentum, config)
            encoded = on_each_device(encode, momentum_params, (rows, online["masked"]))
            momentum = jax.lax.stop_gradient(encoded)
        total, metrics = jnp.float32(0), {"temperature": temperature}
        if loss.itc:
            total, itc_metrics = _contrasts(loss, online, momentum, aux_state, group, scalars)
            metrics |= itc_metrics
        if loss.itm or loss.mlm:
            models = {"online": params, "momentum": momentum_params}
            fused, pair_metrics = pair_losses(
                config, loss, models, online, momentum, batch, rows, scalars
            )
            total, metrics = total + fused, metrics | pair_metrics
    # pushed after the losses, since the batch's own features are candidates beside the queue
    if momentum is not None:
        queued = push(aux_state, momentum["image"], momentum["caption"], group)
        aux_state = {"momentum": momentum_params, **queued}
    return total, metrics | {"loss": total}, aux_state


def _encode(
    config: AlbefModelConfig, loss: AlbefLossConfig, params: Params, rows: Rows, seed: Array
) -> dict[str, Any]:
    """Encode a device's rows: masked captions, and states and features of images and texts."""
    model = module(config, params)

    def seeds(stream: int) -> Array:
        return fold_in(fold_in(seed, stream), rows["index"])

    masked = None
    if loss.mlm:
        masked = mask_tokens(
            rows["caption_ids"],
            rows["caption_lengths"],
            seeds(MASKS),
            loss.mask_share,
            config.mask_id,
            config.special_ids,
            config.text.vocab_size,
        )
    texts = _texts(rows, masked)
    text_seeds = None
    if config.dropping:
        text_seeds = [seeds(stream) for _, _, stream in texts.values()]
    text_states = _text_states(model, texts, text_seeds)
    image_states = model.image_states(rows["pixels"], seeds(IMAGE) if config.dropping else None)
    return {
        "masked": masked,
        "image_states": image_states,
        "text_states": text_states,
        **_features(model, image_states, text_states),
    }


def _encode_momentum(
    config: AlbefModelConfig, params: Params, rows: tuple[Rows, MaskedCaptions | None], _: None
) -> dict[str, Any]:
    """Encode a device's rows by the momentum model: features, and states of masked tokens."""
    model = module(config, params)
    batch, masked = rows
    text_states = _text_states(model, _texts(batch, masked), None)
    image_states = model.image_states(batch["pixels"], None)
    encoded = _features(model, image_states, text_states)
    if masked is not None:
        fused = model.fuse(text_states["masked"], batch["caption_lengths"], image_states, None)
        encoded["masked"] = states_at_masks(fused, masked)
    return encoded


def _texts(rows: Rows, masked: MaskedCaptions | None) -> Texts:
    """Texts of a batch's rows: captions, masked captions, captions in another language."""
    texts = {"caption": (rows["caption_ids"], rows["caption_lengths"], CAPTION)}
    if masked is not None:
        texts["masked"] = (masked.ids, rows["caption_lengths"], MASKED)
    if rows["other_ids"].shape[1]:
        texts["other"] = (rows["other_ids"], rows["other_lengths"], OTHER)
    return texts


def _text_states(model: Albef, texts: Texts, seeds: list[Array] | None) -> dict[str, Array]:
    """States of all texts, from one pass of the encoder over their concatenation."""
    ids, lengths, _ = zip(*texts.values())
    joined = None if seeds is None else jnp.concatenate(seeds)
    states = model.text_states(jnp.concatenate(ids), jnp.concatenate(lengths), joined)
    return dict(zip(texts, jnp.split(states, len(texts))))


def _features(model: Albef, images: Array, texts: dict[str, Array]) -> dict[str, Array]:
    features = {name: model.text_features(x) for name, x in texts.items() if name != "masked"}
    return features | {"image": model.image_features(images)}


def _contrasts(
    loss: AlbefLossConfig,
    online: dict[str, Any],
    momentum: dict[str, Any] | None,
    aux_state: AuxState,
    group: Int[Array, "B"],
    scalars: StepScalars,
) -> tuple[Array, Metrics]:
    """ITC of images and captions.

    With captions in another language, the mean of ITC with either, plus their text-text contrast.
    """

    def features(name: str) -> ModalityFeatures:
        if momentum is None:
            return ModalityFeatures(online[name])
        queues = aux_state["queues"]
        queue = FeatureBlock(queues["image" if name == "image" else "text"], queues["group"])
        return ModalityFeatures(online[name], momentum[name], queue)

    def against(left: ModalityFeatures, right: ModalityFeatures) -> tuple[Array, Array]:
        return contrast(left, right, group, scalars.temperature, scalars.alpha)

    image, caption = features("image"), features("caption")
    itc, accuracy = against(image, caption)
    metrics = {"itc_accuracy": accuracy}
    if "other" not in online:
        return itc, metrics | {"itc": itc}
    other = features("other")
    itc = (itc + against(image, other)[0]) / 2
    text_text, _ = against(caption, other)
    return itc + loss.text_text * text_text, metrics | {"itc": itc, "text_text": text_text}
