"""The batch schedule: the rows of a step's batch are a pure function of (seed, step).

Dimension key: B rows of the global batch, C cells.

A *cell* is an ordered pair (query language, passage language) with the parallel groups that have
both texts. Every kind of batch (arXiv 2408.10536, section 3; LAReQA, arXiv 2004.05484, section 4)
is a set of cells, drawn once for a whole batch or once for each row:

    monolingual        one (x, x) for the batch        LAReQA's X-X-mono
    mixed_monolingual  an (x, x) for each row          X-X
    cross_lingual      an (x, y), x != y, for each row or for the batch     X-Y
    multilingual       any (x, y) for each row, the two languages independent
    english            (en, en)                        En-En

Kinds are interleaved exactly, in the proportion of their shares, and so are the sources of a kind
and the cells of a source, each on a counter of its own. A stream (kind, source, cell) takes the
rows of its cell in a permutation, another one in each epoch.
"""

import dataclasses
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int

from jaxir.config import HybridConfig, Shares
from jaxir.data.collection import Collection, cell_groups
from jaxir.data.hashing import hash_integers, permute
from jaxir.data.interleaving import Interleaving, interleave
from jaxir.errors import UserError

KINDS = tuple(field.name for field in dataclasses.fields(Shares))
# draws of a period: shares of cells and sources need be no finer, and each kind and source has a
# table of that length
CELL_PERIOD = 100_000


@dataclass(frozen=True)
class BatchRows:
    """The rows of a global batch: their parallel groups and languages."""

    kind: str
    source: int  # index of the only one; -1: any
    groups: Int[np.ndarray, "B"]
    query_language: Int[np.ndarray, "B"]
    passage_language: Int[np.ndarray, "B"]


@dataclass(frozen=True)
class Streams:
    """The cells that a kind of batch draws from a source (or all), and their interleaving."""

    languages: Int[np.ndarray, "C 2"]
    groups: tuple[Int[np.ndarray, "_"], ...]  # C arrays of groups
    interleaving: Interleaving
    per_batch: bool  # one cell for a whole batch, else one for each row

    @property
    def rows(self) -> int:
        """Rows of all cells."""
        return sum(map(len, self.groups))

    @cached_property
    def sizes(self) -> Int[np.ndarray, "C"]:
        """Rows of each cell."""
        return np.array([len(groups) for groups in self.groups])

    def draw(
        self, counter: int, batch_size: int
    ) -> tuple[Int[np.ndarray, "B"], Int[np.ndarray, "B"]]:
        """Cell of each row of the counter-th batch, and the rows drawn from that cell before."""
        rows = np.arange(batch_size)
        if self.per_batch:
            cell, batches = self.interleaving.at(np.asarray(counter))
            return np.full(batch_size, cell), batches * batch_size + rows
        return self.interleaving.at(counter * batch_size + rows)


class Hybrid:
    """The batch schedule of a collection: `batch(step)` gives the same rows on every machine."""

    def __init__(self, collection: Collection, config: HybridConfig, batch_size: int, seed: int):
        """Tabulate the interleavings of kinds, sources and cells.

        Raises:
            UserError: a kind has a positive share, but the collection has no row for it.
        """
        self.batch_size, self.seed = batch_size, seed
        self.language_names = collection.languages
        shares = dataclasses.asdict(config.shares)
        self.kinds = interleave([shares[kind] for kind in KINDS])
        self.sources: dict[int, Interleaving] = {}
        self.streams: dict[tuple[int, int], Streams] = {}
        for index, kind in enumerate(KINDS):
            if not shares[kind]:
                continue
            by_source = _streams_by_source(collection, config, kind, seed)
            if not by_source:
                raise UserError(
                    f"config.hybrid.shares.{kind} = {shares[kind]:g}: the data has no row for it "
                    f"(languages: {', '.join(collection.languages)}); add such data or set it to 0"
                )
            # a batch of one source alone is as frequent as the source has rows of the kind
            self.sources[index] = interleave(
                [streams.rows for streams in by_source.values()], CELL_PERIOD
            )
            for source, streams in by_source.items():
                self.streams[index, source] = streams

    def kind(self, step: int) -> str:
        """Kind of the batch of a step."""
        return KINDS[int(self.kinds.at(np.asarray(step))[0])]

    def _draw(
        self, step: int
    ) -> tuple[int, int, Streams, Int[np.ndarray, "B"], Int[np.ndarray, "B"]]:
        """Kind and source of a step, their streams, and `Streams.draw` of them."""
        # the step counts batches; each interleaving turns its counter into one of what it drew:
        # steps -> batches of the kind before -> batches of that kind from the source before
        kind, kind_counter = map(int, self.kinds.at(np.asarray(step)))
        sources = [source for other, source in self.streams if other == kind]
        index, counter = map(int, self.sources[kind].at(np.asarray(kind_counter)))
        streams = self.streams[kind, sources[index]]
        return kind, sources[index], streams, *streams.draw(counter, self.batch_size)

    def languages(self, step: int) -> tuple[str, Int[np.ndarray, "B 2"]]:
        """Kind of a step's batch, and the query and passage language of each of its rows."""
        kind, _, streams, cells, _ = self._draw(step)
        return KINDS[kind], streams.languages[cells]

    def batch(self, step: int) -> BatchRows:
        """The rows of a step's global batch."""
        kind, source, streams, cells, used = self._draw(step)
        # the n-th row drawn from a cell of S rows is row n mod S of epoch n div S, under the
        # permutation of that stream and epoch; so every epoch has each row once
        sizes = streams.sizes[cells]
        epochs, rows = np.divmod(used, sizes)
        keys = hash_integers(self.seed, kind, source + 1, cells, epochs)
        rows = permute(rows, sizes, keys)
        groups = np.array([streams.groups[cell][row] for cell, row in zip(cells, rows)])
        languages = streams.languages[cells]
        return BatchRows(KINDS[kind], source, groups, languages[:, 0], languages[:, 1])


