"""What a retriever is trained by: a batch's texts embedded, and InfoNCE over all of them.

Dimension key: B pairs, P passages, L tokens of a row, R rows, S texts of a row, D embedding width.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxir.config import Config
from jaxir.models import dual_encoder
from jaxir.models.dropout import fold
from jaxir.runtime.mesh import in_chunks, on_each_device, split
from jaxir.training.family import Metrics, Objective
from jaxir.training.losses import clamped_temperature, contrastive_loss


def init_params(config: Config, model_params: Any | None) -> dict[str, Any]:
    """What the optimizer sees: `model`, and `log_temperature` where it is learned."""
    if model_params is None:
        model_params = dual_encoder.init_params(config.model, jax.random.key(config.seed))
    params = {"model": model_params}
    if config.loss.learned_temperature:
        params["log_temperature"] = jnp.log(jnp.float32(config.loss.temperature))
    return params


def batch_loss(
    params: Any, batch: dict[str, Array], config: Config, dropout_seed: Array | None
) -> tuple[Array, Metrics]:
    """Loss of a global batch, and what is worth watching.

    With `scale.grad_cache_chunk` this is gradient caching (Gao et al., arXiv 2101.06983): texts are
    embedded a few at a time, the loss is taken over all, and the backward pass embeds them again.
    A text's dropout depends on its place in the batch alone, so both passes draw the same.
    """

    queries, passages = embed_batch(config, params["model"], batch, dropout_seed)
    temperature = clamped_temperature(params.get("log_temperature"), config.loss)
    loss, accuracy = contrastive_loss(
        queries,
        passages,
        batch["query_cluster"],
        batch["passage_cluster"],
        batch["passage_lengths"] > 0,
        temperature,
        config.loss,
    )
    return loss, {"loss": loss, "accuracy": accuracy, "temperature": jnp.float32(temperature)}


def embed_batch(
    config: Config, params: Any, batch: dict[str, Array], dropout_seed: Array | None
) -> tuple[Array, Array]:
    """Embeddings of a batch's queries and passages, whether each has a row or they share rows."""
    embed = _embed_shared_rows if "row_ids" in batch else _embed_rows
    return embed(config, params, batch, dropout_seed)


def _embed_rows(
    config: Config, params: Any, batch: dict[str, Array], dropout_seed: Array | None
) -> tuple[Array, Array]:
    """Embeddings of queries and of passages, each of which has a row of its own."""

    def embed(side: str, number: int) -> Array:
        def local(params: Any, rows: tuple[Array, ...], seed: Array | None) -> Array:
            def some(chunk: tuple[Array, ...]) -> Array:
                ids, lengths, places = chunk
                mask = jnp.arange(ids.shape[1])[None, :] < lengths[:, None]
                seeds = None if seed is None else fold(fold(seed, number), places)
                return dual_encoder.embed(config.model, params, ids, mask, dropout_seeds=seeds)

            return in_chunks(some, rows, _chunks(config, rows))

        ids, lengths = batch[f"{side}_ids"], batch[f"{side}_lengths"]
        places = split(jnp.arange(len(ids), dtype=jnp.uint32))
        return on_each_device(local, params, (ids, lengths, places), dropout_seed)

    return embed("query", 0), embed("passage", 1)


def _embed_shared_rows(
    config: Config, params: Any, batch: dict[str, Array], dropout_seed: Array | None
) -> tuple[Array, Array]:
    """The same of texts that share rows."""
    pairs = len(batch["query_slots"])

    def local(params: Any, arrays: tuple[Array, ...], seed: Array | None) -> tuple[Array, Array]:
        *rows, query_slots, passage_slots = arrays
        most = rows[2].shape[1]

        def some(chunk: tuple[Array, ...]) -> Array:
            ids, segments, texts = chunk
            seeds = None
            if seed is not None:
                side = (texts >= pairs).astype(jnp.uint32)
                seeds = fold(fold(seed, side), jnp.where(texts < pairs, texts, texts - pairs))
            return dual_encoder.embed_packed(
                config.model, params, ids, segments, most, dropout_seeds=seeds
            )

        found = in_chunks(some, tuple(rows), _chunks(config, rows))
        embeddings = found.reshape(-1, found.shape[-1])
        return embeddings[query_slots], embeddings[passage_slots]

    names = ("row_ids", "row_segments", "row_texts", "query_slots", "passage_slots")
    return on_each_device(local, params, tuple(batch[name] for name in names), dropout_seed)


def _chunks(config: Config, rows: Sequence[Array]) -> int:
    at_once = config.scale.grad_cache_chunk
    return len(rows[0]) // at_once if at_once else 1


def _step_loss(
    params: Any, aux_state: dict, batch: dict[str, Array], config: Config, step: Array, seed: Array
) -> tuple[Array, tuple[Metrics, dict]]:
    model = config.model.encoder
    with_dropout = model.dropout or model.attention_dropout
    loss, metrics = batch_loss(params, batch, config, seed if with_dropout else None)
    return loss, (metrics, aux_state)


CONTRASTIVE = Objective(
    init=init_params,
    carry=lambda config, params: {},
    loss=_step_loss,
    held_out_loss=lambda params, batch, config: batch_loss(params, batch, config, None)[0],
)
