"""Exact search: in memory beside what else could do it, and streamed from disk."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jaxtyping import Array

from jaxir.bench import peers, timing
from jaxir.errors import UserError
from jaxir.retrieval import topk

PASSAGES_ON_DISK, WIDTH, QUERIES, K = 5_000_000, 384, 256, 100
BLOCK = 100_000  # passages that are made up at a time


def measure(
    rounds: int, passages_count: int, width: int, dtype: str, against: str
) -> dict[str, Any]:
    """Seconds of an exact search, beside those of the matrix product and of a peer.

    Args:
        rounds: how often each is measured.
        passages_count: made-up passages in the index, which stands on the device.
        width: of their embeddings.
        dtype: of the index.
        against: "faiss" (`IndexFlatIP`), "torch" (matrix product and `topk`), or "".
    """
    passages, queries = (
        _made_up(number, rows, width) for number, rows in enumerate((passages_count, QUERIES))
    )
    placed = topk.place(topk.make_vectors(passages, dtype))
    on_device = jax.device_put(queries.astype(dtype)), jax.device_put(passages.astype(dtype))
    product = jax.jit(lambda q, p: q @ p.T)
    found: dict[str, np.ndarray] = {}

    def ours() -> None:
        found["jaxir"] = topk.search(queries, placed, K).places

    candidates: dict[str, Callable[[], object]] = {
        "matrix product": lambda: jax.block_until_ready(product(*on_device)),
        "jaxir": ours,
    }
    if against:
        theirs = (_faiss if against == "faiss" else _torch)(queries, passages, dtype)

        def peer() -> None:
            found[against] = theirs()

        candidates[against] = peer
    seconds = timing.in_turns(candidates, rounds)
    figures: dict[str, Any] = {
        "passages": passages_count,
        "width": width,
        "precision": dtype,
        "queries": QUERIES,
        "k": K,
        "seconds": {name: timing.spread(times) for name, times in seconds.items()},
        "times the matrix product": timing.ratio(seconds["jaxir"], seconds["matrix product"]),
    }
    if against:
        figures[f"times as fast as {against}"] = timing.ratio(seconds[against], seconds["jaxir"])
        scores, others = (
            np.einsum("qd,qkd->qk", queries.astype(float), passages[found[name]])
            for name in ("jaxir", against)
        )
        # places may change where scores are nearer than the precision tells apart
        figures["largest difference of scores at a place"] = float(np.abs(scores - others).max())
    return figures


def _faiss(queries: np.ndarray, passages: np.ndarray, dtype: str) -> Callable[[], np.ndarray]:
    if dtype != "float32":
        raise UserError(f"--dtype {dtype}: faiss's flat index is in float32")
    flat = peers.require("faiss", "faiss-cpu").IndexFlatIP(passages.shape[1])
    flat.add(passages)
    return lambda: flat.search(queries, K)[1]


def _torch(queries: np.ndarray, passages: np.ndarray, dtype: str) -> Callable[[], np.ndarray]:
    torch = peers.require("torch", "torch")
    device, kind = peers.torch_device(), getattr(torch, dtype)
    left, right = (torch.from_numpy(x).to(device, kind) for x in (queries, passages))

    def search() -> np.ndarray:
        with torch.inference_mode():
            return torch.topk(left @ right.T, K, dim=1).indices.cpu().numpy()

    return search


def measure_disk(rounds: int) -> dict[str, Any]:
    """Seconds of a search that streams the index from disk, and the memory it takes."""
    rng = np.random.default_rng(0)
    queries = _unit_rows(rng.standard_normal((QUERIES, WIDTH), np.float32))
    shape, block = (PASSAGES_ON_DISK, WIDTH), PASSAGES_ON_DISK // 100
    checked = queries[:4].astype(ml_dtypes.bfloat16).astype(float)  # as they are searched
    best = np.full((4, K), -np.inf)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.bfloat16"
        stored = np.memmap(path, ml_dtypes.bfloat16, "w+", shape=shape)
        for first in range(0, PASSAGES_ON_DISK, block):
            rows = _unit_rows(rng.standard_normal((block, WIDTH), np.float32))
            stored[first : first + block] = rows.astype(ml_dtypes.bfloat16)
            scores = checked @ np.asarray(stored[first : first + block], np.float32).T
            best = -np.sort(-np.concatenate([best, scores], axis=1), axis=1)[:, :K]
        stored.flush()
        del stored
        index = topk.Vectors(np.memmap(path, ml_dtypes.bfloat16, "r", shape=shape))
        with timing.anonymous_memory() as memory:
            times = []
            for _ in range(rounds):
                began = time.perf_counter()
                found = topk.search(queries, index, K)
                times.append(time.perf_counter() - began)
    return {
        "passages": PASSAGES_ON_DISK,
        "width": WIDTH,
        "queries": QUERIES,
        "k": K,
        "seconds": timing.spread(times),
        "most anonymous memory, GiB": memory["most"] / 2**30,
        "file, GiB": PASSAGES_ON_DISK * WIDTH * 2 / 2**30,
        "largest difference of scores at a place": float(np.abs(found.scores[:4] - best).max()),
    }


def _made_up(number: int, rows: int, width: int) -> np.ndarray:
    """Unit vectors, drawn by the device, which is sooner done with billions of numbers."""
    found = np.empty((rows, width), np.float32)

    @jax.jit
    def block(key: Array) -> Array:
        drawn = jax.random.normal(key, (min(rows, BLOCK), width))
        return drawn / jnp.linalg.norm(drawn, axis=1, keepdims=True)

    for first in range(0, rows, BLOCK):
        part = found[first : first + BLOCK]
        part[:] = block(jax.random.fold_in(jax.random.key(number), first))[: len(part)]
    return found


def _unit_rows(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
