"""From the token cache on disk to batches in memory, as training has them."""

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jaxir.config import HybridConfig
from jaxir.data.collection import Collection
from jaxir.data.hybrid import Hybrid
from jaxir.data.pipeline import Batch, Loader, batches
from jaxir.data.tokens import Tokens
from jaxir.speed import timing

PAIRS = 1 << 15
BATCH_SIZE = 2_048
BATCHES = 40  # a round
LANGUAGES = ("ar", "de", "en", "es", "hi", "ru", "th", "tr", "zh")


def measure(rounds: int) -> dict[str, Any]:
    """Pairs a second from memory-mapped tokens to padded and to packed batches."""
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
                Loader(collection, hybrid, *sides, 64, 256, 1, 0, row_tokens=row_tokens),
                0,
                (rounds + 1) * BATCHES,
            )
            for name, row_tokens in (("padded", 0), ("packed", 256))
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
    }
