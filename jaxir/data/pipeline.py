"""From the rows of a step to arrays on the devices: fetch, pad, prefetch.

Dimension key: B pairs, P passages (a pair's own, then its hard negatives), L tokens.

`hybrid` has decided which rows make the batch; tf.data only carries that out, ahead of time and in
the background, and a process loads no more than its own slice.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from jaxir.config import ModelConfig
from jaxir.data.collection import Collection
from jaxir.data.hybrid import Hybrid
from jaxir.data.interleaving import fold
from jaxir.data.tokens import Tokens, read_tokens

Batch = dict[str, np.ndarray]
FIELDS = (
    "query_ids",  # B L
    "query_lengths",  # B
    "query_cluster",  # B
    "passage_ids",  # P L
    "passage_lengths",  # P; 0: a row with fewer hard negatives than others
    "passage_cluster",  # P; -1: no row's positive
)
PREFETCHED_BATCHES = 4


@dataclass(frozen=True)
class Loader:
    """Makes the arrays of a step from the tokens of a collection.

    Clusters say which passages answer the same queries (the same passage, or a parallel copy): two
    members of a cluster are never each other's negatives.
    """

    collection: Collection
    hybrid: Hybrid
    query_tokens: Tokens
    passage_tokens: Tokens
    max_query_tokens: int
    max_passage_tokens: int
    length_buckets: int
    hard_negatives: int

    def batch(self, step: int, rows: slice = slice(None)) -> Batch:
        """The arrays of a slice of a step's global batch; their widths depend on all of it."""
        drawn = self.hybrid.batch(step)
        groups, language = drawn.groups, drawn.passage_language
        queries = self.collection.query[groups, drawn.query_language]
        own = self.collection.passage[groups, language]
        passages = np.concatenate([own[:, None], self._negatives(step, groups, language)], axis=1)
        query_limit, passage_limit = self._limits(queries, passages)
        queries, passages = queries[rows], passages[rows].reshape(-1)
        query_ids, query_lengths = self.query_tokens.padded(queries, query_limit)
        passage_ids, passage_lengths = self.passage_tokens.padded(passages, passage_limit)
        clusters = np.where(passages >= 0, self.collection.text_cluster[passages], -1)
        own_clusters = self.collection.cluster[groups[rows]]
        arrays = (
            *(query_ids, query_lengths, own_clusters),
            *(passage_ids, passage_lengths, clusters),
        )
        return {name: array.astype(np.int32) for name, array in zip(FIELDS, arrays, strict=True)}

    def _limits(
        self, queries: Int[np.ndarray, "B"], passages: Int[np.ndarray, "B P"]
    ) -> tuple[int, int]:
        """Both token limits, halved as often as the longest texts of the batch allow."""
        limits = (self.max_query_tokens, self.max_passage_tokens)
        longest = [
            tokens.lengths_with_frame(texts[texts >= 0]).max()
            for tokens, texts in ((self.query_tokens, queries), (self.passage_tokens, passages))
        ]
        for halvings in reversed(range(self.length_buckets)):
            shorter = tuple(limit // 2**halvings for limit in limits)
            if all(length <= limit for length, limit in zip(longest, shorter)):
                return shorter
        return limits

    def _negatives(
        self, step: int, groups: Int[np.ndarray, "B"], language: Int[np.ndarray, "B"]
    ) -> Int[np.ndarray, "B H"]:
        """Hard negatives of each row, another choice at every step; -1 where it has too few."""
        count = self.hard_negatives
        chosen = np.full((len(groups), count), -1)
        for row, offered in enumerate(
            self.collection.negatives_of(int(group), int(x))
            for group, x in zip(groups, language)
            if count
        ):
            order = np.argsort(fold(self.hybrid.seed, step, groups[row], np.arange(len(offered))))
            chosen[row, : len(offered)] = offered[order[:count]]
        return chosen


def tokenize(
    collection: Collection, tokenizer: Any, model: ModelConfig, cache: os.PathLike
) -> tuple[Tokens, Tokens]:
    """Tokens of the collection's texts as queries and as passages, each with its prefix.

    Both keep the collection's numbers of texts; one that never stands on a side is empty there.
    """

    def tokens(used: Int[np.ndarray, "_"], prefix: str) -> Tokens:
        side = np.zeros(len(collection.texts), bool)
        side[used[used >= 0]] = True
        texts = [prefix + text if here else "" for text, here in zip(collection.texts, side)]
        return read_tokens(texts, tokenizer, cache)

    passages = np.concatenate([collection.passage.reshape(-1), collection.hard_negatives])
    return (
        tokens(collection.query.reshape(-1), model.query_prefix),
        tokens(passages, model.passage_prefix),
    )


def batches(loader: Loader, start: int, stop: int, rows: slice = slice(None)) -> Iterator[Batch]:
    """The batches of steps [start, stop) in order, made ahead of time by tf.data.

    `rows` is the part of the global batch that this process holds.
    """
    # its import takes seconds, and only training needs it
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")

    def load(step: np.ndarray) -> list[np.ndarray]:
        return list(loader.batch(int(step), rows).values())

    dataset = (
        tf.data.Dataset.range(start, stop)
        .map(
            lambda step: tf.numpy_function(load, [step], [tf.int32] * len(FIELDS)),
            num_parallel_calls=2,
            deterministic=True,
        )
        .prefetch(PREFETCHED_BATCHES)
    )
    for arrays in dataset.as_numpy_iterator():
        yield dict(zip(FIELDS, arrays, strict=True))
