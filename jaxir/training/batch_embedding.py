"""Embeddings of a batch's queries and passages, padded or packed, on all devices.

Dimension key: B pairs, P passages, L tokens of a row, R rows, S texts of a row, D embedding width.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxir.config import Config
from jaxir.data.batch import PACKED_FIELDS, is_packed
from jaxir.models import dual_encoder
from jaxir.models.dropout import fold_in
from jaxir.runtime.mesh import in_chunks, on_each_device, split


def embed_batch(
    config: Config, params: Any, batch: dict[str, Array], dropout_seed: Array | None
) -> tuple[Float[Array, "B D"], Float[Array, "P D"]]:
    """Embeddings of a batch's queries and passages; without a seed, no dropout.

    With `scale.grad_cache_chunk` this is gradient caching (Gao et al., arXiv 2101.06983): texts are
    embedded a chunk at a time, the loss is taken over all, and the backward pass embeds each chunk
    again. A text's dropout depends on its index in the batch alone, so both passes draw the same
    masks, and so do padded and packed batches.
    """
    embed = _embed_packed if is_packed(batch) else _embed_padded
    return embed(config, params, batch, dropout_seed)


def _embed_padded(
    config: Config, params: Any, batch: dict[str, Array], dropout_seed: Array | None
) -> tuple[Array, Array]:
    def embed(side: str, number: int) -> Array:
        def on_device(params: Any, rows: tuple[Array, ...], seed: Array | None) -> Array:
            def on_chunk(chunk: tuple[Array, ...]) -> Array:
                ids, lengths, indices = chunk
                mask = jnp.arange(ids.shape[1])[None, :] < lengths[:, None]
                seeds = None if seed is None else fold_in(fold_in(seed, number), indices)
                return dual_encoder.embed(config.model, params, ids, mask, dropout_seeds=seeds)

            return in_chunks(on_chunk, rows, _chunks(config, rows))

        ids, lengths = batch[f"{side}_ids"], batch[f"{side}_lengths"]
        indices = split(jnp.arange(len(ids), dtype=jnp.uint32))
        return on_each_device(on_device, params, (ids, lengths, indices), dropout_seed)

    return embed("query", 0), embed("passage", 1)


def _embed_packed(
    config: Config, params: Any, batch: dict[str, Array], dropout_seed: Array | None
) -> tuple[Array, Array]:
    pairs = len(batch["query_slots"])

    def on_device(
        params: Any, arrays: tuple[Array, ...], seed: Array | None
    ) -> tuple[Array, Array]:
        *rows, query_slots, passage_slots = arrays
        max_texts = rows[2].shape[1]

        def on_chunk(chunk: tuple[Array, ...]) -> Array:
            ids, segments, texts = chunk
            seeds = None
            if seed is not None:
                # `texts` numbers all queries, then all passages: take the side and the index of
                # a text apart, so that its seed is that of the padded batch
                side = (texts >= pairs).astype(jnp.uint32)
                seeds = fold_in(fold_in(seed, side), jnp.where(texts < pairs, texts, texts - pairs))
            return dual_encoder.embed_packed(
                config.model, params, ids, segments, max_texts, dropout_seeds=seeds
            )

        slots = in_chunks(on_chunk, tuple(rows), _chunks(config, rows))
        embeddings = slots.reshape(-1, slots.shape[-1])
        return embeddings[query_slots], embeddings[passage_slots]

    arrays = tuple(batch[name] for name in PACKED_FIELDS)
    return on_each_device(on_device, params, arrays, dropout_seed)


def _chunks(config: Config, rows: Sequence[Array]) -> int:
    """Number of chunks that a device embeds its rows in."""
    chunk = config.scale.grad_cache_chunk
    return len(rows[0]) // chunk if chunk else 1
