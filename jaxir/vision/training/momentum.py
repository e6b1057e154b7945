"""The momentum model and the queues of its features (arXiv 2107.07651, section 3.2).

Dimension key: B rows, E width of features, G queue length.

Both are handed from step to step as the state's `aux_state`, a nested dict: `momentum`, a copy of
the parameters; `queues` of `image` and `text` features and their `group`, first in, first out, each
device holding a part; `place`, the index at which the next row is pushed.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxir.config import AlbefLossConfig, AlbefModelConfig
from jaxir.errors import UserError
from jaxir.runtime.mesh import gather, split

AuxState = dict[str, Any]
EMPTY = -1  # group of a place that holds nothing yet


def init_aux(config: AlbefModelConfig, loss: AlbefLossConfig, params: Any) -> AuxState:
    """What the first step finds: the parameters' copy and empty queues; {} without momentum."""
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
        "place": jnp.int32(0),
    }


def update_ema(loss: AlbefLossConfig, momentum: Any, params: Any) -> Any:
    """The momentum model's parameters, a little nearer to the given ones; no gradient flows."""
    kept = loss.momentum_coefficient

    def nearer(old: Array, new: Array) -> Array:
        return jax.lax.stop_gradient(kept * old + (1 - kept) * new.astype(old.dtype))

    return jax.tree.map(nearer, momentum, params)


def push(
    aux_state: AuxState,
    image: Float[Array, "B E"],
    text: Float[Array, "B E"],
    group: Int[Array, "B"],
) -> AuxState:
    """The queues and their place after the rows of a global batch have taken the oldest's places.

    Raises:
        UserError: the queue is shorter than the batch, or the devices do not divide it.
    """
    queues, place = aux_state["queues"], aux_state["place"]
    length, count = len(queues["group"]), len(group)
    mesh = jax.sharding.get_abstract_mesh()
    devices = 1 if mesh.empty else mesh.size
    if length < count or length % devices:
        raise UserError(
            f"config.loss.queue = {length}: must be a multiple of the {devices} devices and at "
            f"least batch_size = {count}"
        )
    # each place asks which row comes to it: devices write their own parts, in one global order
    row = (split(jnp.arange(length, dtype=jnp.int32)) - place) % length

    def after(queue: Array, rows: Array) -> Array:
        sharding = jax.typeof(queue).sharding
        where = {} if mesh.empty else {"out_sharding": sharding}
        new = gather(rows).at[jnp.minimum(row, count - 1)].get(mode="clip", **where)
        arrives = (row < count).reshape(-1, *[1] * (queue.ndim - 1))
        return jax.lax.stop_gradient(jnp.where(arrives, new.astype(queue.dtype), queue))

    rows = {"image": image, "text": text, "group": group}
    queues = {name: after(queue, rows[name]) for name, queue in queues.items()}
    return {"queues": queues, "place": (place + count) % length}
