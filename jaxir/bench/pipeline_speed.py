"""Speed of the input pipeline, from the token cache on disk to batches in memory."""

import dataclasses
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jaxir.bench import timing, workloads
from jaxir.config import HybridConfig
from jaxir.data.batch import Batch
from jaxir.data.collection import Collection
from jaxir.data.hybrid import Hybrid
from jaxir.data.pipeline import SAMPLED_STEPS, Loader, batches
from jaxir.data.tokens import Tokens

PAIRS = 1 << 15
BATCH_SIZE = 2_048
BATCHES = 40  # per round
PADDING_BATCH_SIZE = 1_024
LANGUAGES = ("ar", "de", "en", "es", "hi", "ru", "th", "tr", "zh")


def measure(rounds: int, directory: Path | None) -> dict[str, Any]:
    """Pairs per second from memory-mapped tokens to padded and to packed batches.

    Args:
        rounds: number of times that each is measured.
        directory: of MLQA's pairs, for the padding in their batches; None: it is not measured.
    """
    rng = np.random.default_rng(0)
    collection = _synthetic_collection()
    hybrid = Hybrid(collection, HybridConfig(), BATCH_SIZE, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        sides = (
            _random_tokens(rng, Path(folder) / "queries.npy", 8, 64),
            _random_tokens(rng, Path(folder) / "passages.npy", 64, 400),
        )
        streams = {
            name: batches(
                Loader(collection, hybrid, *sides, 64, 256, 0, packed_length=packed_length),
                0,
                (rounds + 1) * BATCHES,
            )
            for name, packed_length in (("padded", 0), ("packed", 256))
        }

        def take_round(stream: Iterator[Batch]) -> None:
            for _ in range(BATCHES):
                next(stream)

        calls = {name: partial(take_round, stream) for name, stream in streams.items()}
        # the first round, which does not count, starts TensorFlow
        seconds = timing.alternate(calls, rounds)
    results: dict[str, Any] = {
        "pairs per batch": BATCH_SIZE,
        "tokens": "64 + 256",
        "pairs per second": {
            name: timing.spread([BATCHES * BATCH_SIZE / x for x in times])
            for name, times in seconds.items()
        },
    }
    if directory:
        results["padding fraction, MLQA"] = padding_fraction(directory)
    return results


def _synthetic_collection() -> Collection:
    """Groups of parallel texts, one in each language, without the texts themselves."""
    text_indices = np.arange(PAIRS * len(LANGUAGES)).reshape(PAIRS, len(LANGUAGES))
    groups = np.arange(PAIRS)
    return Collection(
        languages=LANGUAGES,
        texts=[],
        ids=[],
        query=text_indices,
        # a batch's cell needs a passage other than the query's own text
        passage=np.roll(text_indices, 1, axis=1),
        cluster=groups,
        text_cluster=np.repeat(groups, len(LANGUAGES)),
        source=np.zeros(PAIRS, int),
        source_names=("synthetic",),
        hard_negative_offsets=np.zeros(text_indices.size + 1, int),
        hard_negatives=np.zeros(0, int),
    )


def _random_tokens(rng: np.random.Generator, path: Path, shortest: int, longest: int) -> Tokens:
    """Random ids of the collection's texts, memory-mapped from a file as training has them.

    Args:
        rng: draws lengths and ids.
        path: file that the ids are written to.
        shortest: length in tokens.
        longest: length in tokens, excluded.
    """
    lengths = rng.integers(shortest, longest, PAIRS * len(LANGUAGES))
    np.save(path, rng.integers(4, 250_000, lengths.sum(), dtype=np.int32))
    stored = np.load(path, mmap_mode="r")
    starts = np.cumsum(lengths) - lengths
    return Tokens((stored,), np.zeros_like(starts), starts, lengths, (0,), (2,), 1)


def padding_fraction(directory: Path) -> dict[str, Any]:
    """Fraction of padding in padded and in packed batches of MLQA's pairs.

    The batches are not those that the row counts of packed steps were chosen by.

    Args:
        directory: of MLQA's pairs.
    """
    config = workloads.run_config("small", PADDING_BATCH_SIZE, "float32", 0, 0.0)
    with tempfile.TemporaryDirectory() as cache:
        packed = workloads.mlqa_loader(config, directory, 1, Path(cache))
        padded = dataclasses.replace(packed, packed_length=0)
        steps = range(SAMPLED_STEPS, 2 * SAMPLED_STEPS)
        results: dict[str, Any] = {"pairs per batch": PADDING_BATCH_SIZE, "batches": len(steps)}
        for name, loader in (("padded", padded), ("packed", packed)):
            text_tokens, all_tokens = workloads.count_tokens([loader.batch(step) for step in steps])
            results[name] = 1 - text_tokens / all_tokens
        return results | {"row counts": packed.row_counts}
