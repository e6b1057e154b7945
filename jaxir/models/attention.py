"""Attention, and the masks, positions and dropout seeds that it needs of a batch's tokens.

Dimension key: B rows, L tokens of a row, M tokens attended to, S texts of a row, H heads, K width
of a head.

A row is padded (one text, then padding) or packed (several texts one after the other, then
padding). Packed texts do not attend to one another and each counts its positions from 0, so that a
text's embedding is the same in either kind of row.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int, UInt32

from jaxir.config import EncoderConfig
from jaxir.models.dropout import Seeds, attention_dropout, fold_in

# names of the intermediate values that the backward pass needs
SAVED_NAMES = "attention output", "maximum score", "sum of weights"


class TokenLayout(NamedTuple):
    """The mask, attention mask, positions and dropout seeds of a batch's tokens."""

    mask: Bool[Array, "B L"]  # False: padding
    attention_mask: Bool[Array, "B #L L"]  # [b, i, j]: token i of row b attends to token j
    positions: Int[Array, "#B L"]  # within the token's text, from 0; undefined for padding
    seeds: Seeds | None  # one a token; None: no dropout


def padded_layout(
    config: EncoderConfig, mask: Bool[Array, "B L"], seeds: UInt32[Array, "B"] | None
) -> TokenLayout:
    """The layout of rows that hold one text each, with padding before or after it.

    Args:
        config: BERT counts positions from the start of the row, the others from that of the text.
        mask: True for the text's tokens.
        seeds: of each text's dropout; None: no dropout.
    """
    columns = jnp.arange(mask.shape[1], dtype=jnp.int32)[None, :]
    positions = columns
    if config.architecture != "bert":
        # the n-th token of the text has position n - 1, also after padding on the left
        positions = jnp.cumsum(mask, axis=1, dtype=jnp.int32) - 1
    token_seeds = None if seeds is None else fold_in(seeds[:, None], columns)
    # one row of the mask for all tokens: nothing attends to padding
    return TokenLayout(mask, mask[:, None, :], positions, token_seeds)


def packed_layout(segments: Int[Array, "B L"], seeds: UInt32[Array, "B S"] | None) -> TokenLayout:
    """The layout of packed rows: a token attends to its own text, and positions count within it.

    Args:
        segments: the token's text, counted from 1 within its row; 0: padding.
        seeds: of each text's dropout; None: no dropout.
    """
    columns = jnp.arange(segments.shape[1], dtype=jnp.int32)[None, :]
    # a text starts in the columns where `segments` differs from the column before; the running
    # maximum of those columns is the start of each token's text, and the difference its position
    previous = jnp.pad(segments[:, :-1], ((0, 0), (1, 0)))
    starts = jax.lax.cummax(jnp.where(segments != previous, columns, 0), axis=1)
    positions = columns - starts
    if seeds is not None:
        # the seed depends on the text and on the position in it, not on the row or column;
        # padding gets that of the row's first text, and its states are never used
        text_seeds = jnp.take_along_axis(seeds, jnp.maximum(segments - 1, 0), axis=1)
        seeds = fold_in(text_seeds, positions)
    mask = segments > 0
    # block-diagonal: both tokens belong to the same text, and the one attended to to no padding
    attention_mask = (segments[:, :, None] == segments[:, None, :]) & mask[:, None, :]
    return TokenLayout(mask, attention_mask, positions, seeds)


def attention(
    query: Float[Array, "B L H K"],
    key: Float[Array, "B M H K"],
    value: Float[Array, "B M H K"],
    layout: TokenLayout,
    rate: float = 0.0,
) -> Float[Array, "B L H K"]:
    """Scaled dot-product attention, with dropout on the probabilities.

    The softmax is in float32. A token whose attention mask is all False attends evenly to all
    tokens: no NaN.
    Source: arXiv 1706.03762, section 3.2.1.
    """
    has_dropout = layout.seeds is not None and rate > 0
    if not has_dropout and _has_fused_attention(query.dtype):
        # cuDNN's kernel does not broadcast a mask over the attending tokens
        mask = jnp.broadcast_to(
            layout.attention_mask[:, None], (len(query), 1, query.shape[1], key.shape[1])
        )
        return jax.nn.dot_product_attention(query, key, value, mask=mask, implementation="cudnn")
    return _attention(rate, query, key, value, layout)


