"""Texts into embeddings, on all devices, in a few static shapes.

Dimension key: R texts, B texts of a batch, L tokens, D embedding width.
"""

from collections.abc import Callable, Iterator
from typing import Any

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


def tokens_at_once(asked: int) -> int:
    """Tokens of a batch: those asked for, or for 0 what suits the devices.

    On CPUs that is what stays in a core's cache between two operations: 2,048 tokens of MiniLM took
    half the time that 16,384 at once did.
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
        # every process reads them all
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
) -> Float[np.ndarray, "R D"]:
    """Embeddings of some texts, one at least, in their order; texts over `limit` tokens are cut.

    Texts are sorted by length inside, so that little of a batch is padding. Parameters are
    replicated over the devices of the mesh that is set, if one is, and batches are split. With
    `progress` a bar of that name is shown.
    """
    embeddings = np.empty((0, 0), np.float32)
    for chosen, rows in _encoded(embed, params, tokens, texts, limit, batch_tokens, progress):
        if not len(embeddings):
            embeddings = np.empty((len(texts), rows.shape[1]), np.float32)
        embeddings[chosen] = jax.device_get(rows)[: len(chosen)]
    return embeddings


def encode_on_devices(
    embed: Embed,
    params: Any,
    tokens: Tokens,
    texts: Int[np.ndarray, "R"],
    limit: int,
    batch_tokens: int,
    progress: str | None = None,
) -> Float[Array, "R D"]:
    """As `encode`; the embeddings stay where they were made, whole on each device."""
    places, parts = [], []
    for chosen, rows in _encoded(embed, params, tokens, texts, limit, batch_tokens, progress):
        places.append(chosen)
        parts.append(jax.block_until_ready(rows[: len(chosen)]))
    return jnp.concatenate(parts)[np.argsort(np.concatenate(places))]


def _encoded(
    embed: Embed,
    params: Any,
    tokens: Tokens,
    texts: Int[np.ndarray, "R"],
    limit: int,
    batch_tokens: int,
    progress: str | None,
) -> Iterator[tuple[np.ndarray, Array]]:
    """The numbers of each batch's texts, and their embeddings, behind which absent ones follow."""
    lengths = np.minimum(tokens.lengths_with_frame(texts), limit)

    def batches() -> Iterator[tuple[np.ndarray, Array]]:
        for chosen, width, size in _batches(lengths, limit, batch_tokens):
            # absent texts fill up a batch that would have a shape of its own
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
    """The texts of each batch, the longest first; its width; and its rows, with absent ones."""
    mesh = jax.sharding.get_mesh()
    devices = 1 if mesh.empty else mesh.size
    order = np.argsort(-lengths, kind="stable")
    first = 0
    while first < len(order):
        width = min(limit, next(w for w in (*WIDTHS, limit) if w >= lengths[order[first]]))
        most = max(1, batch_tokens // (width * devices))
        # few texts do not fill a batch, and one text is no batch of a hundred
        needed = 1 << (-(-(len(order) - first) // devices) - 1).bit_length()
        size = min(most, needed) * devices
        yield order[first : first + size], width, size
        first += size


def _one_ahead(
    batches: Iterator[tuple[np.ndarray, Array]],
) -> Iterator[tuple[np.ndarray, Array]]:
    """Each batch, after the devices were given the next one to work on while it is read back."""
    before = next(batches)
    for batch in batches:
        yield before
        before = batch
    yield before


def rows_to_devices(array: np.ndarray) -> Array:
    """Rows split over the devices of the mesh that is set, if one is."""
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return jax.device_put(array)
    # every process has all rows, and its devices take theirs
    by_row = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(mesh.axis_names))
    return jax.make_array_from_callback(array.shape, by_row, lambda index: array[index])
