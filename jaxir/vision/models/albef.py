"""ALBEF (arXiv 2107.07651): an image encoder, a text encoder, and layers that fuse the two.

Dimension key: B rows, S side in pixels, L tokens, D width of states, P patches and the class token,
E width of features, K masked tokens, V vocabulary. "States" are a tower's outputs, one vector a
token; "features" are unit vectors, one an image or caption.

Parameters are a plain nested dict of float32 arrays, as in `jaxir.models.dual_encoder`; the leaf
`log_temperature` is the log of the learned temperature over the one that the config names. The
functions work without a mesh, and under `jax.jit` on a mesh of explicit axes that shards the rows.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt32

from jaxir.config import AlbefModelConfig
from jaxir.errors import UserError
from jaxir.models.attention import padded_layout
from jaxir.models.dual_encoder import Params, l2_normalize, matmul_precision
from jaxir.models.encoder import Encoder, kernel_init
from jaxir.models.parameters import with_params
from jaxir.runtime.mesh import on_each_device
from jaxir.vision.models.fusion import Fusion, MaskedTokenHead
from jaxir.vision.models.vit import VisionTransformer


class Albef(nnx.Module):
    """Two encoders, projections of their class tokens' states, fusion layers and two heads."""

    def __init__(self, config: AlbefModelConfig, rngs: nnx.Rngs):
        self.config = config
        dtype, remat = jnp.dtype(config.compute_dtype), config.remat
        text = dataclasses.replace(config.text, layers=config.text_layers)

        def linear(width: int, out: int) -> nnx.Linear:
            init = kernel_init(config.text)
            return nnx.Linear(width, out, dtype=dtype, kernel_init=init, rngs=rngs)

        self.image_encoder = VisionTransformer(config.vit, dtype, rngs, remat)
        self.text_encoder = Encoder(text, dtype, rngs, remat)
        self.image_projection = linear(config.vit.hidden_size, config.projection)
        self.text_projection = linear(text.hidden_size, config.projection)
        self.fusion = Fusion(config.fusion, dtype, rngs, remat)
        self.match_head = linear(text.hidden_size, 2)
        self.masked_token_head = MaskedTokenHead(text, dtype, rngs)

    def image_states(
        self, pixels: Int[Array, "B S S 3"], seeds: UInt32[Array, "B"] | None
    ) -> Float[Array, "B P D"]:
        """States of the class token and the patches; pixels from 0 to 255."""
        mean, std = (jnp.array(x) for x in (self.config.image_mean, self.config.image_std))
        x = pixels.astype(jnp.float32) / 255
        return self.image_encoder((x - mean[None, None, None]) / std[None, None, None], seeds)

    def text_states(
        self,
        ids: Int[Array, "B L"],
        lengths: Int[Array, "B"],
        seeds: UInt32[Array, "B"] | None,
    ) -> Float[Array, "B L D"]:
        """States of the text encoder's tokens, before they attend to an image."""
        layout = padded_layout(self.config.text, text_mask(ids, lengths), seeds)
        return self.text_encoder(ids, layout)

    def image_features(self, states: Float[Array, "B P D"]) -> Float[Array, "B E"]:
        """Unit vectors of images, in float32."""
        return l2_normalize(self.image_projection(states[:, 0]).astype(jnp.float32))

    def text_features(self, states: Float[Array, "B L D"]) -> Float[Array, "B E"]:
        """Unit vectors of captions, in float32."""
        return l2_normalize(self.text_projection(states[:, 0]).astype(jnp.float32))

    def fuse(
        self,
        texts: Float[Array, "B L D"],
        lengths: Int[Array, "B"],
        images: Float[Array, "B P D"],
        seeds: UInt32[Array, "B"] | None,
    ) -> Float[Array, "B L D"]:
        """States of tokens after cross-attention to the image of their row."""
        layout = padded_layout(self.config.text, text_mask(texts, lengths), seeds)
        return self.fusion(texts, layout, images)

    def match_scores(self, fused: Float[Array, "B L D"]) -> Float[Array, "B 2"]:
        """Logits of "no match" and "match" of each pair."""
        return self.match_head(fused[:, 0]).astype(jnp.float32)

    def token_scores(self, fused: Float[Array, "B K D"]) -> Float[Array, "B K V"]:
        """Logits of masked tokens, over the vocabulary."""
        return self.masked_token_head(fused, self.text_encoder.token_embedding.embedding[...])


