"""The vision transformer (arXiv 2010.11929), as DeiT and ALBEF or as CLIP has it.

Dimension key: B images, S side in pixels, C channels, P patches and the class token before them,
Q the same of another size, D hidden width.

Its layers are those of `jaxir.models.encoder`. In its parameters a patch is a vector of rows, then
columns, then channels, where PyTorch's convolution has channels first (`patch_kernel`).
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt32

from jaxir.config import VitConfig
from jaxir.errors import UserError
from jaxir.models.attention import Places
from jaxir.models.dropout import dropout, fold, fold_each
from jaxir.models.encoder import Norm, kernel_init, run_layers, sharding_of_rows, stacked_layers


def whole_image(patches: int, seeds: UInt32[Array, "B"] | None) -> Places:
    """Places of the tokens of images: each attends to all of its image, and none is padding.

    Args:
        patches: P.
        seeds: of the images' dropout; None: none.
    """
    places = jnp.arange(patches, dtype=jnp.int32)[None, :]
    every = jnp.ones((1, patches), bool)
    seeds = None if seeds is None else fold(seeds[:, None], places)
    return Places(every, every[:, None, :], places, seeds)


def patches_of(pixels: Float[Array, "B S S C"], size: int) -> Float[Array, "B patches values"]:
    """The patches of images, by rows: of each its pixels' values, by rows too."""
    images, side, _, channels = pixels.shape
    count = side // size
    out = sharding_of_rows(pixels)
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
        """What enters the first layer."""
        x = self.patch_embedding(patches_of(pixels, self.config.patch_size)).astype(jnp.float32)
        x = jnp.pad(x, ((0, 0), (1, 0), (0, 0)))
        first = jnp.pad(self.class_embedding.embedding[...], ((0, x.shape[1] - 1), (0, 0)))
        x = x + (self.position_embedding.embedding[...] + first)[None]
        if self.config.norm_before:
            x = self.embedding_norm(x)
        return dropout(x, self.config.dropout, seeds).astype(self.dtype)

    def __call__(
        self, pixels: Float[Array, "B S S C"], seeds: UInt32[Array, "B"] | None = None
    ) -> Float[Array, "B P D"]:
        """States after the final LayerNorm; those of the class token are `[:, 0]`.

        Args:
            pixels: normalised; S is the config's image_size, C is 3.
            seeds: of the images' dropout; None: none.
        """
        side = self.config.image_size
        if pixels.shape[1:] != (side, side, 3):
            raise UserError(
                f"images of shape {pixels.shape[1:]}: the model sees {side} x {side} x 3"
            )
        places = whole_image(self.config.positions, seeds)
        x = self.embed(pixels, fold_each(places.seeds, self.config.layers))
        x, _ = run_layers(self.layers, x, places, self.dtype, self.remat)
        return self.final_norm(x)


def patch_kernel(weight: Float[np.ndarray, "D C size size"]) -> Float[np.ndarray, "values D"]:
    """Our kernel of the patches, from the weight of PyTorch's convolution."""
    return np.ascontiguousarray(weight.transpose(2, 3, 1, 0).reshape(-1, len(weight)))


def resized_positions(
    table: Float[np.ndarray, "P D"], side_from: int, side_to: int
) -> Float[np.ndarray, "Q D"]:
    """A position table for images with another number of patches; the class token's row is kept.

    Bicubic as in PyTorch's `interpolate` (a = -0.75, half-pixel centres), which DeiT and ALBEF use.

    Args:
        table: of the class token and the patches, by rows.
        side_from: patches along a side of the image that it was made for.
        side_to: patches along a side of the other.
    """
    table = np.asarray(table)
    if table.shape[0] != 1 + side_from**2:
        raise UserError(
            f"position table of {table.shape[0]} rows: {side_from} x {side_from} patches "
            f"and a class token have {1 + side_from**2}"
        )
    if side_from == side_to:
        return table
    weights = _bicubic(side_from, side_to)
    grid = table[1:].astype(np.float64).reshape(side_from, side_from, -1)
    grid = np.einsum("ai,bj,ijd->abd", weights, weights, grid, optimize=True)
    return np.concatenate([table[:1], grid.reshape(side_to**2, -1).astype(table.dtype)])


def _bicubic(side_from: int, side_to: int) -> Float[np.ndarray, "to from"]:
    """What each old place along a side gives to each new one."""
    centres = (np.arange(side_to) + 0.5) * side_from / side_to - 0.5
    weights = np.zeros((side_to, side_from))
    for offset in range(-1, 3):
        near = np.floor(centres).astype(int) + offset
        share = _cubic(np.abs(centres - near))
        # beyond the border stands what stands at it
        np.add.at(weights, (np.arange(side_to), np.clip(near, 0, side_from - 1)), share)
    return weights


def _cubic(x: Float[np.ndarray, "to"], a: float = -0.75) -> Float[np.ndarray, "to"]:
    """Keys' kernel (1981) at distances from 0 to 2."""
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, far)
