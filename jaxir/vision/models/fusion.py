"""ALBEF's fusion layers, which attend to an image, and the head that predicts masked tokens.

Dimension key: B rows, L tokens, D width of a text's states, P patches, W width of an image's
states, K predicted tokens, V vocabulary.

As in ALBEF's BertModel (arXiv 2107.07651, section 3.1), cross-attention stands between a layer's
self-attention and its feed-forward block, with a residual and a LayerNorm of its own.
"""

from functools import partial

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxir.config import EncoderConfig, FusionConfig
from jaxir.models.attention import Places
from jaxir.models.dropout import fold_each
from jaxir.models.encoder import Layer, Norm, gelu, kernel_init, run_layers, stacked_layers


class FusionLayer(Layer):
    """A layer that attends to its text, then to an image."""

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
        self, x: Float[Array, "B L D"], places: Places, image: Float[Array, "B P W"]
    ) -> Float[Array, "B L D"]:
        """The block in which each token attends to all of its row's image."""
        patches = jnp.arange(image.shape[1], dtype=jnp.int32)[None, :]
        first, second = (fold_each(places.seeds, number) for number in (3, 4))
        every = jnp.ones((1, 1, image.shape[1]), bool)
        over_image = Places(places.mask, every, patches, first)
        linears = (self.cross_query, self.cross_key, self.cross_value, self.cross_output)

        def attend(x: Array) -> Array:
            return self.attend(linears, x, image, over_image)

        return self.residual(attend, self.cross_norm, x, second)

    def __call__(  # type: ignore[override]
        self, x: Float[Array, "B L D"], places: Places, image: Float[Array, "B P W"]
    ) -> Float[Array, "B L D"]:
        """One block after the other."""
        x = self.cross_attention(self.self_attention(x, places), places, image)
        return self.feed_forward(x, places)


class Fusion(nnx.Module):
    """A stack of fusion layers."""

    def __init__(self, config: FusionConfig, dtype: jnp.dtype, rngs: nnx.Rngs, remat: str = "none"):
        self.dtype, self.remat = dtype, remat
        self.layers = stacked_layers(config, dtype, rngs, FusionLayer)

    def __call__(
        self, x: Float[Array, "B L D"], places: Places, image: Float[Array, "B P W"]
    ) -> Float[Array, "B L D"]:
        """States of texts after the last layer, from those of the text encoder's last."""
        more = (image.astype(self.dtype),)
        return run_layers(self.layers, x, places, self.dtype, self.remat, more=more)[0]


class MaskedTokenHead(nnx.Module):
    """Dense, GELU and LayerNorm, then scores by the table of token embeddings and a bias."""

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
        """Scores of all tokens, in float32."""
        x = self.norm(gelu(self.dense(states)))
        scores = jnp.einsum(
            "bkd,vd->bkv",
            x.astype(self.dtype),
            table.astype(self.dtype),
            preferred_element_type=jnp.float32,
        )
        return scores + self.bias[...][None, None, :]