def text_mask(texts: Array, lengths: Int[Array, "B"]) -> Array:
    """The mask of a row's tokens; False: padding."""
    return jnp.arange(texts.shape[1])[None, :] < lengths[:, None]


def init_params(config: AlbefModelConfig, key: PRNGKeyArray) -> Params:
    """Random parameters: normal with standard deviation 0.02, biases 0, scales 1."""
    params = nnx.to_pure_dict(nnx.state(Albef(config, nnx.Rngs(key))))
    return params | {"log_temperature": jnp.float32(0)}


def abstract_params(config: AlbefModelConfig) -> Params:
    """Shapes and dtypes of the parameters, without allocating them."""
    return jax.eval_shape(lambda: init_params(config, jax.random.key(0)))


def module(config: AlbefModelConfig, params: Params) -> Albef:
    """The module with these parameters; those of layers are gathered layer by layer."""
    # the temperature belongs to the loss, not to the module
    module_params = {name: leaves for name, leaves in params.items() if name != "log_temperature"}
    return with_params(lambda: Albef(config, nnx.Rngs(0)), module_params)


def check_length(config: AlbefModelConfig, ids: Int[Array, "B L"]) -> None:
    """Check that captions fit the position table.

    Raises:
        UserError: they are longer.
    """
    if ids.shape[1] > config.text.max_tokens:
        raise UserError(
            f"captions of {ids.shape[1]} tokens: the model has positions for "
            f"{config.text.max_tokens}; cut them or raise model.text.positions"
        )


def image_states(
    config: AlbefModelConfig, params: Params, pixels: Int[Array, "B S S 3"]
) -> Float[Array, "B P D"]:
    """States of images, an input of `match_scores`; pixels from 0 to 255."""

    def local(params: Params, pixels: Array, _: None) -> Array:
        return module(config, params).image_states(pixels, None)

    with matmul_precision(config.compute_dtype):
        return on_each_device(local, params, pixels)


def image_features(
    config: AlbefModelConfig, params: Params, pixels: Int[Array, "B S S 3"]
) -> Float[Array, "B E"]:
    """Unit vectors of images; their dot products with those of captions rank both."""

    def local(params: Params, pixels: Array, _: None) -> Array:
        model = module(config, params)
        return model.image_features(model.image_states(pixels, None))

    with matmul_precision(config.compute_dtype):
        return on_each_device(local, params, pixels)


def text_features(
    config: AlbefModelConfig,
    params: Params,
    ids: Int[Array, "B L"],
    lengths: Int[Array, "B"],
) -> Float[Array, "B E"]:
    """Unit vectors of captions.

    Raises:
        UserError: they are longer than the model's position table.
    """
    check_length(config, ids)

    def local(params: Params, rows: tuple[Array, Array], _: None) -> Array:
        model = module(config, params)
        return model.text_features(model.text_states(*rows, None))

    with matmul_precision(config.compute_dtype):
        return on_each_device(local, params, (ids, lengths))


def match_scores(
    config: AlbefModelConfig,
    params: Params,
    images: Float[Array, "B P D"],
    ids: Int[Array, "B L"],
    lengths: Int[Array, "B"],
) -> Float[Array, "B"]:
    """Log-odds that a row's image and caption match.

    Args:
        config: the model's shape.
        params: its parameters.
        images: states of the images.
        ids: of the captions' tokens.
        lengths: of the captions, in tokens.

    Raises:
        UserError: captions are longer than the model's position table.
    """
    check_length(config, ids)

    def local(params: Params, rows: tuple[Array, Array, Array], _: None) -> Array:
        images, ids, lengths = rows
        model = module(config, params)
        texts = model.text_states(ids, lengths, None)
        scores = model.match_scores(model.fuse(texts, lengths, images, None))
        return scores[:, 1] - scores[:, 0]

    with matmul_precision(config.compute_dtype):
        return on_each_device(local, params, (images, ids, lengths))
