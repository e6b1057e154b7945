"""The training step: a pure function of the state and a batch, compiled ahead.

The state is a nested dict: `params` (`model`, and what else is learned), `optimizer`, `step`,
`seed`, and `aux_state` where an objective hands something from step to step. Chance is hashed from
step and seed, so nothing else needs saving, and runs that differ in seed and data alone share one
compiled step.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array

from jaxir.config import RunConfig
from jaxir.models.dropout import fold, mix
from jaxir.runtime.mesh import state_shardings
from jaxir.training.contrastive import CONTRASTIVE
from jaxir.training.family import Metrics, Objective
from jaxir.training.optimizer import learning_rate, make_optimizer

State = dict[str, Any]


def init_state(
    config: RunConfig, model_params: Any | None = None, objective: Objective = CONTRASTIVE
) -> State:
    """State of step 0: random weights by the run's seed, or the given ones."""
    params = objective.init(config, model_params)
    state = {
        "params": params,
        "optimizer": make_optimizer(config.optimizer, config.steps).init(params),
        "step": jnp.int32(0),
        "seed": jnp.int32(config.seed),
    }
    aux_state = objective.carry(config, params)
    return state | ({"aux_state": aux_state} if aux_state else {})


def abstract_state(
    config: RunConfig, model_params: Any | None, mesh: Mesh, objective: Objective = CONTRASTIVE
) -> Any:
    """Shapes, dtypes and shardings of a state, without making it."""
    shapes = jax.eval_shape(lambda: init_state(config, model_params, objective))
    shardings = state_shardings(shapes, mesh, config.scale.fsdp)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )


def make_state(
    config: RunConfig, model_params: Any | None, mesh: Mesh, objective: Objective = CONTRASTIVE
) -> State:
    """State of step 0 on the devices, each of which makes or gets no more than its part."""
    abstract = abstract_state(config, model_params, mesh, objective)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    if model_params is None:
        return jax.jit(lambda: init_state(config, None, objective), out_shardings=shardings)()
    placed = jax.device_put(model_params, shardings["params"]["model"])
    return jax.jit(lambda params: init_state(config, params, objective), out_shardings=shardings)(
        placed
    )


def train_step(
    state: State, batch: dict[str, Array], config: RunConfig, objective: Objective = CONTRASTIVE
) -> tuple[State, Metrics]:
    """One update of AdamW."""
    seed = fold(mix(state["seed"].astype(jnp.uint32)), state["step"])
    params = state["params"]
    dtype = jnp.dtype(config.scale.gradient_dtype)
    # gradients have the dtype of what they are taken of, also on their way between devices
    rounded = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    gradient, (metrics, aux_state) = jax.grad(objective.loss, has_aux=True)(
        rounded, state.get("aux_state", {}), batch, config, state["step"], seed
    )
    gradient = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), gradient)
    optimizer = make_optimizer(config.optimizer, config.steps)
    updates, optimizer_state = optimizer.update(gradient, state["optimizer"], params)
    metrics["gradient_norm"] = optax.tree.norm(gradient)
    metrics["learning_rate"] = learning_rate(config.optimizer, config.steps)(state["step"])
    after = {
        "params": optax.apply_updates(params, updates),
        "optimizer": optimizer_state,
        "step": state["step"] + 1,
        "seed": state["seed"],
    }
    return after | ({"aux_state": aux_state} if aux_state else {}), metrics


def trace_step(
    config: RunConfig,
    state: Any,
    batch: Mapping[str, jax.ShapeDtypeStruct],
    objective: Objective = CONTRASTIVE,
) -> Any:
    """`train_step` traced for these shapes and shardings; the state is donated."""

    def step(state: State, batch: dict[str, Array]) -> tuple[State, Metrics]:
        return train_step(state, batch, config, objective)

    return jax.jit(step, donate_argnums=0).trace(state, batch)


def compile_step(
    config: RunConfig, state: State, batch: Mapping[str, Any], objective: Objective = CONTRASTIVE
) -> tuple[jax.stages.Compiled, dict[str, float]]:
    """Compile `train_step` for these shapes and shardings; the state is donated.

    Returns:
        The compiled step, and what it costs: `flops` of its matrix products over all devices, and
        `argument_bytes`, `temporary_bytes` and `peak_bytes` on one device, as the compiler plans.
    """

    def abstract(x: Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None))

    traced = trace_step(
        config, jax.tree.map(abstract, state), jax.tree.map(abstract, batch), objective
    )
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
