"""The dual encoder: one encoder for queries and passages, whose output becomes embeddings.

Dimension key: B rows, L tokens of a row, S texts of a row, D width (of hidden states or
embeddings), N layers. `text_mask[b, l, s]` is True where token l of row b belongs to its text s;
padding belongs to none.

Outside `jaxir.models` parameters are a plain nested dict of float32 arrays, whose leaves are named
`kernel`, `bias`, `scale` or `embedding`; those of the layers are stacked along a leading axis N.
All functions work under `jax.jit` and `jax.grad`, with no mesh, or on a mesh of explicit axes that
shards the rows of `ids` and `mask`; parameters are replicated, or sharded along any axis but N.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt32

from jaxir.config import DualEncoderConfig
from jaxir.errors import UserError
from jaxir.models.attention import TokenLayout, packed_layout, padded_layout
from jaxir.models.encoder import Encoder
from jaxir.models.parameters import with_params

Params = dict[str, Any]


class DualEncoder(nnx.Module):
    """Encoder, pooling, LaBSE's Dense(tanh), projection, L2 normalisation."""

    def __init__(self, config: DualEncoderConfig, rngs: nnx.Rngs):
        self.config = config
        dtype = jnp.dtype(config.compute_dtype)
        init = nnx.initializers.normal(0.02)
        width = config.encoder.hidden_size
        self.encoder = Encoder(config.encoder, dtype, rngs, config.remat)
        if config.dense:
            self.dense = nnx.Linear(width, config.dense, dtype=dtype, kernel_init=init, rngs=rngs)
        if config.projection:
            self.projection = nnx.Linear(
                config.dense or width,
                config.projection,
                use_bias=False,
                dtype=dtype,
                kernel_init=init,
                rngs=rngs,
            )

    def __call__(
        self, ids: Int[Array, "B L"], layout: TokenLayout, text_mask: Bool[Array, "B L S"]
    ) -> Float[Array, "B S D"]:
        """Embeddings of the texts, in float32."""
        states = self.encoder(ids, layout).astype(jnp.float32)
        if self.config.pooling == "cls":
            text_mask = first_token_mask(text_mask)
        x = mean_pool(states, text_mask)
        if self.config.dense:
            x = jnp.tanh(self.dense(x).astype(jnp.float32))
        if self.config.projection:
            x = self.projection(x).astype(jnp.float32)
        return l2_normalize(x) if self.config.normalize else x


def first_token_mask(text_mask: Bool[Array, "B L S"]) -> Bool[Array, "B L S"]:
    """The mask of each text's first token, [CLS], also after padding on the left."""
    return text_mask & (jnp.cumsum(text_mask, axis=1, dtype=jnp.int32) == 1)


def mean_pool(
    states: Float[Array, "B L D"], text_mask: Bool[Array, "B L S"]
) -> Float[Array, "B S D"]:
    """Mean over the tokens of each text; 0 for a text without tokens."""
    total = jnp.einsum("bld,bls->bsd", states, text_mask.astype(states.dtype), precision="highest")
    return total / jnp.maximum(jnp.sum(text_mask, axis=1), 1)[:, :, None]


def l2_normalize(x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """Vectors divided by their L2 norm, at least 1e-12, for a finite gradient."""
    squares = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))


def init_params(config: DualEncoderConfig, key: PRNGKeyArray) -> Params:
    """Random parameters: normal with standard deviation 0.02, biases 0, scales 1 (BERT's code)."""
    return nnx.to_pure_dict(nnx.state(DualEncoder(config, nnx.Rngs(key))))


def abstract_params(config: DualEncoderConfig) -> Params:
    """Shapes and dtypes of the parameters, without allocating them."""
    return jax.eval_shape(lambda: init_params(config, jax.random.key(0)))


def _module(config: DualEncoderConfig, params: Params) -> DualEncoder:
    """The module with these parameters; those of the layers are gathered layer by layer."""
    return with_params(lambda: DualEncoder(config, nnx.Rngs(0)), params)


def matmul_precision(compute_dtype: str):
    """A context for matrix products with the full precision of `compute_dtype`.

    TPUs and GPUs round float32 operands of a product to fewer bits unless told not to.
    """
    return jax.default_matmul_precision("highest" if compute_dtype == "float32" else "default")


def _check_length(config: DualEncoderConfig, ids: Int[Array, "B L"]) -> None:
    if ids.shape[1] > config.encoder.max_tokens:
        raise UserError(
            f"texts of {ids.shape[1]} tokens: the model has positions for "
            f"{config.encoder.max_tokens}; cut them or raise model.encoder.positions"
        )


def embed(
    config: DualEncoderConfig,
    params: Params,
    ids: Int[Array, "B L"],
    mask: Bool[Array, "B L"],
    *,
    dropout_seeds: UInt32[Array, "B"] | None = None,
) -> Float[Array, "B D"]:
    """Embeddings of padded texts, one a row, in float32.

    Args:
        config: the model's shape.
        params: its parameters.
        ids: of the tokens.
        mask: False: padding.
        dropout_seeds: one a text; None: no dropout.

    Raises:
        UserError: the texts are longer than the model's position table.
    """
    _check_length(config, ids)
    mask = jnp.asarray(mask, bool)
    layout = padded_layout(config.encoder, mask, dropout_seeds)
    with matmul_precision(config.compute_dtype):
        return _module(config, params)(jnp.asarray(ids), layout, mask[:, :, None])[:, 0]


def embed_packed(
    config: DualEncoderConfig,
    params: Params,
    ids: Int[Array, "B L"],
    segments: Int[Array, "B L"],
    texts: int,
    *,
    dropout_seeds: UInt32[Array, "B S"] | None = None,
) -> Float[Array, "B S D"]:
    """Embeddings of packed texts, equal to those that `embed` gives.

    Args:
        config: the model's shape.
        params: its parameters.
        ids: of the tokens of a row's texts, one text after the other, then padding.
        segments: the token's text, counted from 1 within its row; 0: padding.
        texts: S, the maximum number of texts in a row.
        dropout_seeds: one a text; None: no dropout.
    """
    layout = packed_layout(segments, dropout_seeds)
    text_mask = segments[:, :, None] == jnp.arange(1, texts + 1)[None, None, :]
    with matmul_precision(config.compute_dtype):
        return _module(config, params)(ids, layout, text_mask)


def hidden_states(
    config: DualEncoderConfig,
    params: Params,
    ids: Int[Array, "B L"],
    mask: Bool[Array, "B L"],
) -> Float[Array, "states B L D"]:
    """Outputs of the embeddings and of every layer, in float32; XL's last has the final LayerNorm.

    Raises:
        UserError: the texts are longer than the model's position table.
    """
    _check_length(config, ids)
    layout = padded_layout(config.encoder, jnp.asarray(mask, bool), None)
    with matmul_precision(config.compute_dtype):
        encoder = _module(config, params).encoder
        states = encoder(jnp.asarray(ids), layout, all_states=True)
    return states.astype(jnp.float32)
