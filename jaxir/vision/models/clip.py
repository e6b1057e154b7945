"""CLIP (arXiv 2103.00020): an image and a text transformer, projected into one space.

Dimension key: B images or texts, S side in pixels, L tokens, D hidden width, E projected width.

Parameters are a nested dict as in `jaxir.models.dual_encoder`, and its functions work on the same
meshes: rows of images and texts are sharded, parameters replicated or split.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxir.config import ClipConfig, ClipTextConfig
from jaxir.errors import UserError
from jaxir.models.attention import TokenLayout
from jaxir.models.dual_encoder import Params, l2_normalize, matmul_precision
from jaxir.models.encoder import Norm, kernel_init, lookup, run_layers, stacked_layers
from jaxir.models.parameters import with_params
from jaxir.vision.models.vit import VisionTransformer

_LOGIT_SCALE = 2.6592  # log(1 / 0.07)


class ClipText(nnx.Module):
    """The text tower: a causal transformer; the state of the end token represents the text."""

    def __init__(self, config: ClipTextConfig, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.config, self.dtype = config, dtype
        width = config.hidden_size
        self.token_embedding = nnx.Embed(
            config.vocab_size, width, embedding_init=kernel_init(config), rngs=rngs
        )
        self.position_embedding = nnx.Embed(
            config.positions, width, embedding_init=kernel_init(config), rngs=rngs
        )
        self.layers = stacked_layers(config, dtype, rngs)
        self.final_norm = Norm(config, rngs=rngs)

    def __call__(self, ids: Int[Array, "B L"]) -> Float[Array, "B D"]:
        """State of each text's end token, in float32; tokens after it have no influence."""
        length = ids.shape[1]
        if length > self.config.positions:
            raise UserError(
                f"texts of {length} tokens: the model has positions for {self.config.positions}"
            )
        x = lookup(self.token_embedding.embedding[...], ids)
        x = (x + self.position_embedding.embedding[...][None, :length]).astype(self.dtype)
        positions = jnp.arange(length, dtype=jnp.int32)
        causal_mask = positions[None, :, None] >= positions[None, None, :]
        # one row for all texts: padding comes after the end token, which does not attend to it
        layout = TokenLayout(jnp.ones((1, length), bool), causal_mask, positions[None, :], None)
        x, _ = run_layers(self.layers, x, layout, self.dtype)
        # a product with one-hot rows selects the end token also where rows are sharded
        is_end = (positions[None, :] == self._end_positions(ids)[:, None]).astype(jnp.float32)
        x = self.final_norm(x).astype(jnp.float32)
        return jnp.einsum("bld,bl->bd", x, is_end, precision="highest")

    def _end_positions(self, ids: Int[Array, "B L"]) -> Int[Array, "B"]:
        if self.config.highest_id_ends:
            return jnp.argmax(ids, axis=1).astype(jnp.int32)
        return jnp.argmax(ids == self.config.end_id, axis=1).astype(jnp.int32)


class Clip(nnx.Module):
    """Image and text tower, their projections, and the scale of the logits."""

    def __init__(self, config: ClipConfig, rngs: nnx.Rngs):
        dtype = jnp.dtype(config.compute_dtype)

        def projection(width: int) -> nnx.Linear:
            return nnx.Linear(
                width,
                config.projection,
                use_bias=False,
                dtype=dtype,
                kernel_init=nnx.initializers.normal(0.02),
                rngs=rngs,
            )

        self.vision = VisionTransformer(config.vision, dtype, rngs)
        self.vision_projection = projection(config.vision.hidden_size)
        if config.text is not None:
            self.text = ClipText(config.text, dtype, rngs)
            self.text_projection = projection(config.text.hidden_size)
            self.logit_scale = nnx.Param(jnp.full((1,), _LOGIT_SCALE, jnp.float32))

    def embed_images(self, pixels: Float[Array, "B S S 3"]) -> Float[Array, "B E"]:
        """Unit vectors of preprocessed images."""
        x = self.vision_projection(self.vision(pixels)[:, 0])
        return l2_normalize(x.astype(jnp.float32))

    def embed_texts(self, ids: Int[Array, "B L"]) -> Float[Array, "B E"]:
        """Unit vectors of texts; ids have the special tokens."""
        return l2_normalize(self.text_projection(self.text(ids)).astype(jnp.float32))


def init_params(config: ClipConfig, key: PRNGKeyArray) -> Params:
    """Random parameters: normal with standard deviation 0.02, biases 0, scales 1."""
    return nnx.to_pure_dict(nnx.state(Clip(config, nnx.Rngs(key))))


def abstract_params(config: ClipConfig) -> Params:
    """Shapes and dtypes of the parameters, without allocating them."""
    return jax.eval_shape(lambda: init_params(config, jax.random.key(0)))


def _module(config: ClipConfig, params: Params) -> Clip:
    return with_params(lambda: Clip(config, nnx.Rngs(0)), params)


def embed_images(
    config: ClipConfig, params: Params, pixels: Float[Array, "B S S 3"]
) -> Float[Array, "B E"]:
    """Unit vectors in float32 of preprocessed images; see `clip_preprocessing`."""
    with matmul_precision(config.compute_dtype):
        return _module(config, params).embed_images(jnp.asarray(pixels))


def embed_texts(config: ClipConfig, params: Params, ids: Int[Array, "B L"]) -> Float[Array, "B E"]:
    """Unit vectors in float32 of texts.

    Args:
        config: of a model with a text tower.
        params: its parameters.
        ids: with the special tokens; any padding may follow a text's end token.

    Raises:
        UserError: the texts are longer than the model's position table.
    """
    with matmul_precision(config.compute_dtype):
        return _module(config, params).embed_texts(jnp.asarray(ids))
