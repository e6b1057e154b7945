"""The losses of ALBEF's fusion layers: image-text matching (ITM) and masked tokens (MLM).

Dimension key: B rows of the global batch, L tokens, P patches, D width of states, K masked tokens.
"""

from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from jaxir.config import AlbefLossConfig, AlbefModelConfig
from jaxir.models.dropout import fold_in
from jaxir.runtime.mesh import gather, in_chunks, on_each_device
from jaxir.training.losses import fewest_chunks
from jaxir.training.task import Metrics
from jaxir.vision.models.albef import Albef, Params, module
from jaxir.vision.training.losses import hard_negatives, match_loss, token_losses
from jaxir.vision.training.masking import MaskedCaptions

# Streams of the step's seed; `jaxir.vision.training.albef_loss` has 0 to 4. Each kind of pair that
# is fused takes one more from FUSED on.
NEGATIVE_IMAGE, NEGATIVE_TEXT, FUSED = 5, 6, 7


class StepScalars(NamedTuple):
    """Seed, soft targets' weight and temperature of a step."""

    seed: UInt32[Array, ""]
    alpha: Float[Array, ""]
    temperature: Float[Array, ""]


def states_at_masks(states: Float[Array, "B L D"], masked: MaskedCaptions) -> Float[Array, "B K D"]:
    """States of the masked tokens."""
    return jnp.take_along_axis(states, masked.positions[:, :, None], axis=1)


def pair_losses(
    config: AlbefModelConfig,
    loss: AlbefLossConfig,
    models: dict[str, Params],
    online: dict[str, Any],
    momentum: dict[str, Any] | None,
    batch: dict[str, Array],
    rows: dict[str, Any],
    scalars: StepScalars,
) -> tuple[Float[Array, ""], Metrics]:
    """Sum of ITM and MLM as far as they are on, and each, from one pass of the fusion layers.

    Args:
        config: the model's shape.
        loss: the losses that are on.
        models: parameters of the `online` and the `momentum` model, {} where there is none.
        online: masked captions, states and features by the online model.
        momentum: features, and states of masked tokens, by the momentum model.
        batch: the global batch.
        rows: the same, with each row's `index` in it.
        scalars: of this step.
    """
    # A negative may be any row of the global batch: its states are gathered on every device.
    local: dict[str, Any] = {"rows": rows, "online": online}
    gathered: dict[str, Any] = {"seed": scalars.seed, "alpha": scalars.alpha}
    if loss.itm:
        group = batch["image_group"]
        local["negative_image"], local["negative_text"], sampled = _sample_negatives(
            online, momentum, group, scalars
        )
        gathered["image_states"] = gather(online["image_states"])
        gathered["text_states"] = gather(online["text_states"]["caption"])
        gathered["lengths"] = gather(batch["caption_lengths"])
    if loss.mlm and momentum is not None:
        local["momentum_states"] = momentum["masked"]
    outputs = on_each_device(partial(_fuse, config, loss), models, local, gathered)
    total, metrics = jnp.float32(0), {}
    if loss.itm:
        metrics["itm"], metrics["itm_accuracy"] = match_loss(outputs["match"], sampled)
        total += metrics["itm"]
    if loss.mlm:
        # rows of K slots are not all filled: the mean is over the masked tokens of the global batch
        chosen = online["masked"].chosen
        tokens = jnp.sum(jnp.where(chosen, outputs["tokens"], 0.0))
        metrics["mlm"] = tokens / jnp.maximum(jnp.sum(chosen), 1)
        total += metrics["mlm"]
    return total, metrics


def _sample_negatives(
    online: dict[str, Any],
    momentum: dict[str, Any] | None,
    group: Int[Array, "B"],
    scalars: StepScalars,
) -> tuple[Int[Array, "B"], Int[Array, "B"], Bool[Array, "B 2"]]:
    """Rows of another image for each text and another text for each image; False: none exists."""
    candidates = online if momentum is None else momentum

    def sample(anchor: str, candidate: str, stream: int) -> tuple[Array, Array]:
        # by the similarities that ITC contrasts
        features = (online[anchor], candidates[candidate])
        seed = fold_in(scalars.seed, stream)
        return hard_negatives(*features, group, scalars.temperature, seed)

    image, image_sampled = sample("caption", "image", NEGATIVE_IMAGE)
    text, text_sampled = sample("image", "caption", NEGATIVE_TEXT)
    return image, text, jnp.stack([image_sampled, text_sampled], axis=1)


def _fuse(
    config: AlbefModelConfig,
    loss: AlbefLossConfig,
    models: dict[str, Params],
    local: dict[str, Any],
    gathered: dict[str, Any],
) -> dict[str, Array]:
    """Match scores of a device's pairs and their two negatives, and losses of masked tokens."""
    model = module(config, models["online"])
    image, text = local["online"]["image_states"], local["online"]["text_states"]
    lengths = local["rows"]["caption_lengths"]
    pairs = []
    if loss.itm:
        negative = local["negative_text"]
        pairs = [
            (text["caption"], lengths, image),
            (text["caption"], lengths, gathered["image_states"][local["negative_image"]]),
            (gathered["text_states"][negative], gathered["lengths"][negative], image),
        ]
    if loss.mlm:
        pairs.append((text["masked"], lengths, image))
    seeds = None
    if config.dropping:
        streams = [fold_in(gathered["seed"], FUSED + kind) for kind in range(len(pairs))]
        seeds = jnp.concatenate([fold_in(stream, local["rows"]["index"]) for stream in streams])
    texts, text_lengths, images = (jnp.concatenate(x) for x in zip(*pairs))
    fused = jnp.split(model.fuse(texts, text_lengths, images, seeds), len(pairs))
    outputs = {}
    if loss.itm:
        outputs["match"] = jnp.stack([model.match_scores(x) for x in fused[:3]], axis=1)
    if loss.mlm:
        teacher = module(config, models["momentum"]) if models["momentum"] else model
        outputs["tokens"] = _token_losses(model, teacher, fused[-1], local, gathered["alpha"])
    return outputs


def _token_losses(
    model: Albef,
    teacher: Albef,
    fused: Float[Array, "B L D"],
    local: dict[str, Any],
    alpha: Float[Array, ""],
) -> Float[Array, "B K"]:
    """Losses of a device's masked tokens, chunk by chunk, since scores of a vocabulary are wide."""
    masked = local["online"]["masked"]

    def chunk_losses(chunk: tuple[Array, Array, Array | None]) -> Array:
        states, labels, momentum_states = chunk
        soft = None if momentum_states is None else teacher.token_scores(momentum_states)
        return token_losses(model.token_scores(states), labels, soft, alpha)

    arrays = (states_at_masks(fused, masked), masked.labels, local.get("momentum_states"))
    scores = masked.labels.shape[1] * model.config.text.vocab_size
    return in_chunks(chunk_losses, arrays, fewest_chunks(len(fused), scores))
