"""Sums over steps: what a line of the metrics says, and what a schedule has used."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import jax
import numpy as np
from jaxtyping import Array

from jaxir.data.hybrid import Hybrid
from jaxir.data.pipeline import Batch, tokens_of
from jaxir.errors import RunError


class Meter:
    """Sums over the steps since the last line; keeps one step in flight on the device."""

    def __init__(self, hybrid: Hybrid, start: int):
        self.hybrid = hybrid
        self.kinds = usage(hybrid, start)[0]
        self._flying: list[tuple[int, Mapping[str, Array]]] = []
        self._reset()

    def add(self, step: int, batch: Batch, metrics: Mapping[str, Array]) -> None:
        """Take note of a step just dispatched, and wait for the one before.

        Raises:
            RunError: that one's loss is not finite.
        """
        self.kinds[self.hybrid.kind(step)] += 1
        self.pairs += self.hybrid.batch_size
        real, places = tokens_of(batch)
        self.tokens += real
        self.places += places
        self._flying.append((step, metrics))
        if len(self._flying) > 1:
            self._land()

    def check(self) -> None:
        """Wait for every step.

        Raises:
            RunError: a loss is not finite; the step, its kind and languages are named.
        """
        while self._flying:
            self._land()

    def waiting(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches; notes how long each keeps the step waiting."""
        while True:
            began = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - began
            if batch is None:
                return
            yield batch

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent in here is not the steps'; every step has landed, and its loss is finite.

        Raises:
            RunError: a loss is not finite.
        """
        self.check()
        began = time.perf_counter()
        yield
        self.since += time.perf_counter() - began

    def flush(self) -> dict[str, float]:
        """Means since the last flush, and the share of every kind since the first step."""
        self.check()
        seconds, steps = time.perf_counter() - self.since, len(self.landed)
        # a metric of one kind of batch is the mean over the steps of that kind
        names = dict.fromkeys(name for one in self.landed for name in one)
        means = {
            name: float(np.mean([one[name] for one in self.landed if name in one]))
            for name in names
        }
        total = sum(self.kinds.values())
        values = {
            **means,
            "pairs_per_second": self.pairs / seconds,
            "seconds_per_step": seconds / steps,
            "padding_waste": 1 - self.tokens / self.places,
            "input_wait": self.waited / seconds,
            **{f"share/{kind}": count / total for kind, count in sorted(self.kinds.items())},
        }
        self._reset()
        return values

    def _reset(self) -> None:
        self.since, self.pairs, self.tokens, self.places = time.perf_counter(), 0, 0, 0
        self.waited = 0.0
        self.landed: list[dict[str, float]] = []

    def _land(self) -> None:
        step, metrics = self._flying.pop(0)
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if not np.isfinite(values["loss"]):
            kind, languages = self.hybrid.languages(step)
            pairs = sorted({_pair(self.hybrid, pair) for pair in languages.tolist()})
            raise RunError(
                f"step {step}: the loss is {values['loss']} ({kind} batch, {', '.join(pairs[:8])}"
                f"{', ...' if len(pairs) > 8 else ''}); lower config.optimizer.learning_rate, "
                "raise config.loss.temperature or set config.optimizer.clip_norm"
            )
        self.landed.append(values)


def usage(hybrid: Hybrid, steps: int) -> tuple[Counter, Counter, Counter]:
    """Batches of each kind, and rows of each query language and pair, that `steps` steps use."""
    kinds: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    pairs: Counter[str] = Counter()
    for step in range(steps):
        kind, cells = hybrid.languages(step)
        kinds[kind] += 1
        distinct, counts = np.unique(cells, axis=0, return_counts=True)
        for cell, count in zip(distinct.tolist(), counts.tolist()):
            pairs[_pair(hybrid, cell)] += count
            languages[hybrid.language_names[cell[0]]] += count
    return kinds, languages, pairs


def _pair(hybrid: Hybrid, cell: list[int]) -> str:
    return "-".join(hybrid.language_names[language] for language in cell)
