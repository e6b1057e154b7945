"""The dual encoder: one encoder for queries and passages, whose output becomes embeddings.

Dimension key: B rows, L tokens of a row, S texts of a row, D width (of hidden states or
embeddings), N layers.

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
from jaxir.models.attention import Places, one_text_a_row, several_texts_a_row
from jaxir.models.encoder import Encoder, with_params

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
        self, ids: Int[Array, "B L"], places: Places, members: Bool[Array, "B L S"]
    ) -> Float[Array, "B S D"]:
        """Embeddings in float32 of texts whose tokens are given."""
        states = self.encoder(ids, places).astype(jnp.float32)
        if self.config.pooling == "cls":
            members = first_of(members)
        x = mean_pool(states, members)
        if self.config.dense:
            x = jnp.tanh(self.dense(x).astype(jnp.float32))
        if self.config.projection:
            x = self.projection(x).astype(jnp.float32)
        return l2_normalize(x) if self.config.normalize else x


def first_of(members: Bool[Array, "B L S"]) -> Bool[Array, "B L S"]:
    """The first token of each text, where [CLS] stands, also after padding on the left."""
    return members & (jnp.cumsum(members, axis=1, dtype=jnp.int32) == 1)


def mean_pool(
    states: Float[Array, "B L D"], members: Bool[Array, "B L S"]
) -> Float[Array, "B S D"]:
    """Mean over the tokens of each text; 0 for a text that has none."""
    total = jnp.einsum("bld,bls->bsd", states, members.astype(states.dtype), precision="highest")
    return total / jnp.maximum(jnp.sum(members, axis=1), 1)[:, :, None]


def l2_normalize(x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """Rows of length 1; a row shorter than 1e-12 stays short, with a finite gradient."""
    squares = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))


def init_params(config: DualEncoderConfig, key: PRNGKeyArray) -> Params:
    """Random parameters: normal of standard deviation 0.02, biases 0, scales 1 (BERT's code)."""
    return nnx.to_pure_dict(nnx.state(DualEncoder(config, nnx.Rngs(key))))


def abstract_params(config: DualEncoderConfig) -> Params:
    """Shapes and dtypes of the parameters, without making them."""
    return jax.eval_shape(lambda: init_params(config, jax.random.key(0)))


def _with_params(config: DualEncoderConfig, params: Params) -> DualEncoder:
    """The module with these parameters; those of the layers are gathered later, layer by layer."""
    return with_params(lambda: DualEncoder(config, nnx.Rngs(0)), params)


def matmul_precision(compute_dtype: str):
    """A context in which matrix products are as precise as the dtype that a config names.

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
    """Embeddings of texts, a row each, in float32; without seeds, one a text, no dropout.

    Raises:
        UserError: the texts are longer than the model's position table.
    """
    _check_length(config, ids)
    mask = jnp.asarray(mask, bool)
    places = one_text_a_row(config.encoder, mask, dropout_seeds)
    with matmul_precision(config.compute_dtype):
        return _with_params(config, params)(jnp.asarray(ids), places, mask[:, :, None])[:, 0]


def embed_packed(
    config: DualEncoderConfig,
    params: Params,
    ids: Int[Array, "B L"],
    segments: Int[Array, "B L"],
    texts: int,
    *,
    dropout_seeds: UInt32[Array, "B S"] | None = None,
) -> Float[Array, "B S D"]:
    """Embeddings of texts that share rows, equal to those that `embed` gives each.

    Args:
        config: the model's shape.
        params: its parameters.
        ids: texts that follow one another, then padding.
        segments: number of the token's text in its row, from 1; 0: padding.
        texts: S, the most texts that a row holds.
        dropout_seeds: one a text; None: no dropout.
    """
    places = several_texts_a_row(segments, dropout_seeds)
    members = segments[:, :, None] == jnp.arange(1, texts + 1)[None, None, :]
    with matmul_precision(config.compute_dtype):
        return _with_params(config, params)(ids, places, members)


def hidden_states(
    config: DualEncoderConfig,
    params: Params,
    ids: Int[Array, "B L"],
    mask: Bool[Array, "B L"],
) -> Float[Array, "states B L D"]:
    """Outputs of the embeddings and of every layer, in float32; XL's last is normalised.

    Raises:
        UserError: the texts are longer than the model's position table.
    """
    _check_length(config, ids)
    places = one_text_a_row(config.encoder, jnp.asarray(mask, bool), None)
    with matmul_precision(config.compute_dtype):
        encoder = _with_params(config, params).encoder
        states = encoder(jnp.asarray(ids), places, all_states=True)
    return states.astype(jnp.float32)
