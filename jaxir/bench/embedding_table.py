"""What the table of token embeddings costs: looking up, its gradient, its update.

Its arithmetic is next to nothing, so each part is held against a copy of as many bytes.

Dimension key: V tokens of the vocabulary, D hidden width, R rows, L tokens of a row.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from jaxir.bench import timing, workloads
from jaxir.config import Config
from jaxir.models.encoder import lookup
from jaxir.runtime.mesh import make_mesh, replicate, to_devices
from jaxir.training.optimizer import make_optimizer

LOOKUP, GRADIENT, UPDATE, COPY = (
    *("looking tokens up", "gradient of their table"),
    *("AdamW's update of the table", "copy of the table"),
)
Calls = dict[str, Callable[[], object]]


def lookups(table: Float[Array, "V D"], ids: Int[Array, "R L"]) -> Calls:
    """Calls that look tokens up, and that add up the gradient of their table."""
    vectors = jax.jit(lookup)
    of_table = jax.jit(lambda table, slopes: jax.vjp(lambda x: lookup(x, ids), table)[1](slopes)[0])
    looked_up = vectors(table, ids)
    return {
        LOOKUP: lambda: jax.block_until_ready(vectors(table, ids)),
        GRADIENT: lambda: jax.block_until_ready(of_table(table, looked_up)),
    }


class Update:
    """A call that takes AdamW's step on a table, in its place as a training step does."""

    def __init__(self, config: Config, table: Float[Array, "V D"], gradient: Float[Array, "V D"]):
        """`gradient` is the same in each step; there is no clipping."""
        plain = dataclasses.replace(config.optimizer, clip_norm=0.0)
        optimizer = make_optimizer(plain, config.steps)
        self.gradient = {"embedding": gradient}
        self.params = {"embedding": jax.numpy.copy(table)}
        self.optimizer = jax.jit(optimizer.init)(self.params)

        def step(params: Any, state: Any, gradient: Any) -> tuple[Any, Any]:
            updates, state = optimizer.update(gradient, state, params)
            return optax.apply_updates(params, updates), state

        self.step = jax.jit(step, donate_argnums=(0, 1))

    def __call__(self) -> None:
        """Take a step, and wait for it."""
        self.params, self.optimizer = self.step(self.params, self.optimizer, self.gradient)
        jax.block_until_ready(self.params)


def measure(config: Config, rounds: int) -> dict[str, Any]:
    """The parts by themselves, for the rows of a batch that is packed, in turns with a copy.

    Args:
        config: the run, for the table's shape, the batch and the optimizer.
        rounds: how often each is measured.
    """
    mesh, encoder = make_mesh(config), config.model.encoder
    rows = workloads.made_up_batches(config, mesh.size)[1][0]["row_ids"]
    shape = (encoder.vocab_size, encoder.hidden_size)
    with jax.set_mesh(mesh):
        table = replicate(jax.random.normal(jax.random.key(0), shape), mesh)
        calls = lookups(table, to_devices({"row_ids": rows}, mesh)["row_ids"])
        calls[UPDATE] = Update(config, table, calls[GRADIENT]())  # type: ignore[arg-type]
        copy = jax.jit(jax.numpy.copy)
        calls[COPY] = lambda: jax.block_until_ready(copy(table))
        seconds = timing.in_turns(calls, rounds)
    size, looked_up = table.nbytes, rows.size * table.itemsize * encoder.hidden_size / mesh.size
    # the fewest that each has to read and write on a device; of AdamW four tables and three
    moved = {
        LOOKUP: 2 * looked_up,
        GRADIENT: looked_up + size,
        UPDATE: 7 * size,
        COPY: 2 * size,
    }
    a_byte = float(np.median(seconds[COPY])) / moved[COPY]
    parts = {
        name: {
            "seconds": timing.spread(times),
            "GiB read and written, at least": moved[name] / 2**30,
            "times a copy of as many bytes": float(np.median(times)) / moved[name] / a_byte,
        }
        for name, times in seconds.items()
    }
    return {
        "table": list(shape),
        "tokens": int(rows.size),
        "different tokens": len(np.unique(rows)),
        "GiB a second of a copy, read and written": 1 / a_byte / 2**30,
        **parts,
    }
