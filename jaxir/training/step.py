"""The training step: a pure function of the state and a batch.

The state is a nested dict: `params` (`model`, and what else is learned), `optimizer`, `step`,
`seed`, and `aux_state` where a task hands something from step to step. All randomness is hashed
from step and seed, so no generator's state is saved, and runs that differ in seed and data alone
share one compiled step.
"""

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array

from jaxir.config import RunConfig
from jaxir.data.batch import token_shapes
from jaxir.models.dropout import fold_in, hash_bits
from jaxir.runtime.mesh import state_shardings
from jaxir.training.optimizer import learning_rate, make_optimizer

if TYPE_CHECKING:
    from jaxir.training.task import Metrics, Task

logger = logging.getLogger(__name__)

State = dict[str, Any]


def init_state(config: RunConfig, pretrained: Any | None, task: "Task") -> State:
    """The state of step 0: random weights by the run's seed, or the pretrained ones."""
    params = task.init_params(config, pretrained)
    state = {
        "params": params,
        "optimizer": make_optimizer(config.optimizer, config.steps).init(params),
        "step": jnp.int32(0),
        "seed": jnp.int32(config.seed),
    }
    aux_state = task.init_aux(config, params)
    return state | ({"aux_state": aux_state} if aux_state else {})


def abstract_state(config: RunConfig, pretrained: Any | None, mesh: Mesh, task: "Task") -> Any:
    """Shapes, dtypes and shardings of a state, without making it."""
    shapes = jax.eval_shape(lambda: init_state(config, pretrained, task))
    shardings = state_shardings(shapes, mesh, config.scale.fsdp)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )


def make_state(config: RunConfig, pretrained: Any | None, mesh: Mesh, task: "Task") -> State:
    """The state of step 0 on the devices; each device allocates only its own shard."""
    abstract = abstract_state(config, pretrained, mesh, task)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    if pretrained is None:
        return jax.jit(lambda: init_state(config, None, task), out_shardings=shardings)()
    placed = jax.device_put(pretrained, shardings["params"]["model"])
    return jax.jit(lambda params: init_state(config, params, task), out_shardings=shardings)(placed)


def train_step(
    state: State, batch: dict[str, Array], config: RunConfig, task: "Task"
) -> tuple[State, "Metrics"]:
    """Update the state by AdamW on the gradient of the task's loss."""
    seed = fold_in(hash_bits(state["seed"].astype(jnp.uint32)), state["step"])
    params = state["params"]
    dtype = jnp.dtype(config.scale.gradient_dtype)
    # A gradient has the dtype of the parameters it is taken of, also where devices sum it: rounding
    # the parameters for the loss alone halves that traffic, and the optimizer keeps float32.
    rounded = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    gradient, (metrics, aux_state) = jax.grad(task.loss, has_aux=True)(
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


@dataclass(frozen=True)
class CompiledStep:
    """`train_step` compiled for one shape of batch, and its cost on one device by the compiler."""

    program: jax.stages.Compiled
    flops: float  # of matrix products, over all devices
    argument_bytes: int
    temporary_bytes: int
    peak_bytes: int


class TrainStep:
    """`train_step` of a run, compiled once for each shape of batch and kept; donates the state."""

    def __init__(self, config: RunConfig, task: "Task"):
        self._jitted = jax.jit(
            lambda state, batch: train_step(state, batch, config, task), donate_argnums=0
        )
        self.compiled: dict[tuple[tuple[int, ...], ...], CompiledStep] = {}

    def __call__(self, state: State, batch: dict[str, Array]) -> tuple[State, "Metrics"]:
        """Take a step, which donates the given state."""
        return self.compile(state, batch).program(state, batch)

    def compile(self, state: State, batch: Mapping[str, Any]) -> CompiledStep:
        """The step for a batch of such shapes, compiled if this is the first of them.

        Args:
            state: arrays, of which shapes, dtypes and shardings count.
            batch: arrays, or shapes with shardings.
        """
        shapes = token_shapes(batch)
        if shapes not in self.compiled:
            began = time.perf_counter()
            step = self._compile(state, batch)
            logger.info(
                "compiled the step for %s tokens in %.1f s: %.2f GiB and %.3g FLOPs a device",
                " + ".join(f"{rows:,} x {width}" for rows, width in shapes),
                time.perf_counter() - began,
                step.peak_bytes / 2**30,
                step.flops / jax.device_count(),
            )
            self.compiled[shapes] = step
        return self.compiled[shapes]

    def trace(self, state: Any, batch: Mapping[str, Any]) -> Any:
        """`train_step` traced for these shapes and shardings, for a mesh that may be abstract."""
        return self._jitted.trace(state, batch)

    def _compile(self, state: State, batch: Mapping[str, Any]) -> CompiledStep:
        def abstract(x: Array) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None))

        traced = self.trace(jax.tree.map(abstract, state), jax.tree.map(abstract, batch))
        program = traced.lower().compile()
        memory = program.memory_analysis()
        # a donated state's memory is counted among the arguments and among the results
        peak = memory.argument_size_in_bytes + memory.output_size_in_bytes
        peak += memory.temp_size_in_bytes - memory.alias_size_in_bytes
        return CompiledStep(
            program,
            matmul_flops(traced.jaxpr.jaxpr),
            memory.argument_size_in_bytes,
            memory.temp_size_in_bytes,
            peak,
        )


def matmul_flops(jaxpr: Any) -> float:
    """Floating-point operations of all matrix products, on all devices together.

    The body of a loop counts once for each of its trips. The compiler's own count takes the body,
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
                    trips = equation.params.get("length", 1)
                    if equation.primitive.name == "shard_map":  # shapes are those of one device
                        trips = equation.params["mesh"].size
                    total += matmul_flops(inner) * trips
    return total
