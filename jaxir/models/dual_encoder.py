"""The dual encoder: one encoder for queries and passages, whose output becomes embeddings.

Dimension key: B batch, L length in tokens, D width (of hidden states or embeddings), N layers.

Outside `jaxir.models` parameters are a plain nested dict of float32 arrays, whose leaves are named
`kernel`, `bias`, `scale` or `embedding`; those of the layers are stacked along a leading axis N.
All functions work under `jax.jit` and `jax.grad`, with no mesh, or on a mesh of explicit axes that
shards the rows of `ids` and `mask`; parameters are replicated, or sharded along any axis but N.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxir.config import DualEncoderConfig
from jaxir.models.dropout import Seeds
from jaxir.models.encoder import Encoder, gathered

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
        self, ids: Int[Array, "B L"], mask: Bool[Array, "B L"], dropout_seeds: Seeds | None
    ) -> Float[Array, "B D"]:
        """Embeddings in float32."""
        states = self.encoder(ids, mask, dropout_seeds).astype(jnp.float32)
        x = mean_pool(states, first_of(mask) if self.config.pooling == "cls" else mask)
        if self.config.dense:
            x = jnp.tanh(self.dense(x).astype(jnp.float32))
        if self.config.projection:
            x = self.projection(x).astype(jnp.float32)
        return l2_normalize(x) if self.config.normalize else x


def first_of(mask: Bool[Array, "B L"]) -> Bool[Array, "B L"]:
    """The first token of each row, where [CLS] stands, also after padding on the left."""
    return mask & (jnp.cumsum(mask, axis=1, dtype=jnp.int32) == 1)


def mean_pool(states: Float[Array, "B L D"], mask: Bool[Array, "B L"]) -> Float[Array, "B D"]:
    """Mean over the tokens of the mask; 0 for a row that has none."""
    total = jnp.sum(jnp.where(mask[:, :, None], states, 0.0), axis=1)
    return total / jnp.maximum(jnp.sum(mask, axis=1), 1)[:, None]


def l2_normalize(x: Float[Array, "B D"]) -> Float[Array, "B D"]:
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
    graph = nnx.graphdef(nnx.eval_shape(lambda: DualEncoder(config, nnx.Rngs(0))))
    params = jax.tree.map(jnp.asarray, params)
    encoder = params["encoder"]
    shapes = abstract_params(config)
    whole = gathered(*({**x, "encoder": {**x["encoder"], "layers": {}}} for x in (params, shapes)))
    return nnx.merge(graph, {**whole, "encoder": {**whole["encoder"], "layers": encoder["layers"]}})


def _precision(config: DualEncoderConfig):
    # TPUs and GPUs round float32 operands of a product to fewer bits unless told not to.
    return jax.default_matmul_precision(
        "highest" if config.compute_dtype == "float32" else "default"
    )


def embed(
    config: DualEncoderConfig,
    params: Params,
    ids: Int[Array, "B L"],
    mask: Bool[Array, "B L"],
    *,
    dropout_seeds: Seeds | None = None,
) -> Float[Array, "B D"]:
    """Embeddings of tokenised texts, in float32; without seeds, one a text, there is no dropout.

    Raises:
        UserError: the texts are longer than the model's position table.
    """
    with _precision(config):
        return _with_params(config, params)(
            jnp.asarray(ids), jnp.asarray(mask, bool), dropout_seeds
        )


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
    with _precision(config):
        encoder = _with_params(config, params).encoder
        states = encoder(jnp.asarray(ids), jnp.asarray(mask, bool), all_states=True)
    return states.astype(jnp.float32)
