"""The vision transformer (arXiv 2010.11929) of DeiT, ALBEF and CLIP.

Dimension key: B images, S side in pixels, C channels, P patches and the class token before them,
Q those of an image of another size, D hidden width.

Layers are those of `jaxir.models.encoder`. A patch is a vector of its pixels' values in the order
row, column, channel; PyTorch's convolution has channels first (`patch_kernel`).
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt32

from jaxir.config import VitConfig
from jaxir.errors import UserError
from jaxir.models.attention import TokenLayout
from jaxir.models.dropout import dropout, fold_in, fold_in_if_any
from jaxir.models.encoder import Norm, kernel_init, row_sharding, run_layers, stacked_layers


def image_layout(patches: int, seeds: UInt32[Array, "B"] | None) -> TokenLayout:
    """The layout of images: each patch attends to all patches of its image; there is no padding.

    Args:
        patches: P.
        seeds: of each image's dropout; None: no dropout.
    """
    positions = jnp.arange(patches, dtype=jnp.int32)[None, :]
    mask = jnp.ones((1, patches), bool)
    seeds = None if seeds is None else fold_in(seeds[:, None], positions)
    return TokenLayout(mask, mask[:, None, :], positions, seeds)


def patches_of(pixels: Float[Array, "B S S C"], size: int) -> Float[Array, "B patches values"]:
    """The patches of images in row-major order, and each patch's pixels in row-major order."""
    images, side, _, channels = pixels.shape
    count = side // size
    out = row_sharding(pixels)
    # [B, patch row, row, patch column, column, C] -> [B, patch row, patch column, row, column, C]
    shape = (images, count, size, count, size, channels)
    x = jnp.reshape(pixels, shape, out_sharding=out).transpose(0, 1, 3, 2, 4, 5)
    return jnp.reshape(x, (images, count**2, size**2 * channels), out_sharding=out)


class VisionTransformer(nnx.Module):
    """Patches, class token and positions through a stack of pre-LayerNorm layers.

    Raises:
        UserError: the image's side is no multiple of a patch's, or the width none of the heads.
    """

    def __init__(self, config: VitConfig, dtype: jnp.dtype, rngs: nnx.Rngs, remat: str = "none"):
        for name, whole, part in (
            ("image_size", config.image_size, config.patch_size),
            ("hidden_size", config.hidden_size, config.heads),
        ):
            if part < 1 or whole < part or whole % part:
                raise UserError(f"vision {name} = {whole}: must be a multiple of {part}")
        self.config, self.dtype, self.remat = config, dtype, remat
        self.patch_embedding = nnx.Linear(
            config.patch_size**2 * 3,
            config.hidden_size,
            use_bias=config.patch_bias,
            dtype=dtype,
            kernel_init=kernel_init(config),
            rngs=rngs,
        )
        self.class_embedding = nnx.Embed(
            1, config.hidden_size, embedding_init=kernel_init(config), rngs=rngs
        )
        self.position_embedding = nnx.Embed(
            config.positions, config.hidden_size, embedding_init=kernel_init(config), rngs=rngs
        )
        if config.norm_before:
            self.embedding_norm = Norm(config, rngs=rngs)
        self.layers = stacked_layers(config, dtype, rngs)
        self.final_norm = Norm(config, rngs=rngs)

    def embed(
        self, pixels: Float[Array, "B S S C"], seeds: UInt32[Array, "B P"] | None
    ) -> Float[Array, "B P D"]:
        """Input of the first layer: class token and patches, with their positions."""
        x = self.patch_embedding(patches_of(pixels, self.config.patch_size)).astype(jnp.float32)
        # a row of zeros in front of the patches, and the class embedding added to it
        x = jnp.pad(x, ((0, 0), (1, 0), (0, 0)))
        first = jnp.pad(self.class_embedding.embedding[...], ((0, x.shape[1] - 1), (0, 0)))
        x = x + (self.position_embedding.embedding[...] + first)[None]
        if self.config.norm_before:
            x = self.embedding_norm(x)
        return dropout(x, self.config.dropout, seeds).astype(self.dtype)

    def __call__(
        self, pixels: Float[Array, "B S S C"], seeds: UInt32[Array, "B"] | None = None
    ) -> Float[Array, "B P D"]:
        """States after the final LayerNorm; the class token's are `[:, 0]`.

        Args:
            pixels: normalised; S is `config.image_size`, C is 3.
            seeds: of each image's dropout; None: no dropout.

        Raises:
            UserError: the images have another size.
        """
        side = self.config.image_size
        if pixels.shape[1:] != (side, side, 3):
            raise UserError(
                f"images of shape {pixels.shape[1:]}: the model needs {side} x {side} x 3"
            )
        layout = image_layout(self.config.positions, seeds)
        # layers fold_in in 0 to N - 1, the embeddings N
        x = self.embed(pixels, fold_in_if_any(layout.seeds, self.config.layers))
        x, _ = run_layers(self.layers, x, layout, self.dtype, self.remat)
        return self.final_norm(x)


def patch_kernel(weight: Float[np.ndarray, "D C size size"]) -> Float[np.ndarray, "values D"]:
    """The kernel of the patch embedding, from the weight of PyTorch's convolution."""
    return np.ascontiguousarray(weight.transpose(2, 3, 1, 0).reshape(-1, len(weight)))


def resized_positions(
    table: Float[np.ndarray, "P D"], side_from: int, side_to: int
) -> Float[np.ndarray, "Q D"]:
    """A position table resized to another number of patches; the class token's row is unchanged.

    Bicubic as in PyTorch's `interpolate` (a = -0.75, half-pixel centres), which DeiT and ALBEF use.

    Args:
        table: rows of the class token and of the patches in row-major order.
        side_from: patches along a side now.
        side_to: patches along a side of the result.

    Raises:
        UserError: the table has another number of rows.
    """
    table = np.asarray(table)
    if table.shape[0] != 1 + side_from**2:
        raise UserError(
            f"position table of {table.shape[0]} rows: {side_from} x {side_from} patches "
            f"and a class token have {1 + side_from**2}"
        )
    if side_from == side_to:
        return table
    weights = _bicubic_weights(side_from, side_to)
    grid = table[1:].astype(np.float64).reshape(side_from, side_from, -1)
    # the kernel is separable: the same weights along rows and columns
    grid = np.einsum("ai,bj,ijd->abd", weights, weights, grid, optimize=True)
    return np.concatenate([table[:1], grid.reshape(side_to**2, -1).astype(table.dtype)])


def _bicubic_weights(side_from: int, side_to: int) -> Float[np.ndarray, "to from"]:
    """Weights of the old positions along a side in each new position; rows sum to 1."""
    # centres of the new pixels in the old pixels' coordinates; pixel i has its centre at i + 0.5
    centres = (np.arange(side_to) + 0.5) * side_from / side_to - 0.5
    weights = np.zeros((side_to, side_from))
    for offset in range(-1, 3):
        neighbour = np.floor(centres).astype(int) + offset
        weight = _cubic_kernel(np.abs(centres - neighbour))
        # beyond the border the border's value counts
        np.add.at(weights, (np.arange(side_to), np.clip(neighbour, 0, side_from - 1)), weight)
    return weights


def _cubic_kernel(x: Float[np.ndarray, "to"], a: float = -0.75) -> Float[np.ndarray, "to"]:
    """Keys' cubic convolution kernel (1981) at distances from 0 to 2."""
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, far)
