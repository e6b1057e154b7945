"""Seconds, spread and memory, measured so that what else the machine does meets all alike."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from jaxir.progress import progress_bar


def in_turns(candidates: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each candidate in every round, called in turns: A B A B.

    They are called once before, which compiles them, and that does not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    total = (rounds + 1) * len(candidates)
    with progress_bar(f"measuring {', '.join(candidates)}", total, "calls", leave=None) as bar:
        for number in range(rounds + 1):
            for name, call in candidates.items():
                began = time.perf_counter()
                call()
                if number:
                    seconds[name].append(time.perf_counter() - began)
                bar.update()
    return seconds


def spread(values: list[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {"median": float(np.median(values)), "lowest": min(values), "highest": max(values)}


def ratio(slow: list[float], fast: list[float]) -> dict[str, float]:
    """How many times as fast the second is: the ratio of medians, and the range over rounds."""
    by_round = [a / b for a, b in zip(slow, fast, strict=True)]
    return {
        "of medians": float(np.median(slow) / np.median(fast)),
        "lowest of a round": min(by_round),
        "highest of a round": max(by_round),
    }


@contextmanager
def anonymous_memory() -> Iterator[dict[str, int]]:
    """The most bytes, while it lasts, that are in memory and in no file (RssAnon)."""
    memory, done = {"most": 0}, threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    memory["most"] = max(memory["most"], int(line.split()[1]) * 1024)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield memory
    finally:
        done.set()
        thread.join()


def product_size() -> int:
    """Rows and columns of the matrices whose product is measured."""
    import jax

    return 1024 if jax.default_backend() == "cpu" else 8192


def matmul_speed(dtype: str) -> float:
    """FLOPs a second of a large matrix product on one device: what MFU is held against."""
    import jax
    import jax.numpy as jnp

    size, repeats = product_size(), 16
    left, right = (jax.random.normal(jax.random.key(x), (size, size), dtype) for x in (0, 1))

    @jax.jit
    def products(x: Any, y: Any) -> Any:
        # one after the other, and each of another left side, so that none is left out
        return jax.lax.fori_loop(0, repeats, lambda _, x: jnp.tanh(x @ y), x)

    def once() -> None:
        jax.block_until_ready(products(left, right))

    seconds = in_turns({"product": once}, 5)["product"]
    return repeats * 2 * size**3 / min(seconds)
