"""The training step: a pure function of the state and a batch, compiled ahead.

Dimension key: B pairs, P passages, L tokens of a row, R rows, S texts of a row, D embedding width.

The state is a nested dict: `params` (`model`, and `log_temperature` where it is learned),
`optimizer`, `step` and `seed`. Dropout is hashed from the last two, so nothing else needs
saving, and runs that differ in seed and data alone share one compiled step.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array

from jaxir.config import Config
from jaxir.models import dual_encoder
from jaxir.models.dropout import fold, mix
from jaxir.training.losses import clamped_temperature, contrastive_loss
from jaxir.training.optimizer import learning_rate, make_optimizer
from jaxir.training.sharding import in_chunks, split, state_shardings

State = dict[str, Any]
Metrics = dict[str, Array]


def init_state(config: Config, model_params: Any | None = None) -> State:
    """State of step 0: random weights by the run's seed, or the given ones."""
    if model_params is None:
        model_params = dual_encoder.init_params(config.model, jax.random.key(config.seed))
    params = {"model": model_params}
    if config.loss.learned_temperature:
        params["log_temperature"] = jnp.log(jnp.float32(config.loss.temperature))
    optimizer = make_optimizer(config.optimizer, config.steps).init(params)
    return {
        "params": params,
        "optimizer": optimizer,
        "step": jnp.int32(0),
        "seed": jnp.int32(config.seed),
    }


def abstract_state(config: Config, model_params: Any | None, mesh: Mesh) -> Any:
    """Shapes, dtypes and shardings of a state, without making it."""
    shapes = jax.eval_shape(lambda: init_state(config, model_params))
    shardings = state_shardings(shapes, mesh, config.scale.fsdp)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )


def make_state(config: Config, model_params: Any | None, mesh: Mesh) -> State:
    """State of step 0 on the devices, each of which makes or gets no more than its part."""
    abstract = abstract_state(config, model_params, mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    if model_params is None:
        return jax.jit(lambda: init_state(config), out_shardings=shardings)()
    placed = jax.device_put(model_params, shardings["params"]["model"])
    return jax.jit(lambda params: init_state(config, params), out_shardings=shardings)(placed)


def batch_loss(
    params: Any, batch: dict[str, Array], config: Config, dropout_seed: Array | None
) -> tuple[Array, Metrics]:
    """Loss of a global batch, and what is worth watching.

    With `scale.texts_at_once` this is gradient caching (Gao et al., arXiv 2101.06983): texts are
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
        return _on_each_device(local, params, (ids, lengths, places), dropout_seed)

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
    return _on_each_device(local, params, tuple(batch[name] for name in names), dropout_seed)


def _chunks(config: Config, rows: Sequence[Array]) -> int:
    at_once = config.scale.texts_at_once
    return len(rows[0]) // at_once if at_once else 1


def _on_each_device(
    local: Callable[[Any, Any, Any], Any], params: Any, rows: Any, dropout_seed: Array | None
) -> Any:
    """Have every device embed its own rows by itself.

    So gradients of replicated parameters are summed over the devices once, after all layers and
    chunks, instead of in each of them.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return local(params, rows, dropout_seed)
    by_row, whole = PartitionSpec(mesh.axis_names), PartitionSpec()
    placed = jax.tree.map(lambda leaf: jax.typeof(leaf).sharding.spec, params)
    # check_vma: sums of gradients belong to the end of `local`, not to each use of a parameter
    return jax.shard_map(
        local, in_specs=(placed, by_row, whole), out_specs=by_row, check_vma=False
    )(params, rows, dropout_seed)


def train_step(state: State, batch: dict[str, Array], config: Config) -> tuple[State, Metrics]:
    """One update of AdamW."""
    model = config.model.encoder
    with_dropout = model.dropout or model.attention_dropout
    dropout_seed = fold(mix(state["seed"].astype(jnp.uint32)), state["step"])
    params = state["params"]
    dtype = jnp.dtype(config.scale.gradient_dtype)
    # gradients have the dtype of what they are taken of, also on their way between devices
    rounded = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    gradient, metrics = jax.grad(batch_loss, has_aux=True)(
        rounded, batch, config, dropout_seed if with_dropout else None
    )
    gradient = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), gradient)
    optimizer = make_optimizer(config.optimizer, config.steps)
    updates, optimizer_state = optimizer.update(gradient, state["optimizer"], params)
    metrics["gradient_norm"] = optax.tree.norm(gradient)
    metrics["learning_rate"] = learning_rate(config.optimizer, config.steps)(state["step"])
    state = {
        "params": optax.apply_updates(params, updates),
        "optimizer": optimizer_state,
        "step": state["step"] + 1,
        "seed": state["seed"],
    }
    return state, metrics


def trace_step(config: Config, state: Any, batch: dict[str, jax.ShapeDtypeStruct]) -> Any:
    """`train_step` traced for these shapes and shardings; the state is donated."""

    def step(state: State, batch: dict[str, Array]) -> tuple[State, Metrics]:
        return train_step(state, batch, config)

    return jax.jit(step, donate_argnums=0).trace(state, batch)


def compile_step(
    config: Config, state: State, batch: dict[str, Array]
) -> tuple[jax.stages.Compiled, dict[str, float]]:
    """Compile `train_step` for these shapes and shardings; the state is donated.

    Returns:
        The compiled step, and what it costs: `flops` of its matrix products over all devices, and
        `argument_bytes`, `temporary_bytes` and `peak_bytes` on one device, as the compiler plans.
    """

    def abstract(x: Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None))

    traced = trace_step(config, *jax.tree.map(abstract, (state, batch)))
    compiled = traced.lower().compile()
    memory = compiled.memory_analysis()
    arguments_and_results = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return compiled, {
        "flops": matmul_flops(traced.jaxpr.jaxpr),
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "peak_bytes": arguments_and_results
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes,
    }


def token_shapes(batch: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    """Shapes that decide which compiled step a batch needs: those of its ids."""
    return tuple(batch[name].shape for name in sorted(batch, reverse=True) if name.endswith("_ids"))


def matmul_flops(jaxpr: Any) -> float:
    """Floating-point operations of all matrix products, on all devices together.

    Those of a loop count as often as it turns: the compiler's own count takes the body of a loop,
    and so a stack of layers, once.
    """
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            depth = math.prod(left[axis] for axis in contracted)
            total += 2.0 * depth * math.prod(equation.outvars[0].aval.shape)
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    turns = equation.params.get("length", 1)
                    if equation.primitive.name == "shard_map":  # shapes are those of one device
                        turns = equation.params["mesh"].size
                    total += matmul_flops(inner) * turns
    return total
