"""Measure how fast the parts are.

    python -m jaxir.bench pipeline [--output FILE.json] [--rounds 5]

`pipeline`: from the token cache on disk to batches in memory, as training has them, on made-up
texts of 64 + 256 tokens in nine languages: pairs a second, median and range over rounds.
"""

import json
import platform
import tempfile
import time
from pathlib import Path

from absl import flags

from jaxir import command_line
from jaxir.errors import UserError

PAIRS = 1 << 15
BATCH_SIZE = 2_048
BATCHES = 40  # a round
LANGUAGES = ("ar", "de", "en", "es", "hi", "ru", "th", "tr", "zh")


def pipeline(rounds: int) -> dict:
    """Pairs a second from memory-mapped tokens to batches of 64 + 256 tokens."""
    import numpy as np

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


BENCHMARKS = {"pipeline": pipeline}


def main(argv: list[str]) -> int | None:
    """Read the command line, then measure."""
    values = flags.FlagValues()
    flags.DEFINE_string("output", None, "also write the figures to this file", flag_values=values)
    flags.DEFINE_integer("rounds", 5, "how often it is measured", 1, flag_values=values)
    words = command_line.parse(argv, values, str(__doc__), words=1)
    if words is None:
        return 0
    if not words or words[0] not in BENCHMARKS:
        raise UserError(f"name one benchmark of: {', '.join(BENCHMARKS)}")
    figures = {words[0]: BENCHMARKS[words[0]](values.rounds), "machine": platform.platform()}
    text = json.dumps(figures, indent=1)
    print(text)
    if values.output:
        Path(values.output).write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    command_line.run(main)
