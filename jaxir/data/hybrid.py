"""Which rows make the batch of a step: a pure function of (seed, step).

Dimension key: B rows of the global batch, N languages, C cells, G parallel groups.

A *cell* is an ordered pair (query language, passage language) with the parallel groups that have
both texts. Every kind of batch (arXiv 2408.10536, section 3; LAReQA, arXiv 2004.05484, section 4)
is a set of cells, drawn once for a whole batch or once for each row:

    monolingual        one (x, x) for the batch        LAReQA's X-X-mono
    mixed_monolingual  an (x, x) for each row          X-X
    cross_lingual      an (x, y), x != y, for each row or for the batch     X-Y
    multilingual       any (x, y) for each row, the two languages independent
    english            (en, en)                        En-En

Kinds take turns by exact interleaving; sources and cells do so within a kind, on the kind's own
counter; the rows of a stream (kind, source, cell) come from its own permutation, one an epoch.
"""

import dataclasses
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int

from jaxir.config import HybridConfig, Shares
from jaxir.data.collection import Collection, cell
from jaxir.data.interleaving import Interleaving, fold, interleave, permuted
from jaxir.errors import UserError

KINDS = tuple(field.name for field in dataclasses.fields(Shares))
# a cell's share need not be finer than this, and every source and kind has a table of its own
CELL_PERIOD = 100_000


@dataclass(frozen=True)
class BatchRows:
    """The rows of one global batch, before their tokens are fetched."""

    kind: str
    source: int  # -1: any
    groups: Int[np.ndarray, "B"]
    query_language: Int[np.ndarray, "B"]
    passage_language: Int[np.ndarray, "B"]


@dataclass(frozen=True)
class Streams:
    """The cells that one kind of batch draws from one source (or all), and their turns."""

    languages: Int[np.ndarray, "C 2"]
    groups: tuple[Int[np.ndarray, "_"], ...]  # C arrays of groups
    turns: Interleaving
    per_batch: bool

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
        """Cell of each row of the counter-th batch, and how many rows that cell gave before."""
        rows = np.arange(batch_size)
        if self.per_batch:
            chosen, uses = self.turns.at(np.asarray(counter))
            return np.full(batch_size, chosen), uses * batch_size + rows
        return self.turns.at(counter * batch_size + rows)


class Hybrid:
    """The batch schedule of a collection: `batch(step)` gives the same rows on every machine."""

    def __init__(self, collection: Collection, config: HybridConfig, batch_size: int, seed: int):
        """Prepare the tables.

        Raises:
            UserError: a kind has a positive share, but the collection has no row for it.
        """
        self.batch_size, self.seed = batch_size, seed
        self.language_names = collection.languages
        shares = dataclasses.asdict(config.shares)
        self.kinds = interleave([shares[kind] for kind in KINDS])
        self.sources: dict[int, Interleaving] = {}
        self.streams: dict[tuple[int, int], Streams] = {}
        for number, kind in enumerate(KINDS):
            if not shares[kind]:
                continue
            by_source = _streams_by_source(collection, config, kind, seed)
            if not by_source:
                raise UserError(
                    f"config.hybrid.shares.{kind} = {shares[kind]:g}: the data has no row for it "
                    f"(languages: {', '.join(collection.languages)}); add such data or set it to 0"
                )
            self.sources[number] = interleave(
                [streams.rows for streams in by_source.values()], CELL_PERIOD
            )
            for source, streams in by_source.items():
                self.streams[number, source] = streams

    def kind(self, step: int) -> str:
        """Kind of the batch of a step."""
        return KINDS[int(self.kinds.at(np.asarray(step))[0])]

    def _draw(
        self, step: int
    ) -> tuple[int, int, Streams, Int[np.ndarray, "B"], Int[np.ndarray, "B"]]:
        kind, counter = map(int, self.kinds.at(np.asarray(step)))
        offered = [source for number, source in self.streams if number == kind]
        place, counter = map(int, self.sources[kind].at(np.asarray(counter)))
        streams = self.streams[kind, offered[place]]
        return kind, offered[place], streams, *streams.draw(counter, self.batch_size)

    def languages(self, step: int) -> tuple[str, Int[np.ndarray, "B 2"]]:
        """Kind of a step's batch, and the query and passage language of each of its rows."""
        kind, _, streams, cells, _ = self._draw(step)
        return KINDS[kind], streams.languages[cells]

    def batch(self, step: int) -> BatchRows:
        """The rows of a step's global batch."""
        kind, source, streams, cells, used = self._draw(step)
        sizes = streams.sizes[cells]
        epochs, places = np.divmod(used, sizes)
        keys = fold(self.seed, kind, source + 1, cells, epochs)
        places = permuted(places, sizes, keys)
        groups = np.array([streams.groups[c][place] for c, place in zip(cells, places)])
        languages = streams.languages[cells]
        return BatchRows(KINDS[kind], source, groups, languages[:, 0], languages[:, 1])


def _language_pairs(kind: str, languages: tuple[str, ...]) -> list[tuple[int, int]]:
    indexes = range(len(languages))
    if kind == "english":
        return [(x, x) for x in indexes if languages[x] == "en"]
    if kind in ("monolingual", "mixed_monolingual"):
        return [(x, x) for x in indexes]
    pairs = [(x, y) for x in indexes for y in indexes]
    return pairs if kind == "multilingual" else [(x, y) for x, y in pairs if x != y]


def _weights(
    kind: str, pairs: list[tuple[int, int]], sizes: list[int], config: HybridConfig
) -> list[float]:
    """Relative frequency of each cell.

    The two languages of a multilingual row are drawn independently, so the weight of its cell is
    the product of two language weights; the size of a language there is the number of its rows on
    that side. Pairs without a row are left out, in which case the draw is independent given that
    a row exists.
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
    # shuffled once, so that a batch smaller than the number of cells does not see the languages in
    # alphabetical order
    pairs = sorted(cells)
    pairs = [pairs[i] for i in np.argsort(fold(seed, np.arange(len(pairs))))]
    groups = tuple(cells[pair] for pair in pairs)
    weights = _weights(kind, pairs, [len(rows) for rows in groups], config)
    per_batch = kind == "monolingual" or (kind == "cross_lingual" and config.pair_per == "batch")
    return Streams(np.array(pairs), groups, interleave(weights, CELL_PERIOD), per_batch)


def _streams_by_source(
    collection: Collection, config: HybridConfig, kind: str, seed: int
) -> dict[int, Streams]:
    """The streams of a kind by source; -1 is all sources together."""
    cells = {
        pair: groups
        for pair in _language_pairs(kind, collection.languages)
        if len(groups := cell(collection, *(collection.languages[x] for x in pair)))
    }
    if not cells:
        return {}
    if not config.one_source_batches:
        return {-1: _streams(kind, cells, config, seed)}
    by_source = {}
    for source in range(len(collection.source_names)):
        own = {
            pair: rows
            for pair, groups in cells.items()
            if len(rows := groups[collection.source[groups] == source])
        }
        if own:
            by_source[source] = _streams(kind, own, config, seed)
    return by_source
