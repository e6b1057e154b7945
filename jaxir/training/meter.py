"""Means over the steps between two lines of the log, and the rows that a schedule has used."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import jax
import numpy as np
from jaxtyping import Array

from jaxir.data.batch import Batch, count_tokens
from jaxir.data.hybrid import Hybrid
from jaxir.errors import RunError


class Meter:
    """Sums over the steps since the last line of the log; keeps one step in flight."""

    def __init__(self, schedule: Hybrid, start: int):
        self.schedule = schedule
        self.kinds = usage(schedule, start)[0]
        self._in_flight: list[tuple[int, Mapping[str, Array]]] = []
        self._reset()

    def add(self, step: int, batch: Batch, metrics: Mapping[str, Array]) -> None:
        """Count a step just dispatched, and wait for the one before it.

        Raises:
            RunError: the loss of the step before is not finite.
        """
        self.kinds[self.schedule.kind(step)] += 1
        self.pairs += self.schedule.batch_size
        real, computed = count_tokens(batch)
        self.tokens += real
        self.computed_tokens += computed
        self._in_flight.append((step, metrics))
        if len(self._in_flight) > 1:
            self._wait_for_oldest()

    def check(self) -> None:
        """Wait for every step in flight.

        Raises:
            RunError: a loss is not finite; the step, its kind and languages are named.
        """
        while self._in_flight:
            self._wait_for_oldest()

    def waiting(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches, with the time that each keeps the device waiting measured."""
        while True:
            began = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - began
            if batch is None:
                return
            yield batch

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Pause the clock, after every step in flight has ended with a finite loss.

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
        seconds, steps = time.perf_counter() - self.since, len(self.metrics)
        # a metric that only some kinds of batches have is the mean over the steps that have it
        names = dict.fromkeys(name for metrics in self.metrics for name in metrics)
        means = {
            name: float(np.mean([metrics[name] for metrics in self.metrics if name in metrics]))
            for name in names
        }
        total = sum(self.kinds.values())
        values = {
            **means,
            "pairs_per_second": self.pairs / seconds,
            "seconds_per_step": seconds / steps,
            "padding_waste": 1 - self.tokens / self.computed_tokens,
            "input_wait": self.waited / seconds,
            **{f"share/{kind}": count / total for kind, count in sorted(self.kinds.items())},
        }
        self._reset()
        return values

    def _reset(self) -> None:
        self.since = time.perf_counter()
        self.pairs = self.tokens = self.computed_tokens = 0
        self.waited = 0.0
        self.metrics: list[dict[str, float]] = []

    def _wait_for_oldest(self) -> None:
        step, metrics = self._in_flight.pop(0)
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if not np.isfinite(values["loss"]):
            kind, languages = self.schedule.languages(step)
            pairs = sorted({_pair(self.schedule, pair) for pair in languages.tolist()})
            raise RunError(
                f"step {step}: the loss is {values['loss']} ({kind} batch, {', '.join(pairs[:8])}"
                f"{', ...' if len(pairs) > 8 else ''}); lower config.optimizer.learning_rate, "
                "raise config.loss.temperature or set config.optimizer.clip_norm"
            )
        self.metrics.append(values)


def usage(schedule: Hybrid, steps: int) -> tuple[Counter, Counter, Counter]:
    """Batches of each kind, and rows of each query language and language pair, in `steps` steps."""
    kinds: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    pairs: Counter[str] = Counter()
    for step in range(steps):
        kind, row_pairs = schedule.languages(step)
        kinds[kind] += 1
        distinct, counts = np.unique(row_pairs, axis=0, return_counts=True)
        for pair, count in zip(distinct.tolist(), counts.tolist()):
            pairs[_pair(schedule, pair)] += count
            languages[schedule.language_names[pair[0]]] += count
    return kinds, languages, pairs


def _pair(schedule: Hybrid, languages: list[int]) -> str:
    return "-".join(schedule.language_names[language] for language in languages)