def _language_pairs(kind: str, languages: tuple[str, ...]) -> list[tuple[int, int]]:
    indices = range(len(languages))
    if kind == "english":
        return [(x, x) for x in indices if languages[x] == "en"]
    if kind in ("monolingual", "mixed_monolingual"):
        return [(x, x) for x in indices]
    pairs = [(x, y) for x in indices for y in indices]
    return pairs if kind == "multilingual" else [(x, y) for x, y in pairs if x != y]


def _weights(
    kind: str, pairs: list[tuple[int, int]], sizes: list[int], config: HybridConfig
) -> list[float]:
    """Relative frequency of each cell.

    The two languages of a multilingual row are drawn independently, so the weight of its cell is
    the product of two language weights, where the size of a language is the number of its rows as
    query, or as passage. Pairs without a row are left out, in which case the draw is independent
    given that a row exists.
    """

    def weight(size: int) -> float:
        if config.language_weights == "uniform":
            return 1.0
        exponent = 1.0 if config.language_weights == "size" else 1 / config.language_temperature
        return float(size) ** exponent

    if kind != "multilingual":
        return [weight(size) for size in sizes]
    queries: dict[int, int] = {}
    passages: dict[int, int] = {}
    for (x, y), size in zip(pairs, sizes, strict=True):
        queries[x] = queries.get(x, 0) + size
        passages[y] = passages.get(y, 0) + size
    return [weight(queries[x]) * weight(passages[y]) for x, y in pairs]


def _streams(
    kind: str, cells: dict[tuple[int, int], Int[np.ndarray, "_"]], config: HybridConfig, seed: int
) -> Streams:
    # shuffled once: cells that are due together are drawn in this order, and a batch smaller than
    # the number of cells must not always get the languages that come first in the alphabet
    pairs = sorted(cells)
    pairs = [pairs[i] for i in np.argsort(hash_integers(seed, np.arange(len(pairs))))]
    groups = tuple(cells[pair] for pair in pairs)
    weights = _weights(kind, pairs, [len(rows) for rows in groups], config)
    per_batch = kind == "monolingual" or (kind == "cross_lingual" and config.pair_per == "batch")
    return Streams(np.array(pairs), groups, interleave(weights, CELL_PERIOD), per_batch)


def _streams_by_source(
    collection: Collection, config: HybridConfig, kind: str, seed: int
) -> dict[int, Streams]:
    """The streams of a kind by source; -1: all sources together."""
    cells = {
        pair: groups
        for pair in _language_pairs(kind, collection.languages)
        if len(groups := cell_groups(collection, *(collection.languages[x] for x in pair)))
    }
    if not cells:
        return {}
    if not config.one_source_batches:
        return {-1: _streams(kind, cells, config, seed)}
    by_source = {}
    for source in range(len(collection.source_names)):
        source_cells = {
            pair: rows
            for pair, groups in cells.items()
            if len(rows := groups[collection.source[groups] == source])
        }
        if source_cells:
            by_source[source] = _streams(kind, source_cells, config, seed)
    return by_source
