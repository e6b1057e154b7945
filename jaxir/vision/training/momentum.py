"""The momentum model and the queues of its features (arXiv 2107.07651, section 3.2).

Dimension key: B rows, E width of features, G queue length.

Both are handed from step to step as the state's `aux_state`, a nested dict: `momentum`, an
exponential moving average of the parameters; `queues`, ring buffers of `image` and `text` features
and their `group`, split over the devices; `next_slot`, the slot that the next row is pushed to.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxir.config import AlbefLossConfig, AlbefModelConfig
from jaxir.errors import UserError
from jaxir.runtime.mesh import gather, split
from jaxir.training.task import AuxState

EMPTY = -1  # group of a slot that is not filled yet


def init_aux(config: AlbefModelConfig, loss: AlbefLossConfig, params: Any) -> AuxState:
    """State before the first step: a copy of the parameters, empty queues; {} without momentum."""
    if not loss.momentum:
        return {}
    empty = jnp.zeros((loss.queue, config.projection), jnp.float32)
    return {
        "momentum": jax.tree.map(jnp.copy, params),
        "queues": {
            "image": empty,
            "text": jnp.copy(empty),
            "group": jnp.full(loss.queue, EMPTY, jnp.int32),
        },
        "next_slot": jnp.int32(0),
    }


def update_ema(loss: AlbefLossConfig, momentum: Any, params: Any) -> Any:
    """Move the momentum model's parameters towards `params`; no gradient flows."""
    decay = loss.momentum_coefficient

    def average(old: Array, new: Array) -> Array:
        return jax.lax.stop_gradient(decay * old + (1 - decay) * new.astype(old.dtype))

    return jax.tree.map(average, momentum, params)


def push(
    aux_state: AuxState,
    image: Float[Array, "B E"],
    text: Float[Array, "B E"],
    group: Int[Array, "B"],
) -> AuxState:
    """Write the rows of a global batch over the oldest of the queues.

    Returns:
        `queues` and `next_slot` of the next state.

    Raises:
        UserError: the queue is shorter than the batch, or the devices do not divide it.
    """
    queues, next_slot = aux_state["queues"], aux_state["next_slot"]
    length, count = len(queues["group"]), len(group)
    mesh = jax.sharding.get_abstract_mesh()
    devices = 1 if mesh.empty else mesh.size
    if length < count or length % devices:
        raise UserError(
            f"config.loss.queue = {length}: must be a multiple of the {devices} devices and at "
            f"least batch_size = {count}"
        )
    # Slot s takes row (s - next_slot) mod length, where that is a row of the batch, and stays as it
    # is elsewhere. Reading by slot, not writing by row, lets each device update its own slots.
    row = (split(jnp.arange(length, dtype=jnp.int32)) - next_slot) % length

    def updated(queue: Array, rows: Array) -> Array:
        sharding = jax.typeof(queue).sharding
        where = {} if mesh.empty else {"out_sharding": sharding}
        new = gather(rows).at[jnp.minimum(row, count - 1)].get(mode="clip", **where)
        overwritten = (row < count).reshape(-1, *[1] * (queue.ndim - 1))
        return jax.lax.stop_gradient(jnp.where(overwritten, new.astype(queue.dtype), queue))

    rows = {"image": image, "text": text, "group": group}
    queues = {name: updated(queue, rows[name]) for name, queue in queues.items()}
    return {"queues": queues, "next_slot": (next_slot + count) % length}
