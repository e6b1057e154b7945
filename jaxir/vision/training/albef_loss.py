"""What a training step of ALBEF minimises, from a batch and what the last step left.

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
from jaxir.models.dropout import fold
from jaxir.models.dual_encoder import matmul_precision
from jaxir.runtime.mesh import on_each_device, split
from jaxir.training.losses import clamped_temperature
from jaxir.vision.models.albef import Albef, Params, check_length, module
from jaxir.vision.training.losses import Candidates, Side, contrast
from jaxir.vision.training.masking import Masked, mask_tokens
from jaxir.vision.training.momentum import AuxState, push, update_ema
from jaxir.vision.training.pair_losses import Metrics, Numbers, at_masks, pair_losses

# where chance comes in besides `jaxir.vision.training.pair_losses`, for seeds that differ
IMAGE, CAPTION, MASKED, OTHER, MASKS = range(5)
Rows = dict[str, Any]


def alpha_at(loss: AlbefLossConfig, step: Int[Array, ""]) -> Float[Array, ""]:
    """Share of the momentum model's soft targets at a step."""
    return loss.alpha * jnp.minimum(step / max(loss.ramp_steps, 1), 1.0).astype(jnp.float32)


def losses(
    config: AlbefModelConfig,
    loss: AlbefLossConfig,
    params: Params,
    aux_state: AuxState,
    batch: dict[str, Array],
    alpha: Float[Array, ""] | float,
    seed: UInt32[Array, ""],
) -> tuple[Float[Array, ""], Metrics, AuxState]:
    """The sum of the losses that are on, what is worth watching, and what the next step needs.

    Args:
        config: the model's shape.
        loss: which losses, and their numbers.
        params: of the model; the gradient is taken of these.
        aux_state: of `init_aux`, or what the last step gave.
        batch: `pixels`, `image_group`, `caption_ids`, `caption_lengths`, `other_ids` and
            `other_lengths`.
        alpha: see `alpha_at`; without a momentum model of no meaning.
        seed: of the step's chance: dropout (of the trained model only), masks, negatives.

    Raises:
        UserError: captions are longer than the position table, or the queue does not suit the
            batch and the devices.
    """
    check_length(config, batch["caption_ids"])
    rows = {name: value for name, value in batch.items() if name != "image_group"}
    rows["place"] = split(jnp.arange(len(batch["pixels"]), dtype=jnp.uint32))
    log_temperature = params["log_temperature"] + jnp.log(jnp.float32(loss.temperature))
    temperature = jnp.float32(clamped_temperature(log_temperature, loss))
    numbers = Numbers(seed, jnp.float32(alpha), temperature)
    with matmul_precision(config.compute_dtype):
        seen = on_each_device(partial(_encode, config, loss), params, rows, seed)
        momentum, guessed = {}, None
        if loss.momentum:
            momentum = update_ema(loss, aux_state["momentum"], params)
            guess = partial(_encode_momentum, config)
            guessed = jax.lax.stop_gradient(on_each_device(guess, momentum, (rows, seen["masked"])))
        total, metrics = jnp.float32(0), {"temperature": temperature}
        if loss.itc:
            total, found = _contrasts(loss, seen, guessed, aux_state, batch["image_group"], numbers)
            metrics |= found
        if loss.itm or loss.mlm:
            models = {"online": params, "momentum": momentum}
            fused, found = pair_losses(config, loss, models, seen, guessed, batch, rows, numbers)
            total, metrics = total + fused, metrics | found
    if guessed is not None:
        queued = push(aux_state, guessed["image"], guessed["caption"], batch["image_group"])
        aux_state = {"momentum": momentum, **queued}
    return total, metrics | {"loss": total}, aux_state


def _encode(
    config: AlbefModelConfig, loss: AlbefLossConfig, params: Params, rows: Rows, seed: Array
) -> dict[str, Any]:
    """Of a device's rows: masked captions, and states and features of images and texts."""
    model = module(config, params)

    def seeds(kind: int) -> Array:
        return fold(fold(seed, kind), rows["place"])

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
    each = [seeds(kind) for _, _, kind in texts.values()] if config.dropping else None
    text_states = _text_states(model, texts, each)
    image_states = model.image_states(rows["pixels"], seeds(IMAGE) if config.dropping else None)
    return {
        "masked": masked,
        "image_states": image_states,
        "text_states": text_states,
        **_features(model, image_states, text_states),
    }


def _encode_momentum(
    config: AlbefModelConfig, params: Params, rows: tuple[Rows, Masked | None], _: None
) -> dict[str, Any]:
    """Of a device's rows, by the momentum model: features, and states where tokens are masked."""
    model = module(config, params)
    batch, masked = rows
    text_states = _text_states(model, _texts(batch, masked), None)
    image_states = model.image_states(batch["pixels"], None)
    found = _features(model, image_states, text_states)
    if masked is not None:
        fused = model.fused(text_states["masked"], batch["caption_lengths"], image_states, None)
        found["masked"] = at_masks(fused, masked)
    return found


def _texts(rows: Rows, masked: Masked | None) -> dict[str, tuple[Array, Array, int]]:
    """Ids, lengths and kind of chance of the texts that a batch's rows have."""
    texts = {"caption": (rows["caption_ids"], rows["caption_lengths"], CAPTION)}
    if masked is not None:
        texts["masked"] = (masked.ids, rows["caption_lengths"], MASKED)
    if rows["other_ids"].shape[1]:
        texts["other"] = (rows["other_ids"], rows["other_lengths"], OTHER)
    return texts


def _text_states(
    model: Albef, texts: dict[str, tuple[Array, Array, int]], seeds: list[Array] | None
) -> dict[str, Array]:
    """States of all those texts, in one go of the encoder."""
    ids, lengths, _ = zip(*texts.values())
    joined = None if seeds is None else jnp.concatenate(seeds)
    states = model.text_states(jnp.concatenate(ids), jnp.concatenate(lengths), joined)
    return dict(zip(texts, jnp.split(states, len(texts))))


def _features(model: Albef, images: Array, texts: dict[str, Array]) -> dict[str, Array]:
    features = {name: model.text_features(x) for name, x in texts.items() if name != "masked"}
    return features | {"image": model.image_features(images)}


def _contrasts(
    loss: AlbefLossConfig,
    seen: dict[str, Any],
    guessed: dict[str, Any] | None,
    aux_state: AuxState,
    group: Int[Array, "B"],
    numbers: Numbers,
) -> tuple[Array, Metrics]:
    """Image against caption; where there is another caption, the mean over both, and text-text."""

    def side(name: str) -> Side:
        if guessed is None:
            return Side(seen[name])
        queues = aux_state["queues"]
        queue = Candidates(queues["image" if name == "image" else "text"], queues["group"])
        return Side(seen[name], guessed[name], queue)

    def against(left: Side, right: Side) -> tuple[Array, Array]:
        return contrast(left, right, group, numbers.temperature, numbers.alpha)

    image, caption = side("image"), side("caption")
    itc, accuracy = against(image, caption)
    metrics = {"itc_accuracy": accuracy}
    if "other" not in seen:
        return itc, metrics | {"itc": itc}
    other = side("other")
    itc = (itc + against(image, other)[0]) / 2
    text_text, _ = against(caption, other)
    return itc + loss.text_text * text_text, metrics | {"itc": itc, "text_text": text_text}