def _has_fused_attention(dtype: jnp.dtype) -> bool:
    """True on GPUs from Ampere on, in half precision: cuDNN's kernel stores no L x M matrix."""
    if jax.default_backend() != "gpu" or dtype.itemsize != 2:
        return False
    capability = getattr(jax.devices()[0], "compute_capability", "0.0")
    return float(capability) >= 8.0


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(rate: float, query: Array, key: Array, value: Array, layout: TokenLayout) -> Array:
    return _forward(rate, query, key, value, layout)[0]


def _forward(
    rate: float, query: Array, key: Array, value: Array, layout: TokenLayout
) -> tuple[Array, Any]:
    """Attention, and the residuals of the backward pass, none of which is an L x M matrix.

    Recomputing that matrix is cheaper than reading it from memory. Source: arXiv 2205.14135,
    section 3.1, with a whole row as one block.
    """
    scores = _scores(query, key, layout)
    # softmax(scores) = weights / total; the maximum is subtracted so that exp cannot overflow
    maximum = scores.max(axis=-1, keepdims=True)
    weights = jnp.exp(scores - maximum)
    total = weights.sum(axis=-1, keepdims=True)
    # dropout is linear, so that it may come before the division by `total`, which then divides
    # L x K numbers in place of L x M; the total is that of all weights, dropped ones included
    weights = attention_dropout(weights, rate, layout.seeds, layout.positions)
    weighted = _einsum("bhlm,bhmk->bhlk", weights.astype(value.dtype), _heads_first(value))
    output = _tokens_first((weighted / total).astype(value.dtype))
    output, maximum, total = map(checkpoint_name, (output, maximum, total), SAVED_NAMES)
    return output, (query, key, value, layout, output, maximum, total)


def _backward(rate: float, residuals: Any, output_grad: Array) -> tuple[Array, Array, Array, None]:
    query, key, value, layout, output, maximum, total = residuals
    # with p the probabilities, drop() the dropout of one mask, which is linear, and X' the
    # gradient of X:
    #   forward   output = drop(p) value
    #   backward  value' = drop(p)^T output',   p' = drop(output' value^T)
    probabilities = jnp.exp(_scores(query, key, layout) - maximum) / total
    output_grad, output = _heads_first(output_grad), _heads_first(output)
    dropped = attention_dropout(probabilities, rate, layout.seeds, layout.positions)
    value_grad = _einsum("bhlm,bhlk->bhmk", dropped.astype(value.dtype), output_grad)
    probability_grad = _einsum("bhlk,bhmk->bhlm", output_grad, _heads_first(value))
    probability_grad = attention_dropout(probability_grad, rate, layout.seeds, layout.positions)
    #   softmax   score' = p (p' - sum_M p p'), where sum_M p p' = sum_K output output', so
    # that the sum needs no L x M matrix
    mean = (output_grad.astype(jnp.float32) * output).sum(axis=-1, keepdims=True)
    score_grad = jnp.where(
        layout.attention_mask[:, None], probabilities * (probability_grad - mean), 0.0
    )
    score_grad = score_grad.astype(query.dtype)
    scale = query.shape[-1] ** -0.5
    query_grad = _einsum("bhlm,bhmk->bhlk", score_grad, _heads_first(key)) * scale
    key_grad = _einsum("bhlm,bhlk->bhmk", score_grad, _heads_first(query)) * scale
    gradients = ((query_grad, query), (key_grad, key), (value_grad, value))
    return *(_tokens_first(x.astype(like.dtype)) for x, like in gradients), None  # type: ignore[return-value]


_attention.defvjp(_forward, _backward)


def _scores(query: Array, key: Array, layout: TokenLayout) -> Float[Array, "B H L M"]:
    scores = _einsum("bhlk,bhmk->bhlm", _heads_first(query), _heads_first(key))
    scores = scores * query.shape[-1] ** -0.5
    # the lowest finite number and not -inf: a row without any True would give inf - inf = NaN
    return jnp.where(layout.attention_mask[:, None], scores, jnp.finfo(jnp.float32).min)


_einsum = partial(jnp.einsum, preferred_element_type=jnp.float32)


def _heads_first(x: Float[Array, "B L H K"]) -> Float[Array, "B H L K"]:
    """Make each head's tokens adjacent in memory, which a CPU's compiler does not do by itself."""
    return x.transpose(0, 2, 1, 3)


def _tokens_first(x: Float[Array, "B H L K"]) -> Float[Array, "B L H K"]:
    return x.transpose(0, 2, 1, 3)
