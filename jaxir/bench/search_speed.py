"""Speed of exact search: in memory beside faiss and torch, and streamed from disk.

Dimension key: Q queries, P passages, D width, K passages per query.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jaxtyping import Array, Float, Int

from jaxir.bench import other_libraries, timing
from jaxir.errors import UserError
from jaxir.retrieval import chunks, topk, vectors

PASSAGES_ON_DISK, WIDTH, QUERIES, K = 5_000_000, 384, 256, 100
BLOCK = 100_000  # passages that are drawn at a time


def measure(
    rounds: int, passage_count: int, width: int, dtype: str, against: str
) -> dict[str, Any]:
    """Seconds of an exact search, beside those of the matrix product and of another library.

    Args:
        rounds: number of times that each is measured.
        passage_count: random passages in the index, which stays on the device.
        width: of their embeddings.
        dtype: of the index.
        against: "faiss" (`IndexFlatIP`), "torch" (matrix product and `topk`), or "".
    """
    passages = _random_embeddings(0, passage_count, width)
    queries = _random_embeddings(1, QUERIES, width)
    index = chunks.put_on_devices(vectors.make_vectors(passages, dtype))
    on_device = jax.device_put(queries.astype(dtype)), jax.device_put(passages.astype(dtype))
    product = jax.jit(lambda q, p: q @ p.T)
    indices: dict[str, np.ndarray] = {}

    def search() -> Int[np.ndarray, "Q K"]:
        return topk.search(queries, index, K).indices

    # the product alone is a lower bound: any exact search has to score every passage
    candidates: dict[str, Callable[[], object]] = {
        "matrix product": lambda: jax.block_until_ready(product(*on_device)),
        "jaxir": timing.keep_result(indices, "jaxir", search),
    }
    if against:
        other = (_faiss if against == "faiss" else _torch)(queries, passages, dtype)
        candidates[against] = timing.keep_result(indices, against, other)
    seconds = timing.alternate(candidates, rounds)
    results: dict[str, Any] = {
        "passages": passage_count,
        "width": width,
        "precision": dtype,
        "queries": QUERIES,
        "k": K,
        "seconds": {name: timing.spread(times) for name, times in seconds.items()},
        "time relative to the matrix product": timing.ratio(
            seconds["jaxir"], seconds["matrix product"]
        ),
    }
    if against:
        results[f"speedup over {against}"] = timing.ratio(seconds[against], seconds["jaxir"])
        # Scores in float64, not indices, are compared: passages may change places where their
        # scores differ by less than the precision resolves.
        scores, other_scores = (
            np.einsum("qd,qkd->qk", queries.astype(float), passages[indices[name]])
            for name in ("jaxir", against)
        )
        results["largest difference of scores at a rank"] = float(
            np.abs(scores - other_scores).max()
        )
    return results


def _faiss(
    queries: Float[np.ndarray, "Q D"], passages: Float[np.ndarray, "P D"], dtype: str
) -> Callable[[], Int[np.ndarray, "Q K"]]:
    if dtype != "float32":
        raise UserError(f"--dtype {dtype}: must be float32 with --against faiss (its flat index)")
    flat = other_libraries.require("faiss", "faiss-cpu").IndexFlatIP(passages.shape[1])
    flat.add(passages)
    return lambda: flat.search(queries, K)[1]


def _torch(
    queries: Float[np.ndarray, "Q D"], passages: Float[np.ndarray, "P D"], dtype: str
) -> Callable[[], Int[np.ndarray, "Q K"]]:
    torch = other_libraries.require("torch", "torch")
    device, torch_dtype = other_libraries.torch_device(), getattr(torch, dtype)
    left, right = (torch.from_numpy(x).to(device, torch_dtype) for x in (queries, passages))

    def search() -> Int[np.ndarray, "Q K"]:
        with torch.inference_mode():
            return torch.topk(left @ right.T, K, dim=1).indices.cpu().numpy()

    return search


def measure_disk(rounds: int) -> dict[str, Any]:
    """Seconds of a search that streams the index from disk, and the memory it takes."""
    rng = np.random.default_rng(0)
    queries = _unit_rows(rng.standard_normal((QUERIES, WIDTH), np.float32))
    shape, block = (PASSAGES_ON_DISK, WIDTH), PASSAGES_ON_DISK // 100
    checked = queries[:4].astype(ml_dtypes.bfloat16).astype(float)  # rounded as the search does
    top_scores = np.full((4, K), -np.inf)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.bfloat16"
        stored = np.memmap(path, ml_dtypes.bfloat16, "w+", shape=shape)
        for first in range(0, PASSAGES_ON_DISK, block):
            rows = _unit_rows(rng.standard_normal((block, WIDTH), np.float32))
            stored[first : first + block] = rows.astype(ml_dtypes.bfloat16)
            # the oracle: the K best scores of all blocks so far, in float64
            scores = checked @ np.asarray(stored[first : first + block], np.float32).T
            top_scores = -np.sort(-np.concatenate([top_scores, scores], axis=1), axis=1)[:, :K]
        stored.flush()
        del stored
        index = vectors.Vectors(np.memmap(path, ml_dtypes.bfloat16, "r", shape=shape))
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
        "peak anonymous memory, GiB": memory["peak"] / 2**30,
        "index file, GiB": PASSAGES_ON_DISK * WIDTH * 2 / 2**30,
        "largest difference of scores at a rank": float(
            np.abs(found.scores[:4] - top_scores).max()
        ),
    }


def _random_embeddings(seed: int, rows: int, width: int) -> Float[np.ndarray, "P D"]:
    """Random unit vectors, drawn on the device, which is faster for billions of numbers."""
    embeddings = np.empty((rows, width), np.float32)

    @jax.jit
    def block(key: Array) -> Array:
        drawn = jax.random.normal(key, (min(rows, BLOCK), width))
        return drawn / jnp.linalg.norm(drawn, axis=1, keepdims=True)

    for first in range(0, rows, BLOCK):
        part = embeddings[first : first + BLOCK]
        part[:] = block(jax.random.fold_in(jax.random.key(seed), first))[: len(part)]
    return embeddings


def _unit_rows(rows: Float[np.ndarray, "P D"]) -> Float[np.ndarray, "P D"]:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
