"""From the rows of a step to arrays on the devices: fetch, pad or pack, prefetch.

Dimension key: B pairs, P passages of a pair (its positive, then its hard negatives), H hard
negatives of a pair.

`hybrid` has decided which rows make the batch; tf.data only carries that out, ahead of time and in
the background, and a process loads no more than its own slice.
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import jax
import numpy as np
from jaxtyping import Int

from jaxir.config import ModelConfig
from jaxir.data.batch import Batch, BatchLayout
from jaxir.data.collection import Collection
from jaxir.data.hashing import hash_integers
from jaxir.data.hybrid import Hybrid
from jaxir.data.packing import Packing, enough_rows, pack_batch, pack_devices, row_counts
from jaxir.data.tokens import Tokens, read_tokens
from jaxir.errors import UserError

PREFETCHED_BATCHES = 4
SAMPLED_STEPS = 64  # whose packings decide the numbers of rows that a step is compiled for


class BatchLoader(Protocol):
    """A maker of the arrays of each step, for `batches` and for compiling ahead."""

    @property
    def fields(self) -> Mapping[str, type]:
        """Names and dtypes of a batch's arrays."""

    def batch(self, step: int, rows: slice = slice(None)) -> Batch:
        """The arrays of a slice of a step's global batch."""

    def shapes(self, batch: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """Batches, or their shapes, for which a step is compiled ahead."""


@dataclass(frozen=True)
class Loader:
    """Loader of text batches, from the tokens of a collection and a schedule.

    Clusters say which passages answer the same queries (the same passage, or a translation): two
    members of a cluster are never each other's negatives.
    """

    collection: Collection
    hybrid: Hybrid
    query_tokens: Tokens
    passage_tokens: Tokens
    max_query_tokens: int
    max_passage_tokens: int
    hard_negatives: int
    packed_length: int = 0  # tokens of a packed row; 0: one text per row
    devices: int = 1  # that share a global batch
    grad_cache_chunk: int = 1  # the packed rows of a device are a multiple of it

    @property
    def layout(self) -> BatchLayout:
        """Shapes of a global batch, but for the number of its packed rows."""
        return BatchLayout(
            self.hybrid.batch_size,
            self.hard_negatives,
            self.max_query_tokens,
            self.max_passage_tokens,
            self.packed_length,
        )

    @property
    def fields(self) -> Mapping[str, type]:
        """Names and dtypes of a batch's arrays."""
        return dict.fromkeys(self.layout.shapes(), np.int32)

    def shapes(self, batch: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """The batch, or with packing its shapes with each number of rows met in the sample.

        A step for the last number, which fits any batch, is compiled if one ever needs it.
        """
        if not self.packed_length:
            yield batch
            return
        for count in self.row_counts[:-1] or self.row_counts:
            layout = dataclasses.replace(self.layout, rows=count * self.devices)
            yield {
                name: jax.ShapeDtypeStruct(shape, batch[name].dtype, sharding=batch[name].sharding)
                for name, shape in layout.shapes().items()
            }

    def batch(self, step: int, rows: slice = slice(None)) -> Batch:
        """The arrays of a slice of a step's global batch."""
        queries, passages, groups = self._texts(step)
        texts = passages[rows].reshape(-1)
        query_ids, query_lengths = self.query_tokens.padded(queries[rows], self.max_query_tokens)
        passage_ids, passage_lengths = self.passage_tokens.padded(texts, self.max_passage_tokens)
        arrays = {
            "query_ids": query_ids,
            "query_lengths": query_lengths,
            "query_cluster": self.collection.cluster[groups[rows]],
            "passage_ids": passage_ids,
            "passage_lengths": passage_lengths,
            "passage_cluster": np.where(texts >= 0, self.collection.text_cluster[texts], -1),
        }
        if self.packed_length:
            arrays |= self._packed(arrays, queries, passages, rows)
        return {name: arrays[name].astype(np.int32) for name in self.fields}

    def _texts(
        self, step: int
    ) -> tuple[Int[np.ndarray, "B"], Int[np.ndarray, "B P"], Int[np.ndarray, "B"]]:
        """Indices of a step's queries, of each one's passages, and of their parallel groups."""
        drawn = self.hybrid.batch(step)
        groups, language = drawn.groups, drawn.passage_language
        queries = self.collection.query[groups, drawn.query_language]
        positives = self.collection.passage[groups, language]
        passages = np.concatenate(
            [positives[:, None], self._negatives(step, groups, language)], axis=1
        )
        return queries, passages, groups

    @cached_property
    def row_counts(self) -> tuple[int, ...]:
        """Numbers of rows on a device that packed batches have; a function of the run alone."""
        needed = []
        for step in range(SAMPLED_STEPS):
            queries, passages, _ = self._texts(step)
            needed.append(max(packing.rows for packing in self._packings(queries, passages)))
        pairs = self.hybrid.batch_size // self.devices
        passages_of_device = pairs * (1 + self.hard_negatives)
        enough = enough_rows(pairs, passages_of_device, self.packed_length, self.max_query_tokens)
        return row_counts(needed, enough, self.grad_cache_chunk)

    def _packings(
        self, queries: Int[np.ndarray, "B"], passages: Int[np.ndarray, "B P"]
    ) -> list[Packing]:
        """The packing of each device's texts, queries before passages."""

        def lengths(tokens: Tokens, texts: Int[np.ndarray, "..."], limit: int) -> np.ndarray:
            cut = np.minimum(tokens.lengths_with_special_tokens(texts), limit)
            return np.where(texts >= 0, cut, 0)

        return pack_devices(
            lengths(self.query_tokens, queries, self.max_query_tokens),
            lengths(self.passage_tokens, passages, self.max_passage_tokens).reshape(-1),
            self.layout,
            self.devices,
        )

    def _packed(
        self,
        batch: Batch,
        queries: Int[np.ndarray, "B"],
        passages: Int[np.ndarray, "B P"],
        rows: slice,
    ) -> Batch:
        """The packed rows of a slice; every device gets as many as the fullest device needs."""
        packings = self._packings(queries, passages)
        needed = max(packing.rows for packing in packings)
        first, stop, _ = rows.indices(len(queries))
        pairs = len(queries) // self.devices
        return pack_batch(
            batch,
            packings[first // pairs : stop // pairs],
            dataclasses.replace(
                self.layout,
                pairs=pairs,
                rows=next(count for count in self.row_counts if count >= needed),
            ),
            first,
            len(queries),
            self.query_tokens.pad_id,
        )

    def _negatives(
        self, step: int, groups: Int[np.ndarray, "B"], language: Int[np.ndarray, "B"]
    ) -> Int[np.ndarray, "B H"]:
        """Hard negatives of each pair, another choice at every step; -1 where there are too few."""
        count = self.hard_negatives
        chosen = np.full((len(groups), count), -1)
        for row, offered in enumerate(
            self.collection.hard_negatives_of(int(group), int(code))
            for group, code in zip(groups, language)
            if count
        ):
            order = np.argsort(
                hash_integers(self.hybrid.seed, step, groups[row], np.arange(len(offered)))
            )
            chosen[row, : len(offered)] = offered[order[:count]]
        return chosen


def tokenize(
    collection: Collection, tokenizer: Any, model: ModelConfig, cache: os.PathLike
) -> tuple[Tokens, Tokens]:
    """Tokens of the collection's texts as queries and as passages, each with its prefix.

    Both are indexed as the collection's texts are; a text that is never a query has no tokens as a
    query, and likewise for passages.
    """

    def tokens(indices: Int[np.ndarray, "_"], prefix: str) -> Tokens:
        used = np.zeros(len(collection.texts), bool)
        used[indices[indices >= 0]] = True
        texts = [prefix + text if needed else "" for text, needed in zip(collection.texts, used)]
        return read_tokens(texts, tokenizer, cache)

    passages = np.concatenate([collection.passage.reshape(-1), collection.hard_negatives])
    return (
        tokens(collection.query.reshape(-1), model.query_prefix),
        tokens(passages, model.passage_prefix),
    )


def batches(
    loader: BatchLoader, start: int, stop: int, rows: slice = slice(None)
) -> Iterator[Batch]:
    """The batches of steps [start, stop) in order, made ahead of time by tf.data.

    `rows` is the part of the global batch that this process holds.

    Raises:
        UserError: the loader's own, of the first step that cannot be made.
    """
    # its import takes seconds, and only training needs it
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    mistakes: dict[int, UserError] = {}
    types = [tf.as_dtype(kind) for kind in loader.fields.values()]

    def load(step: np.ndarray) -> list[np.ndarray]:
        try:
            batch = loader.batch(int(step), rows)
        except UserError as error:  # tf.data would make a traceback of it
            mistakes[int(step)] = error
            raise
        return [batch[name] for name in loader.fields]

    dataset = (
        tf.data.Dataset.range(start, stop)
        .map(
            lambda step: tf.numpy_function(load, [step], types),
            num_parallel_calls=2,
            deterministic=True,
        )
        .prefetch(PREFETCHED_BATCHES)
    )
    try:
        for arrays in dataset.as_numpy_iterator():
            yield dict(zip(loader.fields, arrays, strict=True))
    except tf.errors.OpError:
        if mistakes:
            raise mistakes[min(mistakes)] from None
        raise
