"""From the token cache on disk to batches in memory, as training has them."""

import dataclasses
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jaxir.bench import timing, workloads
from jaxir.config import HybridConfig
from jaxir.data.collection import Collection
from jaxir.data.hybrid import Hybrid
from jaxir.data.pipeline import SAMPLED_STEPS, Batch, Loader, batches
from jaxir.data.tokens import Tokens

PAIRS = 1 << 15
BATCH_SIZE = 2_048
BATCHES = 40  # a round
WASTE_BATCH_SIZE = 1_024
LANGUAGES = ("ar", "de", "en", "es", "hi", "ru", "th", "tr", "zh")


def measure(rounds: int, directory: Path | None) -> dict[str, Any]:
    """Pairs a second from memory-mapped tokens to padded and to packed batches.

    Args:
        rounds: how often each is measured.
        directory: of MLQA's pairs, of whose batches the padding is measured; None: it is not.
    """
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
        streams = {
            name: batches(
                Loader(collection, hybrid, *sides, 64, 256, 0, packed_length=packed_length),
                0,
                (rounds + 1) * BATCHES,
            )
            for name, packed_length in (("padded", 0), ("packed", 256))
        }

        def some(stream: Iterator[Batch]) -> None:
            for _ in range(BATCHES):
                next(stream)

        calls = {name: partial(some, stream) for name, stream in streams.items()}
        # the first round, which is not counted, starts TensorFlow
        seconds = timing.in_turns(calls, rounds)
    return {
        "pairs a batch": BATCH_SIZE,
        "tokens": "64 + 256",
        "pairs a second": {
            name: timing.spread([BATCHES * BATCH_SIZE / x for x in times])
            for name, times in seconds.items()
        },
    } | ({"padding waste, MLQA": _waste(directory)} if directory else {})


def _waste(directory: Path) -> dict[str, Any]:
    """Share of padding in batches of steps that did not decide the numbers of rows."""
    config = workloads.run_config("small", WASTE_BATCH_SIZE, "float32", 0, 0.0)
    with tempfile.TemporaryDirectory() as cache:
        loader = workloads.mlqa_loader(config, directory, 1, Path(cache))
        steps = range(SAMPLED_STEPS, 2 * SAMPLED_STEPS)
        figures: dict[str, Any] = {"pairs a batch": WASTE_BATCH_SIZE, "batches": len(steps)}
        for name, one in (
            ("padded", dataclasses.replace(loader, packed_length=0)),
            ("packed", loader),
        ):
            real, places = workloads.tokens_of([one.batch(step) for step in steps])
            figures[name] = 1 - real / places
        return figures | {"numbers of rows": loader.row_counts}
