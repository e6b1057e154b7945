"""The losses of ALBEF's fusion layers: which pairs match, and what the masked tokens were.

Dimension key: B rows of the global batch, L tokens, P patches, D width of states, K masked tokens.
"""

from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from jaxir.config import AlbefLossConfig, AlbefModelConfig
from jaxir.models.dropout import fold
from jaxir.runtime.mesh import gather, in_chunks, on_each_device
from jaxir.training.losses import fewest_chunks
from jaxir.vision.models.albef import Albef, Params, module
from jaxir.vision.training.losses import hard_negatives, match_loss, token_losses
from jaxir.vision.training.masking import Masked

# where chance comes in besides `jaxir.vision.training.albef_loss`, for seeds that differ
NEGATIVE_IMAGE, NEGATIVE_TEXT, FUSED = 5, 6, 7
Metrics = dict[str, Array]


class Numbers(NamedTuple):
    """What every part of a step needs to know."""

    seed: UInt32[Array, ""]
    alpha: Float[Array, ""]
    temperature: Float[Array, ""]


def at_masks(states: Float[Array, "B L D"], masked: Masked) -> Float[Array, "B K D"]:
    """States of the masked tokens."""
    return jnp.take_along_axis(states, masked.positions[:, :, None], axis=1)


def pair_losses(
    config: AlbefModelConfig,
    loss: AlbefLossConfig,
    models: dict[str, Params],
    seen: dict[str, Any],
    guessed: dict[str, Any] | None,
    batch: dict[str, Array],
    rows: dict[str, Any],
    numbers: Numbers,
) -> tuple[Float[Array, ""], Metrics]:
    """Sum of the losses that are on, and each, from one go of the fusion layers over all pairs.

    Args:
        config: the model's shape.
        loss: which losses are on.
        models: parameters of the `online` and the `momentum` model, {} where there is none.
        seen: masked captions, states and features by the one.
        guessed: features, and states of masked tokens, by the other.
        batch: the global batch.
        rows: the same, with each row's place in it.
        numbers: of this step.
    """
    # of a device's rows, and of every device's, from which each row takes its negatives
    own: dict[str, Any] = {"rows": rows, "seen": seen}
    every: dict[str, Any] = {"seed": numbers.seed, "alpha": numbers.alpha}
    if loss.itm:
        own["image"], own["text"], found = _negatives(seen, guessed, batch["image_group"], numbers)
        every["image_states"] = gather(seen["image_states"])
        every["text_states"] = gather(seen["text_states"]["caption"])
        every["lengths"] = gather(batch["caption_lengths"])
    if loss.mlm and guessed is not None:
        own["guessed"] = guessed["masked"]
    results = on_each_device(partial(_fuse, config, loss), models, own, every)
    total, metrics = jnp.float32(0), {}
    if loss.itm:
        metrics["itm"], metrics["itm_accuracy"] = match_loss(results["match"], found)
        total += metrics["itm"]
    if loss.mlm:
        chosen = seen["masked"].chosen
        tokens = jnp.sum(jnp.where(chosen, results["tokens"], 0.0))
        metrics["mlm"] = tokens / jnp.maximum(jnp.sum(chosen), 1)
        total += metrics["mlm"]
    return total, metrics


def _negatives(
    seen: dict[str, Any],
    guessed: dict[str, Any] | None,
    group: Int[Array, "B"],
    numbers: Numbers,
) -> tuple[Int[Array, "B"], Int[Array, "B"], Bool[Array, "B 2"]]:
    """Another image for each text, another text for each image, and whether there was one."""
    targets = seen if guessed is None else guessed

    def draw(anchors: str, candidates: str, kind: int) -> tuple[Array, Array]:
        # by the similarities that the contrast is taken of
        features = (seen[anchors], targets[candidates])
        return hard_negatives(*features, group, numbers.temperature, fold(numbers.seed, kind))

    image, image_found = draw("caption", "image", NEGATIVE_IMAGE)
    text, text_found = draw("image", "caption", NEGATIVE_TEXT)
    return image, text, jnp.stack([image_found, text_found], axis=1)


def _fuse(
    config: AlbefModelConfig,
    loss: AlbefLossConfig,
    models: dict[str, Params],
    own: dict[str, Any],
    every: dict[str, Any],
) -> dict[str, Array]:
    """Of a device's rows: scores of the pair and of its two negatives, losses of masked tokens."""
    model = module(config, models["online"])
    image, text = own["seen"]["image_states"], own["seen"]["text_states"]
    lengths = own["rows"]["caption_lengths"]
    pairs = []
    if loss.itm:
        other = own["text"]
        pairs = [
            (text["caption"], lengths, image),
            (text["caption"], lengths, every["image_states"][own["image"]]),
            (every["text_states"][other], every["lengths"][other], image),
        ]
    if loss.mlm:
        pairs.append((text["masked"], lengths, image))
    seeds = None
    if config.dropping:
        kinds = [fold(every["seed"], FUSED + number) for number in range(len(pairs))]
        seeds = jnp.concatenate([fold(kind, own["rows"]["place"]) for kind in kinds])
    texts, each_length, images = (jnp.concatenate(x) for x in zip(*pairs))
    fused = jnp.split(model.fused(texts, each_length, images, seeds), len(pairs))
    results = {}
    if loss.itm:
        results["match"] = jnp.stack([model.match_scores(x) for x in fused[:3]], axis=1)
    if loss.mlm:
        teacher = module(config, models["momentum"]) if models["momentum"] else model
        results["tokens"] = _token_losses(model, teacher, fused[-1], own, every["alpha"])
    return results


def _token_losses(
    model: Albef,
    teacher: Albef,
    fused: Float[Array, "B L D"],
    own: dict[str, Any],
    alpha: Float[Array, ""],
) -> Float[Array, "B K"]:
    """Losses of a device's masked tokens, some rows at a time, since scores are wide."""
    masked = own["seen"]["masked"]

    def rows(chunk: tuple[Array, Array, Array | None]) -> Array:
        states, labels, guessed = chunk
        soft = None if guessed is None else teacher.token_scores(guessed)
        return token_losses(model.token_scores(states), labels, soft, alpha)

    arrays = (at_masks(fused, masked), masked.labels, own.get("guessed"))
    scores = masked.labels.shape[1] * model.config.text.vocab_size
    return in_chunks(rows, arrays, fewest_chunks(len(fused), scores))
