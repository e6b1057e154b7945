"""ALBEF's fusion layers, with cross-attention to an image, and the head for masked tokens.

Dimension key: B rows, L tokens, D width of a text's states, P patches, W width of an image's
states, K predicted tokens, V vocabulary.

Cross-attention is a block of its own, with residual and LayerNorm, between a layer's self-attention
and its feed-forward block, as in ALBEF's BertModel (arXiv 2107.07651, section 3.1).
"""

from functools import partial

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxir.config import EncoderConfig, FusionConfig
from jaxir.models.attention import TokenLayout
from jaxir.models.dropout import fold_in_if_any
from jaxir.models.encoder import Layer, Norm, gelu, kernel_init, run_layers, stacked_layers


class FusionLayer(Layer):
    """A layer of self-attention to the text, cross-attention to an image, and feed-forward."""

    def __init__(self, config: FusionConfig, dtype: jnp.dtype, rngs: nnx.Rngs):
        super().__init__(config, dtype, rngs)
        linear = partial(nnx.Linear, dtype=dtype, kernel_init=kernel_init(config), rngs=rngs)
        width, source = config.hidden_size, config.source_size
        self.cross_query = linear(width, width)
        self.cross_key = linear(source, width)
        self.cross_value = linear(source, width)
        self.cross_output = linear(width, width)
        self.cross_norm = Norm(config, rngs=rngs)

    def cross_attention(
        self, x: Float[Array, "B L D"], layout: TokenLayout, image: Float[Array, "B P W"]
    ) -> Float[Array, "B L D"]:
        """The cross-attention block: each token attends to all patches of its row's image."""
        patches = jnp.arange(image.shape[1], dtype=jnp.int32)[None, :]
        # `Layer`'s blocks fold_in in 0 to 2
        attention_seeds, output_seeds = (fold_in_if_any(layout.seeds, i) for i in (3, 4))
        attention_mask = jnp.ones((1, 1, image.shape[1]), bool)
        # positions are those of the tokens attended to: the patches
        cross_layout = TokenLayout(layout.mask, attention_mask, patches, attention_seeds)
        linears = (self.cross_query, self.cross_key, self.cross_value, self.cross_output)

        def attend(x: Array) -> Array:
            return self.attend(linears, x, image, cross_layout)

        return self.residual(attend, self.cross_norm, x, output_seeds)

    def __call__(  # type: ignore[override]
        self, x: Float[Array, "B L D"], layout: TokenLayout, image: Float[Array, "B P W"]
    ) -> Float[Array, "B L D"]:
        """Self-attention, cross-attention, then feed-forward."""
        x = self.cross_attention(self.self_attention(x, layout), layout, image)
        return self.feed_forward(x, layout)


class Fusion(nnx.Module):
    """A stack of fusion layers."""

    def __init__(self, config: FusionConfig, dtype: jnp.dtype, rngs: nnx.Rngs, remat: str = "none"):
        self.dtype, self.remat = dtype, remat
        self.layers = stacked_layers(config, dtype, rngs, FusionLayer)

    def __call__(
        self, x: Float[Array, "B L D"], layout: TokenLayout, image: Float[Array, "B P W"]
    ) -> Float[Array, "B L D"]:
        """States of texts after the last fusion layer, from those of the text encoder."""
        extra = (image.astype(self.dtype),)
        return run_layers(self.layers, x, layout, self.dtype, self.remat, extra=extra)[0]


class MaskedTokenHead(nnx.Module):
    """Dense, GELU and LayerNorm, then logits by the token embedding table and a bias."""

    def __init__(self, config: EncoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs):
        width = config.hidden_size
        self.dtype = dtype
        self.dense = nnx.Linear(
            width, width, dtype=dtype, kernel_init=kernel_init(config), rngs=rngs
        )
        self.norm = Norm(config, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros(config.vocab_size))

    def __call__(
        self, states: Float[Array, "B K D"], table: Float[Array, "V D"]
    ) -> Float[Array, "B K V"]:
        """Logits over the vocabulary, in float32."""
        x = self.norm(gelu(self.dense(states)))
        scores = jnp.einsum(
            "bkd,vd->bkv",
            x.astype(self.dtype),
            table.astype(self.dtype),
            preferred_element_type=jnp.float32,
        )
        return scores + self.bias[...][None, None, :]
