"""Attention, and which tokens of a row attend to which.

Dimension key: B rows, L tokens of a row, M places attended to, S texts of a row, H heads, K width
of a head.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int, UInt32

from jaxir.config import EncoderConfig
from jaxir.models.dropout import Seeds, attention_dropout, fold

KEPT = "attended", "highest score", "sum of weights"  # for the backward pass, by these names


class Places(NamedTuple):
    """What a row's tokens belong to."""

    mask: Bool[Array, "B L"]  # False: padding
    attended: Bool[Array, "B #L L"]  # the tokens that each token attends to
    positions: Int[Array, "#B L"]  # in its text, from 0; of no meaning where there is padding
    seeds: Seeds | None  # None: no dropout


def one_text_a_row(
    config: EncoderConfig, mask: Bool[Array, "B L"], seeds: UInt32[Array, "B"] | None
) -> Places:
    """Places of rows that hold a text each, with padding around it.

    Args:
        config: BERT counts positions from the start of the row, the others from that of the text.
        mask: where the text is.
        seeds: of the texts' dropout; None: none.
    """
    places = jnp.arange(mask.shape[1], dtype=jnp.int32)[None, :]
    counted = places
    if config.architecture != "bert":
        counted = jnp.cumsum(mask, axis=1, dtype=jnp.int32) - 1
    return Places(
        mask, mask[:, None, :], counted, None if seeds is None else fold(seeds[:, None], places)
    )


def several_texts_a_row(segments: Int[Array, "B L"], seeds: UInt32[Array, "B S"] | None) -> Places:
    """Places of rows in which texts follow one another: none sees another, each counts from 0.

    Args:
        segments: number of the text in its row, from 1; 0: padding.
        seeds: of the texts' dropout; None: none.
    """
    places = jnp.arange(segments.shape[1], dtype=jnp.int32)[None, :]
    before = jnp.pad(segments[:, :-1], ((0, 0), (1, 0)))
    positions = places - jax.lax.cummax(jnp.where(segments != before, places, 0), axis=1)
    if seeds is not None:
        # that of padding is drawn from the first text, and nothing is made of it
        own = jnp.take_along_axis(seeds, jnp.maximum(segments - 1, 0), axis=1)
        seeds = fold(own, positions)
    mask = segments > 0
    same = (segments[:, :, None] == segments[:, None, :]) & mask[:, None, :]
    return Places(mask, same, positions, seeds)


def attention(
    query: Float[Array, "B L H K"],
    key: Float[Array, "B M H K"],
    value: Float[Array, "B M H K"],
    places: Places,
    rate: float = 0.0,
) -> Float[Array, "B L H K"]:
    """Scaled dot-product attention, with dropout on the probabilities.

    The softmax is in float32. A token that has none to attend to attends evenly to all: no NaN.
    Source: arXiv 1706.03762, section 3.2.1.
    """
    dropping = places.seeds is not None and rate > 0
    if not dropping and _has_fused_attention(query.dtype):
        # the kernel takes no mask that is to be repeated
        mask = jnp.broadcast_to(
            places.attended[:, None], (len(query), 1, query.shape[1], key.shape[1])
        )
        return jax.nn.dot_product_attention(query, key, value, mask=mask, implementation="cudnn")
    return _attention(rate, query, key, value, places)


def _has_fused_attention(dtype: jnp.dtype) -> bool:
    """Whether cuDNN's kernel, which holds no L x L numbers, runs here: half precision, Ampere."""
    if jax.default_backend() != "gpu" or dtype.itemsize != 2:
        return False
    capability = getattr(jax.devices()[0], "compute_capability", "0.0")
    return float(capability) >= 8.0


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(rate: float, query: Array, key: Array, value: Array, places: Places) -> Array:
    return _forward(rate, query, key, value, places)[0]


def _forward(
    rate: float, query: Array, key: Array, value: Array, places: Places
) -> tuple[Array, Any]:
    """Attention, and what the backward pass needs of it: no L x M numbers.

    To compute those again is cheaper than to fetch them from memory. Source: arXiv 2205.14135,
    section 3.1, with all of a row in one block.
    """
    scores = _scores(query, key, places)
    highest = scores.max(axis=-1, keepdims=True)
    weights = jnp.exp(scores - highest)
    total = weights.sum(axis=-1, keepdims=True)
    weights = attention_dropout(weights, rate, places.seeds, places.positions)
    summed = _product("bhlm,bhmk->bhlk", weights.astype(value.dtype), _by_head(value))
    attended = _by_token((summed / total).astype(value.dtype))
    attended, highest, total = map(checkpoint_name, (attended, highest, total), KEPT)
    return attended, (query, key, value, places, attended, highest, total)


def _backward(rate: float, kept: Any, gradient: Array) -> tuple[Array, Array, Array, None]:
    query, key, value, places, attended, highest, total = kept
    weights = jnp.exp(_scores(query, key, places) - highest) / total
    gradient, attended = _by_head(gradient), _by_head(attended)
    dropped = attention_dropout(weights, rate, places.seeds, places.positions)
    of_value = _product("bhlm,bhlk->bhmk", dropped.astype(value.dtype), gradient)
    of_weights = _product("bhlk,bhmk->bhlm", gradient, _by_head(value))
    of_weights = attention_dropout(of_weights, rate, places.seeds, places.positions)
    # softmax's gradient takes off the mean of `of_weights`, which is the product of these two
    mean = (gradient.astype(jnp.float32) * attended).sum(axis=-1, keepdims=True)
    of_scores = jnp.where(places.attended[:, None], weights * (of_weights - mean), 0.0)
    of_scores = of_scores.astype(query.dtype)
    scale = query.shape[-1] ** -0.5
    of_query = _product("bhlm,bhmk->bhlk", of_scores, _by_head(key)) * scale
    of_key = _product("bhlm,bhlk->bhmk", of_scores, _by_head(query)) * scale
    gradients = ((of_query, query), (of_key, key), (of_value, value))
    return *(_by_token(x.astype(like.dtype)) for x, like in gradients), None  # type: ignore[return-value]


_attention.defvjp(_forward, _backward)


def _scores(query: Array, key: Array, places: Places) -> Float[Array, "B H L M"]:
    scores = _product("bhlk,bhmk->bhlm", _by_head(query), _by_head(key))
    scores = scores * query.shape[-1] ** -0.5
    return jnp.where(places.attended[:, None], scores, jnp.finfo(jnp.float32).min)


_product = partial(jnp.einsum, preferred_element_type=jnp.float32)


def _by_head(x: Float[Array, "B L H K"]) -> Float[Array, "B H L K"]:
    """Each head's tokens side by side, which processors without a layout of their own want."""
    return x.transpose(0, 2, 1, 3)


def _by_token(x: Float[Array, "B H L K"]) -> Float[Array, "B L H K"]:
    return x.transpose(0, 2, 1, 3)
