"""Measure how fast the parts are.

    python -m jaxir.bench NAME [--output FILE.json] [--rounds 5]
    python -m jaxir.bench load MODEL

`pipeline`: from the token cache on disk to batches in memory, as training has them, on made-up
texts of 64 + 256 tokens in nine languages: pairs a second, median and range over rounds.

`search`: the first 100 of 500,000 passages of 384 numbers for 256 queries, on an index that stands
on the device, in turns with the matrix product alone and, where `faiss-cpu` is installed, with
`faiss.IndexFlatIP`: seconds, median and range over rounds, and whether the answers are the same.

`search_disk`: the same of 5,000,000 passages in bfloat16 that are streamed from a file made for it
(3.6 GiB in the folder for temporary files), with the most anonymous memory of the process.

`load`: a new process a round, which loads a model, indexes two passages and asks a question:
seconds from its first line until `import jaxir` is done, the `Retriever` is usable, and the answer
is there.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from absl import flags

from jaxir import command_line
from jaxir.errors import UserError

PAIRS = 1 << 15
BATCH_SIZE = 2_048
BATCHES = 40  # a round
PASSAGES, PASSAGES_ON_DISK, WIDTH, QUERIES, K = 500_000, 5_000_000, 384, 256, 100
LANGUAGES = ("ar", "de", "en", "es", "hi", "ru", "th", "tr", "zh")


def pipeline(rounds: int) -> dict:
    """Pairs a second from memory-mapped tokens to batches of 64 + 256 tokens."""
    from jaxir.config import HybridConfig
    from jaxir.data.collection import Collection
    from jaxir.data.hybrid import Hybrid
    from jaxir.data.pipeline import Loader, batches
    from jaxir.data.tokens import Tokens

    rng = np.random.default_rng(0)
    places = np.arange(PAIRS * len(LANGUAGES)).reshape(PAIRS, len(LANGUAGES))
    with tempfile.TemporaryDirectory() as folder:

        def tokens(name: str, shortest: int, longest: int) -> Tokens:
            lengths = rng.integers(shortest, longest, places.size)
            path = Path(folder) / f"{name}.npy"
            np.save(path, rng.integers(4, 250_000, lengths.sum(), dtype=np.int32))
            stored = np.load(path, mmap_mode="r")
            starts = np.cumsum(lengths) - lengths
            return Tokens((stored,), np.zeros_like(starts), starts, lengths, (0,), (2,), 1)

        groups = np.arange(PAIRS)
        collection = Collection(
            languages=LANGUAGES,
            texts=[],
            ids=[],
            query=places,
            # another text than the query, as `cell` asks
            passage=np.roll(places, 1, axis=1),
            cluster=groups,
            text_cluster=np.repeat(groups, len(LANGUAGES)),
            source=np.zeros(PAIRS, int),
            source_names=("made up",),
            hard_negative_offsets=np.zeros(places.size + 1, int),
            hard_negatives=np.zeros(0, int),
        )
        hybrid = Hybrid(collection, HybridConfig(), BATCH_SIZE, seed=0)
        sides = tokens("queries", 8, 64), tokens("passages", 64, 400)
        loader = Loader(collection, hybrid, *sides, 64, 256, 1, 0)
        stream = batches(loader, 0, (rounds + 1) * BATCHES)
        speeds = []
        for number in range(rounds + 1):
            began = time.perf_counter()
            for _ in range(BATCHES):
                next(stream)
            if number:  # the first round starts TensorFlow
                speeds.append(BATCHES * BATCH_SIZE / (time.perf_counter() - began))
    return {
        "pairs_per_second": float(np.median(speeds)),
        "lowest": min(speeds),
        "highest": max(speeds),
        "rounds": rounds,
        "batch_size": BATCH_SIZE,
        "tokens": "64 + 256",
    }


def search(rounds: int) -> dict:
    """Seconds of an exact search, beside those of the matrix product and of faiss."""
    import jax

    from jaxir.retrieval import topk

    rng = np.random.default_rng(0)
    passages, queries = (
        _unit_rows(rng.standard_normal((rows, WIDTH), np.float32)) for rows in (PASSAGES, QUERIES)
    )
    placed = topk.place(topk.make_vectors(passages))
    on_device = jax.device_put(queries), jax.device_put(passages)
    product = jax.jit(lambda q, p: q @ p.T)
    found: dict[str, np.ndarray] = {}

    def ours() -> None:
        found["jaxir"] = topk.search(queries, placed, K).places

    candidates: dict[str, Callable[[], object]] = {
        "matrix product": lambda: jax.block_until_ready(product(*on_device)),
        "jaxir": ours,
    }
    try:
        import faiss
    except ImportError:
        print("faiss-cpu is not installed: not compared", file=sys.stderr)
    else:
        flat = faiss.IndexFlatIP(WIDTH)
        flat.add(passages)

        def theirs() -> None:
            found["faiss"] = flat.search(queries, K)[1]

        candidates["faiss"] = theirs
    seconds = _in_turns(candidates, rounds)
    median = {name: float(np.median(times)) for name, times in seconds.items()}
    figures = {
        "passages": PASSAGES,
        "width": WIDTH,
        "queries": QUERIES,
        "k": K,
        "seconds": {
            name: {"median": median[name], "lowest": min(times), "highest": max(times)}
            for name, times in seconds.items()
        },
        "times the matrix product": median["jaxir"] / median["matrix product"],
    }
    if "faiss" in found:
        figures["times as fast as faiss"] = median["faiss"] / median["jaxir"]
        scores = np.einsum("qd,qkd->qk", queries.astype(float), passages[found["jaxir"]])
        others = np.einsum("qd,qkd->qk", queries.astype(float), passages[found["faiss"]])
        # places may change where scores are nearer than float32 tells apart
        figures["largest difference of scores at a place"] = float(np.abs(scores - others).max())
    return figures


def search_disk(rounds: int) -> dict:
    """Seconds of a search that streams the index from disk, and the memory it takes."""
    import ml_dtypes

    from jaxir.retrieval import topk

    rng = np.random.default_rng(0)
    queries = _unit_rows(rng.standard_normal((QUERIES, WIDTH), np.float32))
    shape, block = (PASSAGES_ON_DISK, WIDTH), PASSAGES_ON_DISK // 100
    checked, best = queries[:4].astype(float), np.full((4, K), -np.inf)
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
        with _anonymous_memory() as memory:
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
        "seconds": {"median": float(np.median(times)), "lowest": min(times), "highest": max(times)},
        "most anonymous memory, GiB": memory["most"] / 2**30,
        "file, GiB": PASSAGES_ON_DISK * WIDTH * 2 / 2**30,
        "largest difference of scores at a place": float(np.abs(found.scores[:4] - best).max()),
    }


_LOAD = """
import json, sys, time
began, seconds = time.perf_counter(), {}
def done(what): seconds[what] = time.perf_counter() - began
import jaxir
done("import jaxir")
retriever = jaxir.Retriever.load(sys.argv[1])
done("Retriever usable")
index = retriever.index(["Die Donau entspringt im Schwarzwald.", "Paris is in France."])
index.search(["Where does the Danube rise?"], k=1)
done("first answer")
print(json.dumps(seconds))
"""


def load(rounds: int, model: str) -> dict:
    """Seconds until a model can be used, in processes of their own."""
    measured = []
    for _ in range(rounds):
        process = subprocess.run(
            [sys.executable, "-c", _LOAD, model], capture_output=True, text=True
        )
        if process.returncode:
            raise UserError(f"{model}: {process.stderr.strip().splitlines()[-1]}")
        measured.append(json.loads(process.stdout))
    return {
        "model": model,
        "rounds": rounds,
        "seconds": {
            what: {
                "median": float(np.median([one[what] for one in measured])),
                "lowest": min(one[what] for one in measured),
                "highest": max(one[what] for one in measured),
            }
            for what in measured[0]
        },
    }


def _unit_rows(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _in_turns(candidates: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each, called in turns, so that what else the machine does meets all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name, call in candidates.items():
            began = time.perf_counter()
            call()
            if number:  # the first round compiles
                seconds[name].append(time.perf_counter() - began)
    return seconds


@contextmanager
def _anonymous_memory() -> Iterator[dict[str, int]]:
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


BENCHMARKS: dict[str, Callable[..., dict]] = {
    "pipeline": pipeline,
    "search": search,
    "search_disk": search_disk,
    "load": load,
}


def main(argv: list[str]) -> int | None:
    """Read the command line, then measure."""
    values = flags.FlagValues()
    flags.DEFINE_string("output", None, "also write the figures to this file", flag_values=values)
    flags.DEFINE_integer("rounds", 5, "how often it is measured", 1, flag_values=values)
    words = command_line.parse(argv, values, str(__doc__), words=2)
    if words is None:
        return 0
    if not words or words[0] not in BENCHMARKS:
        raise UserError(f"name one benchmark of: {', '.join(BENCHMARKS)}")
    if (words[0] == "load") != (len(words) == 2):
        raise UserError("load needs the name of a model behind it, and the others nothing")
    figures = {
        words[0]: BENCHMARKS[words[0]](values.rounds, *words[1:]),
        "machine": f"{platform.platform()}, {os.cpu_count()} cores",
    }
    text = json.dumps(figures, indent=1)
    print(text)
    if values.output:
        Path(values.output).write_text(text + "\n", encoding="utf-8")
    return 0


def command() -> None:
    """The console script."""
    command_line.run(main)


if __name__ == "__main__":
    command()
