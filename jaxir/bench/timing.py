"""Seconds and memory, measured so that the machine's other work affects all candidates alike."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from jaxir.progress import progress_bar


def alternate(
    candidates: Mapping[str, Callable[[], object]], rounds: int
) -> dict[str, list[float]]:
    """Seconds of each candidate in every round; candidates alternate: A B A B.

    A machine that slows down for a while then slows all candidates, and their ratio within a round
    stays. A round before the first one compiles, and does not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    total = (rounds + 1) * len(candidates)
    with progress_bar(f"measuring {', '.join(candidates)}", total, "calls", leave=None) as bar:
        for round_index in range(rounds + 1):
            for name, call in candidates.items():
                began = time.perf_counter()
                call()
                if round_index:
                    seconds[name].append(time.perf_counter() - began)
                bar.update()
    return seconds


def keep_result(
    results: dict[str, Any], name: str, call: Callable[[], object]
) -> Callable[[], None]:
    """A call that does the same and stores its result, that of the last round in the end."""

    def keeping() -> None:
        results[name] = call()

    return keeping


def spread(values: list[float]) -> dict[str, float]:
    """Median, lowest and highest: a median is not moved by a round that the machine disturbed."""
    return {"median": float(np.median(values)), "lowest": min(values), "highest": max(values)}


def ratio(numerators: list[float], denominators: list[float]) -> dict[str, float]:
    """Ratio of two candidates' medians, and the range of their ratios within a round.

    Seconds of another candidate over those of jaxir give jaxir's speedup.
    """
    by_round = [a / b for a, b in zip(numerators, denominators, strict=True)]
    return {
        "ratio of medians": float(np.median(numerators) / np.median(denominators)),
        "lowest round": min(by_round),
        "highest round": max(by_round),
    }


@contextmanager
def anonymous_memory() -> Iterator[dict[str, int]]:
    """Peak bytes, inside the context, of memory that is mapped to no file (RssAnon)."""
    memory, done = {"peak": 0}, threading.Event()

    def poll() -> None:
        while not done.wait(0.02):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    memory["peak"] = max(memory["peak"], int(line.split()[1]) * 1024)

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        yield memory
    finally:
        done.set()
        thread.join()


def matmul_size() -> int:
    """Rows and columns of the square matrices whose product is measured."""
    import jax

    return 1024 if jax.default_backend() == "cpu" else 8192


def matmul_speed(dtype: str) -> float:
    """FLOPs per second of a large matrix product on one device: a measured peak for MFU."""
    import jax
    import jax.numpy as jnp

    size, repeats = matmul_size(), 16
    left, right = (jax.random.normal(jax.random.key(x), (size, size), dtype) for x in (0, 1))

    @jax.jit
    def products(x: Any, y: Any) -> Any:
        # each product takes the last one's result, so that the compiler can drop none; tanh keeps
        # the numbers from growing
        return jax.lax.fori_loop(0, repeats, lambda _, x: jnp.tanh(x @ y), x)

    def multiply() -> None:
        jax.block_until_ready(products(left, right))

    seconds = alternate({"matmul": multiply}, 5)["matmul"]
    # a product takes size multiplications and additions for each of size^2 results; the fastest
    # round is nearest to what the device can do
    return repeats * 2 * size**3 / min(seconds)
