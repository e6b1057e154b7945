"""From the rows of a step to arrays on the devices: fetch, pad, prefetch.

Dimension key: B pairs, P passages (a pair's own, then its hard negatives), L tokens of a row,
R rows that texts share, S texts of a row.

`hybrid` has decided which rows make the batch; tf.data only carries that out, ahead of time and in
the background, and a process loads no more than its own slice.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import jax
import numpy as np
from jaxtyping import Int

from jaxir.config import ModelConfig
from jaxir.data.collection import Collection
from jaxir.data.hybrid import Hybrid
from jaxir.data.interleaving import fold
from jaxir.data.packing import Packing, enough_rows, pack, pack_batch, row_counts, texts_a_row
from jaxir.data.tokens import Tokens, read_tokens
from jaxir.errors import UserError

Batch = dict[str, np.ndarray]
FIELDS = (
    "query_lengths",  # B
    "query_cluster",  # B
    "passage_lengths",  # P; 0: a row with fewer hard negatives than others
    "passage_cluster",  # P; -1: no row's positive
)
PADDED_FIELDS = (
    *FIELDS,
    "query_ids",  # B L
    "passage_ids",  # P L
)
PACKED_FIELDS = (  # as `pack_batch` has them
    *FIELDS,
    *("row_ids", "row_segments", "row_texts", "query_slots", "passage_slots"),
)
PREFETCHED_BATCHES = 4
SAMPLED_STEPS = 64  # whose rows decide for which numbers of rows a packed step is compiled


class Batches(Protocol):
    """What makes the arrays of a step."""

    @property
    def fields(self) -> Mapping[str, type]:
        """Names of a batch's arrays, and the type of their numbers."""

    def batch(self, step: int, rows: slice = slice(None)) -> Batch:
        """The arrays of a slice of a step's global batch."""

    def shapes(self, batch: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """Batches, or their shapes, for which a step is compiled ahead."""


def tokens_of(batch: Batch) -> tuple[int, int]:
    """Tokens of a batch's texts, and those that are computed, padding included."""
    real = sum(int(array.sum()) for name, array in batch.items() if name.endswith("_lengths"))
    return real, sum(array.size for name, array in batch.items() if name.endswith("_ids"))


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
    hard_negatives: int
    packed_length: int = 0  # of a row that texts share; 0: a row a text
    devices: int = 1  # that share a global batch
    rows_at_once: int = 1  # the rows of a device are a multiple of it

    @property
    def fields(self) -> Mapping[str, type]:
        """Names of a batch's arrays, and the type of their numbers."""
        return dict.fromkeys(PACKED_FIELDS if self.packed_length else PADDED_FIELDS, np.int32)

    def shapes(self, batch: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """The batch, or with packing its shapes with each number of rows met in the sample.

        The last number, which fits any batch, is compiled if one ever needs it.
        """
        if not self.packed_length:
            yield batch
            return
        for count in self.row_counts[:-1] or self.row_counts:
            yield {
                name: jax.ShapeDtypeStruct(
                    (count * self.devices, *x.shape[1:]) if name.startswith("row_") else x.shape,
                    x.dtype,
                    sharding=x.sharding,
                )
                for name, x in batch.items()
            }

    def batch(self, step: int, rows: slice = slice(None)) -> Batch:
        """The arrays of a slice of a step's global batch."""
        queries, passages, groups = self._texts(step)
        own = passages[rows].reshape(-1)
        query_ids, query_lengths = self.query_tokens.padded(queries[rows], self.max_query_tokens)
        passage_ids, passage_lengths = self.passage_tokens.padded(own, self.max_passage_tokens)
        arrays = {
            "query_ids": query_ids,
            "query_lengths": query_lengths,
            "query_cluster": self.collection.cluster[groups[rows]],
            "passage_ids": passage_ids,
            "passage_lengths": passage_lengths,
            "passage_cluster": np.where(own >= 0, self.collection.text_cluster[own], -1),
        }
        if self.packed_length:
            arrays |= self._pack_batch(arrays, queries, passages, rows)
        return {name: arrays[name].astype(np.int32) for name in self.fields}

    def _texts(
        self, step: int
    ) -> tuple[Int[np.ndarray, "B"], Int[np.ndarray, "B P"], Int[np.ndarray, "B"]]:
        """Queries of a step, each one's passages, and their parallel groups."""
        drawn = self.hybrid.batch(step)
        groups, language = drawn.groups, drawn.passage_language
        queries = self.collection.query[groups, drawn.query_language]
        own = self.collection.passage[groups, language]
        passages = np.concatenate([own[:, None], self._negatives(step, groups, language)], axis=1)
        return queries, passages, groups

    @cached_property
    def row_counts(self) -> tuple[int, ...]:
        """Numbers of rows on a device that batches come in; a function of the run alone."""
        needed = []
        for step in range(SAMPLED_STEPS):
            queries, passages, _ = self._texts(step)
            needed.append(max(one.rows for one in self._packings(queries, passages)))
        pairs = self.hybrid.batch_size // self.devices
        enough = enough_rows(
            pairs, pairs * (1 + self.hard_negatives), self.packed_length, self.max_query_tokens
        )
        return row_counts(needed, enough, self.rows_at_once)

    def _packings(
        self, queries: Int[np.ndarray, "B"], passages: Int[np.ndarray, "B P"]
    ) -> list[Packing]:
        """How each device packs its texts, queries before passages."""
        lengths = []
        for tokens, texts, limit in (
            (self.query_tokens, queries, self.max_query_tokens),
            (self.passage_tokens, passages, self.max_passage_tokens),
        ):
            cut = np.minimum(tokens.lengths_with_frame(texts), limit)
            lengths.append(np.where(texts >= 0, cut, 0).reshape(self.devices, -1))
        most = texts_a_row(self.packed_length, self.max_query_tokens)
        return [pack(own, self.packed_length, most) for own in np.concatenate(lengths, axis=1)]

    def _pack_batch(
        self,
        batch: Batch,
        queries: Int[np.ndarray, "B"],
        passages: Int[np.ndarray, "B P"],
        rows: slice,
    ) -> Batch:
        """As many rows on every device as the one that needs most of them asks for."""
        packings = self._packings(queries, passages)
        needed = max(packing.rows for packing in packings)
        count = next(count for count in self.row_counts if count >= needed)
        first, stop, _ = rows.indices(len(queries))
        pairs = len(queries) // self.devices
        return pack_batch(
            batch,
            packings[first // pairs : stop // pairs],
            (count, self.packed_length, texts_a_row(self.packed_length, self.max_query_tokens)),
            first,
            len(queries),
            self.query_tokens.pad_id,
        )

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


def batches(loader: Batches, start: int, stop: int, rows: slice = slice(None)) -> Iterator[Batch]:
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
