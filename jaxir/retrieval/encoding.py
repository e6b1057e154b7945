"""Encoding of texts into embeddings, on all devices, in a few static shapes.

Dimension key: R texts, B texts of a batch, L tokens, D embedding width.
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxir.config import DualEncoderConfig
from jaxir.data.tokens import Tokens
from jaxir.models import dual_encoder
from jaxir.progress import progress_bar

# Texts are padded to the next of these. Each costs one compilation; a factor of four thirds between
# them keeps the waste to about a tenth.
WIDTHS = (
    *(16, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512),
    *(768, 1024, 1536, 2048, 3072, 4096, 6144, 8192),
)

Embed = Callable[[Any, Array, Array], Array]
# Float[np.ndarray, "R D"], or Float[Array, "R D"] where they were asked to stay on the devices
Embeddings: TypeAlias = Any


def resolve_batch_tokens(asked: int) -> int:
    """Tokens of a batch: those asked for, or for 0 what suits the devices.

    On CPUs that is what stays in a core's cache between two operations: 2,048 tokens of MiniLM took
    half the time of 16,384 in one batch.
    """
    return asked or (2_048 if jax.default_backend() == "cpu" else 16_384)


def make_embed(config: DualEncoderConfig) -> Embed:
    """A jitted `embed(params, ids "B L", lengths "B") -> "B D"`, to be made once and kept."""

    @jax.jit
    def embed(params: Any, ids: Array, lengths: Array) -> Array:
        mask = jnp.arange(ids.shape[1])[None, :] < lengths[:, None]
        embeddings = dual_encoder.embed(config, params, ids, mask)
        if jax.sharding.get_abstract_mesh().empty:
            return embeddings
        # replicated, since every process reads them all
        return jax.reshard(embeddings, jax.sharding.PartitionSpec())

    return embed


def encode(
    embed: Embed,
    params: Any,
    tokens: Tokens,
    texts: Int[np.ndarray, "R"],
    limit: int,
    batch_tokens: int,
    progress: str | None = None,
    *,
    on_devices: bool = False,
) -> Embeddings:
    """Embeddings of the selected texts, in their order.

    Texts are sorted by length inside, so that little of a batch is padding. Batches are split over
    the devices of the mesh that is set, if one is; parameters are replicated.

    Args:
        embed: of `make_embed`.
        params: of the model.
        tokens: all texts.
        texts: indices of those to encode, at least one.
        limit: longer texts are cut to this number of tokens.
        batch_tokens: tokens of a batch on one device, padding included.
        progress: name of a progress bar; None: none is shown.
        on_devices: return a `jax.Array`, whole on each device, in place of a NumPy array.
    """
    batches = _encode_batches(embed, params, tokens, texts, limit, batch_tokens, progress)
    if on_devices:
        order, parts = zip(
            *((chosen, jax.block_until_ready(rows[: len(chosen)])) for chosen, rows in batches)
        )
        return jnp.concatenate(parts)[np.argsort(np.concatenate(order))]
    embeddings = np.empty((0, 0), np.float32)
    for chosen, rows in batches:
        if not len(embeddings):
            embeddings = np.empty((len(texts), rows.shape[1]), np.float32)
        embeddings[chosen] = jax.device_get(rows)[: len(chosen)]
    return embeddings


def _encode_batches(
    embed: Embed,
    params: Any,
    tokens: Tokens,
    texts: Int[np.ndarray, "R"],
    limit: int,
    batch_tokens: int,
    progress: str | None,
) -> Iterator[tuple[Int[np.ndarray, "N"], Float[Array, "B D"]]]:
    """Positions in `texts` of each batch's N texts, and their embeddings, then those of padding."""
    lengths = np.minimum(tokens.lengths_with_special_tokens(texts), limit)

    def batches() -> Iterator[tuple[np.ndarray, Array]]:
        for chosen, width, size in _batches(lengths, limit, batch_tokens):
            # padding rows (-1) fill up a batch that would need a compilation of its own
            padded = np.full(size, -1)
            padded[: len(chosen)] = texts[chosen]
            ids, row_lengths = tokens.padded(padded, width)
            yield chosen, embed(params, rows_to_devices(ids), rows_to_devices(row_lengths))

    with progress_bar(progress or "", len(texts), "texts", disable=not progress, leave=None) as bar:
        for chosen, rows in _one_ahead(batches()):
            yield chosen, rows
            bar.update(len(chosen))


def _batches(
    lengths: Int[np.ndarray, "R"], limit: int, batch_tokens: int
) -> Iterator[tuple[Int[np.ndarray, "B"], int, int]]:
    """Texts of each batch, the longest first; its width; and its rows, padding rows included."""
    mesh = jax.sharding.get_mesh()
    devices = 1 if mesh.empty else mesh.size
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        width = min(limit, next(w for w in (*WIDTHS, limit) if w >= lengths[order[start]]))
        most = max(1, batch_tokens // (width * devices))
        # the last batch is a power of two that holds the rest: few shapes, and few padding rows
        needed = 1 << (-(-(len(order) - start) // devices) - 1).bit_length()
        size = min(most, needed) * devices
        yield order[start : start + size], width, size
        start += size


def _one_ahead(
    batches: Iterator[tuple[np.ndarray, Array]],
) -> Iterator[tuple[np.ndarray, Array]]:
    """Yield each batch after the next one was dispatched: devices work while it is read back."""
    before = next(batches)
    for batch in batches:
        yield before
        before = batch
    yield before


def rows_to_devices(array: np.ndarray) -> Array:
    """Split rows over the devices of the mesh that is set, if one is."""
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return jax.device_put(array)
    # every process has all rows, and its devices take theirs
    by_row = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(mesh.axis_names))
    return jax.make_array_from_callback(array.shape, by_row, lambda index: array[index])
