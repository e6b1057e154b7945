"""Seconds of the parts of a training step by themselves, those of the embedding table apart.

Dimension key: V tokens of the vocabulary, D hidden width, R rows, L tokens of a row.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from jaxir.bench import timing, workloads
from jaxir.config import Config
from jaxir.data.batch import Batch
from jaxir.models.encoder import lookup
from jaxir.runtime.mesh import make_mesh, replicate, to_devices
from jaxir.training.batch_embedding import embed_batch
from jaxir.training.losses import contrastive_loss
from jaxir.training.optimizer import make_optimizer
from jaxir.training.retrieval import RETRIEVAL
from jaxir.training.step import make_state

LOOKUP, GRADIENT = "token lookup", "gradient of the table"
UPDATE, COPY = "AdamW update of the table", "copy of the table"
Calls = dict[str, Callable[[], object]]


def measure(
    config: Config, mesh: jax.sharding.Mesh, batches: list[Batch], rounds: int
) -> dict[str, float]:
    """Median seconds of the parts of a step on the first batch.

    Each is a program of its own or the difference of two, so their sum is near the step's time,
    not equal to it. `transfer` is a batch's way from memory to the devices; how long a run waits
    for its data is in its own metrics. `communication` is that of gradients and embeddings by
    themselves, which a step may hide behind other work; 0 on one device. Of `forward` and
    `backward`, the token lookup and the gradient of its table are also listed apart.
    """
    batch = to_devices(batches[0], mesh)
    state = make_state(config, None, mesh, RETRIEVAL)
    params = state["params"]
    optimizer = make_optimizer(config.optimizer, config.steps)
    seed = jnp.uint32(0)  # of dropout, a traced value as in a step
    embed = jax.jit(lambda p, b: embed_batch(config, p["model"], b, seed))
    gradient = jax.jit(jax.grad(lambda p, b: RETRIEVAL.loss(p, {}, b, config, 0, seed)[0]))

    def loss_of(embeddings: tuple[Any, Any]) -> Any:
        queries, passages = embeddings
        return contrastive_loss(
            queries,
            passages,
            batch["query_cluster"],
            batch["passage_cluster"],
            batch["passage_lengths"] > 0,
            config.loss.temperature,
            config.loss,
        )[0]

    loss = jax.jit(jax.grad(loss_of))

    @jax.jit
    def update(gradients: Any, state: Any) -> Any:
        updates, new = optimizer.update(gradients, state["optimizer"], state["params"])
        return optax.apply_updates(state["params"], updates), new

    embedding = params["model"]["encoder"]["token_embedding"]["embedding"]
    embeddings, gradients = embed(params, batch), gradient(params, batch)
    calls: dict[str, Callable[[], object]] = {
        "transfer": lambda: jax.block_until_ready(to_devices(batches[0], mesh)),
        "forward": lambda: jax.block_until_ready(embed(params, batch)),
        "loss": lambda: jax.block_until_ready(loss(embeddings)),
        "gradient": lambda: jax.block_until_ready(gradient(params, batch)),
        "optimizer": lambda: jax.block_until_ready(update(gradients, state)),
        **lookups(embedding, batch["row_ids"]),
    }
    if mesh.size > 1:
        calls["communication"] = _communication(mesh, gradients, embeddings)
    median = {name: float(np.median(x)) for name, x in timing.alternate(calls, rounds).items()}
    # `gradient` is of the whole loss: forward pass, loss with its own gradient, and backward pass
    median["backward"] = median.pop("gradient") - median["forward"] - median["loss"]
    return {"communication": 0.0, **median}


def _communication(
    mesh: jax.sharding.Mesh, gradients: Any, embeddings: Any
) -> Callable[[], object]:
    """A call that sums gradients and gathers embeddings over the devices, as a step does."""
    by_row, whole = jax.P(mesh.axis_names), jax.P()

    def local(gradients: Any, embeddings: Any) -> Any:
        summed = jax.lax.psum(gradients, mesh.axis_names)
        return summed, jax.lax.all_gather(embeddings, mesh.axis_names, tiled=True)

    program = jax.jit(
        jax.shard_map(local, in_specs=(whole, by_row), out_specs=(whole, whole), check_vma=False)
    )
    return lambda: jax.block_until_ready(program(gradients, embeddings))


def lookups(table: Float[Array, "V D"], ids: Int[Array, "R L"]) -> Calls:
    """Calls that look tokens up, and that compute the gradient of the table."""
    vectors = jax.jit(lookup)

    @jax.jit
    def gradient(table: Any, cotangent: Any) -> Any:
        # the transpose of a lookup: rows of the cotangent are added up by token
        return jax.vjp(lambda x: lookup(x, ids), table)[1](cotangent)[0]

    looked_up = vectors(table, ids)
    return {
        LOOKUP: lambda: jax.block_until_ready(vectors(table, ids)),
        GRADIENT: lambda: jax.block_until_ready(gradient(table, looked_up)),
    }


class TableUpdate:
    """A call that takes a step of AdamW on a table, in place as a training step does."""

    def __init__(self, config: Config, table: Float[Array, "V D"], gradient: Float[Array, "V D"]):
        """`gradient` is the same in each step; it is not clipped."""
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
        """Take a step and wait for it."""
        self.params, self.optimizer = self.step(self.params, self.optimizer, self.gradient)
        jax.block_until_ready(self.params)


def measure_embedding_table(config: Config, rounds: int) -> dict[str, Any]:
    """Seconds of the lookup, its gradient and the update, on a packed batch, beside a copy.

    These do next to no arithmetic, so each is compared with a copy of as many bytes, in turn.

    Args:
        config: the run, for the table's shape, the batch and the optimizer.
        rounds: number of times that each is measured.
    """
    mesh, encoder = make_mesh(config), config.model.encoder
    rows = workloads.synthetic_batches(config, mesh.size)[1][0]["row_ids"]
    shape = (encoder.vocab_size, encoder.hidden_size)
    with jax.set_mesh(mesh):
        table = replicate(jax.random.normal(jax.random.key(0), shape), mesh)
        calls = lookups(table, to_devices({"row_ids": rows}, mesh)["row_ids"])
        calls[UPDATE] = TableUpdate(config, table, calls[GRADIENT]())  # type: ignore[arg-type]
        copy = jax.jit(jax.numpy.copy)
        calls[COPY] = lambda: jax.block_until_ready(copy(table))
        seconds = timing.alternate(calls, rounds)
    size, looked_up = table.nbytes, rows.size * table.itemsize * encoder.hidden_size / mesh.size
    # the fewest bytes that each reads and writes on a device
    least_bytes = {
        LOOKUP: 2 * looked_up,  # the tokens' rows are read, and written as the result
        GRADIENT: looked_up + size,  # the cotangent is read, the whole table's gradient written
        UPDATE: 7 * size,  # reads parameters, gradient and two moments, writes all but the gradient
        COPY: 2 * size,
    }
    # a copy is as fast as memory allows: its time per byte is the unit of the others'
    seconds_per_byte = float(np.median(seconds[COPY])) / least_bytes[COPY]
    parts = {
        name: {
            "seconds": timing.spread(times),
            "least GiB read and written": least_bytes[name] / 2**30,
            "time relative to a copy of as many bytes": (
                float(np.median(times)) / least_bytes[name] / seconds_per_byte
            ),
        }
        for name, times in seconds.items()
    }
    return {
        "table shape": list(shape),
        "tokens": int(rows.size),
        "distinct tokens": len(np.unique(rows)),
        "GiB per second of a copy, reads and writes": 1 / seconds_per_byte / 2**30,
        **parts,
    }
