"""The aligned collection: parallel groups x languages, all texts of a run.

A parallel group is what rows of one id make together: the same question (and its passage) in one
or more languages. Texts are kept once each and named by their index.

Dimension key: G parallel groups, N languages, T distinct texts, H hard negatives in all,
C groups of a cell, K hard negatives of a group, R groups taken, M rows read.
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from jaxir.config import DataConfig, Source
from jaxir.data.readers import read_rows
from jaxir.data.rows import Row
from jaxir.errors import UserError


@dataclass(frozen=True)
class Collection:
    """Texts, and tables of their indices by group and language; -1: no text.

    Hard negatives of group g in language n are
    `hard_negatives[hard_negative_offsets[g * N + n] : hard_negative_offsets[g * N + n + 1]]`.
    """

    languages: tuple[str, ...]  # N, sorted
    texts: list[str]  # T, distinct
    ids: list[str]  # G, distinct: the rows' id after "source path:" or "parallel word:"
    query: Int[np.ndarray, "G N"]  # indices of texts
    passage: Int[np.ndarray, "G N"]
    cluster: Int[np.ndarray, "G"]  # equal for groups that share a passage, in any language
    text_cluster: Int[np.ndarray, "T"]  # cluster of a text that is a passage, else -1
    source: Int[np.ndarray, "G"]  # index in source_names
    source_names: tuple[str, ...]
    hard_negative_offsets: Int[np.ndarray, "G*N+1"]
    hard_negatives: Int[np.ndarray, "H"]  # indices of texts
    report: dict[str, Any] = field(default_factory=dict)  # counts, for people
    # a query may be its own passage's text, since it is compared not with a text but an image
    of_images: bool = False

    def hard_negatives_of(self, group: int, language: int) -> Int[np.ndarray, "K"]:
        """Hard negatives of a group in a passage language, in file order."""
        index = group * len(self.languages) + language
        start, end = self.hard_negative_offsets[index : index + 2]
        return self.hard_negatives[start:end]


def take_groups(collection: Collection, groups: Int[np.ndarray, "R"]) -> Collection:
    """The collection of these groups, in this order; text and cluster indices stay the same."""
    width = len(collection.languages)
    # the hard negatives are a ragged array by (group, language): gather the slices of the groups
    rows = (groups[:, None] * width + np.arange(width)).reshape(-1)
    starts = collection.hard_negative_offsets[rows]
    lengths = collection.hard_negative_offsets[rows + 1] - starts
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    values = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
    return replace(
        collection,
        ids=[collection.ids[group] for group in groups.tolist()],
        query=collection.query[groups],
        passage=collection.passage[groups],
        cluster=collection.cluster[groups],
        source=collection.source[groups],
        hard_negative_offsets=offsets,
        hard_negatives=collection.hard_negatives[values],
    )


def with_hard_negatives(collection: Collection, keep: Bool[np.ndarray, "H"]) -> Collection:
    """The collection with those of its hard negatives that are to be kept."""
    before = np.concatenate([[0], np.cumsum(keep)])
    return replace(
        collection,
        hard_negative_offsets=before[collection.hard_negative_offsets],
        hard_negatives=collection.hard_negatives[keep],
    )


def cell_groups(
    collection: Collection, query_language: str, passage_language: str
) -> Int[np.ndarray, "C"]:
    """Groups with a query in one language and another text as passage in the other.

    Captions of images need a second text in another language only.
    """
    query = collection.query[:, collection.languages.index(query_language)]
    passage = collection.passage[:, collection.languages.index(passage_language)]
    same_text = collection.of_images and query_language == passage_language
    return np.flatnonzero((query >= 0) & (passage >= 0) & ((query != passage) | same_text))


class ConflictingRowError(Exception):
    """A row has another text than an earlier row at the same side, group and language."""

    def __init__(self, row: int):
        super().__init__(row)
        self.row = row


class CollectionBuilder:
    """Collects the texts of parallel groups row by row, then builds their `Collection`.

    Rows are kept as columns of 32-bit indices of distinct strings, so that a million rows fit into
    a few dozen megabytes.
    """

    def __init__(self) -> None:
        """Start without rows."""
        self._texts: dict[str, int] = {}
        self._languages: dict[str, int] = {}
        self._sources: dict[str, int] = {}
        self._ids: list[str] = []
        self._group_source = array("i")
        # group, query, passage, query language, passage language
        self._rows = tuple(array("i") for _ in range(5))
        self._hard_negatives = (array("i"), array("i"))  # row, text

    @property
    def rows(self) -> int:
        """Rows added so far."""
        return len(self._rows[0])

    def add_source(self, name: str) -> int:
        """Index of a source, which may have been added before."""
        return self._sources.setdefault(name, len(self._sources))

    def add_group(self, group_id: str, source: int) -> int:
        """Index of a new parallel group."""
        self._ids.append(group_id)
        self._group_source.append(source)
        return len(self._ids) - 1

    def add_row(
        self,
        group: int,
        texts: tuple[str, str],
        languages: tuple[str, str],
        hard_negatives: Iterable[str] = (),
    ) -> None:
        """Add a query and a passage, their languages and the passage language's negatives."""
        indices = self._texts
        for negative in hard_negatives:
            self._hard_negatives[0].append(self.rows)
            self._hard_negatives[1].append(indices.setdefault(negative, len(indices)))
        row = (
            group,
            *(indices.setdefault(text, len(indices)) for text in texts),
            *(self._languages.setdefault(code, len(self._languages)) for code in languages),
        )
        for column, value in zip(self._rows, row):
            column.append(value)

    def build(self, cluster: Int[np.ndarray, "G"] | None = None) -> Collection:
        """The collection of all rows.

        Args:
            cluster: of each group; None: groups that share a passage make a cluster.

        Raises:
            ConflictingRowError: a row contradicts an earlier one.
        """
        columns = [np.frombuffer(column, np.int32) for column in self._rows]
        group, query_text, passage_text, query_language, passage_language = columns
        languages = tuple(sorted(self._languages))
        rank = np.array([languages.index(language) for language in self._languages], np.int32)
        query_language, passage_language = rank[query_language], rank[passage_language]
        shape = (len(self._ids), len(languages))
        query, query_conflict = _text_table(group, query_language, query_text, shape)
        passage, passage_conflict = _text_table(group, passage_language, passage_text, shape)
        conflicts = np.flatnonzero(query_conflict | passage_conflict)
        if conflicts.size:
            raise ConflictingRowError(int(conflicts[0]))
        if cluster is None:
            cluster = _passage_clusters(passage, len(self._texts))
        text_cluster = np.full(len(self._texts), -1, np.int32)
        with_passage, language = np.nonzero(passage >= 0)
        text_cluster[passage[with_passage, language]] = cluster[with_passage]
        pairs = (group.astype(np.int64) * len(languages) + query_language) * len(languages)
        repeated = len(group) - len(np.unique(pairs + passage_language))
        row, negative = (np.frombuffer(column, np.int32) for column in self._hard_negatives)
        offsets, negatives = _group_hard_negatives(
            group[row].astype(np.int64) * len(languages) + passage_language[row], negative, passage
        )
        return Collection(
            languages=languages,
            texts=list(self._texts),
            ids=self._ids,
            query=query,
            passage=passage,
            cluster=cluster,
            text_cluster=text_cluster,
            source=np.array(self._group_source, np.int32),
            source_names=tuple(self._sources),
            hard_negative_offsets=offsets,
            hard_negatives=negatives,
            report={"rows": len(group), "repeated": repeated},
        )


def _text_table(
    group: Int[np.ndarray, "M"],
    language: Int[np.ndarray, "M"],
    text: Int[np.ndarray, "M"],
    shape: tuple[int, int],
) -> tuple[Int[np.ndarray, "G N"], Bool[np.ndarray, "M"]]:
    """Texts at [group, language], and the rows whose text differs from that of an earlier row."""
    table = np.full(shape, -1, np.int32)
    flat, first = np.unique(group.astype(np.int64) * shape[1] + language, return_index=True)
    table.reshape(-1)[flat] = text[first]
    return table, table[group, language] != text


def _passage_clusters(passage: Int[np.ndarray, "G N"], texts: int) -> Int[np.ndarray, "G"]:
    """Number the connected components of the graph whose edges are (group, passage)."""
    groups = len(passage)
    group, language = np.nonzero(passage >= 0)
    edges = coo_array(
        (np.ones(len(group), np.int8), (group, groups + passage[group, language])),
        shape=(groups + texts,) * 2,
    )
    _, label = connected_components(edges, directed=False)
    _, cluster = np.unique(label[:groups], return_inverse=True)
    return cluster.astype(np.int32)


def _group_hard_negatives(
    flat: Int[np.ndarray, "_"], text: Int[np.ndarray, "_"], passage: Int[np.ndarray, "G N"]
) -> tuple[Int[np.ndarray, "G*N+1"], Int[np.ndarray, "H"]]:
    """Offsets and texts of the hard negatives by (group, passage language).

    Args:
        flat: index of (group, passage language) of each hard negative read.
        text: its text; repeats, and the group's own passage, are left out.
        passage: the groups' passages.
    """
    _, first = np.unique(flat * (text.max(initial=0) + 1) + text, return_index=True)
    first = np.sort(first)
    first = first[passage.reshape(-1)[flat[first]] != text[first]]
    first = first[np.argsort(flat[first], kind="stable")]  # so file order stays within a slice
    lengths = np.bincount(flat[first], minlength=passage.size)
    return np.concatenate([[0], np.cumsum(lengths)]), text[first]


def read_collection(config: DataConfig) -> Collection:
    """Read every source and join rows of one id into parallel groups.

    Ids count within a source, or within all the sources of one `parallel` word.

    Raises:
        UserError: names file and line, row or id, and how to mend it.
    """
    if not config.sources:
        raise UserError("config.data.sources is empty: name at least one source")
    builder, groups, counts = CollectionBuilder(), dict[str, int](), Counter[str]()
    ends = [_read_source(builder, groups, source, config, counts) for source in config.sources]
    try:
        collection = builder.build()
    except ConflictingRowError as error:
        raise _duplicate_id(config, ends, error.row) from None
    skipped = {reason: count for reason, count in sorted(counts.items()) if count}
    return replace(collection, report=collection.report | skipped | _sizes(collection))


def _read_source(
    builder: CollectionBuilder,
    groups: dict[str, int],
    source: Source,
    config: DataConfig,
    counts: Counter[str],
) -> int:
    """Add a source's rows to the builder, and return the number of rows it holds by then."""
    before, index = builder.rows, builder.add_source(source.name or source.path)
    split = f"#{source.split}" if source.reader == "tfds" else ""
    namespace = source.parallel or f"{source.path}{split}"
    for row in _limited_rows(source, config, counts):
        row_id = f"{namespace}:{row.id}"
        group = groups.get(row_id)
        if group is None:
            group = groups[row_id] = builder.add_group(row_id, index)
        languages = (row.query_language, row.passage_language)
        builder.add_row(group, (row.query, row.passage), languages, row.hard_negatives)
    if builder.rows == before:
        raise UserError(f"source {source.path}: no rows; mend its path or leave it out")
    return builder.rows


def _limited_rows(source: Source, config: DataConfig, counts: Counter[str]) -> Iterator[Row]:
    """Rows of a source, of its first `config.limit` ids if that is set."""
    kept: set[str] = set()
    for row in read_rows(source, Path(config.directory), config.passage, counts):
        if config.limit and row.id not in kept:
            if len(kept) == config.limit:
                continue
            kept.add(row.id)
        yield row


def _duplicate_id(config: DataConfig, ends: list[int], index: int) -> UserError:
    """The error about a row that conflicts with an earlier one.

    The source is read again up to the row, rather than that a million rows keep their locations.
    """
    number = int(np.searchsorted(ends, index, side="right"))
    start = ends[number - 1] if number else 0
    row = next(
        islice(_limited_rows(config.sources[number], config, Counter()), index - start, None)
    )
    return UserError(
        f"{row.where}: duplicate id {row.id!r} in {row.query_language}-{row.passage_language} with "
        "another text; make ids distinct, or set fields.id='' of the source to number the rows"
    )


def _sizes(collection: Collection) -> dict[str, Any]:
    queries = (collection.query >= 0).sum(axis=0)
    passages = (collection.passage >= 0).sum(axis=0)
    return {
        "groups": len(collection.ids),
        "clusters": int(collection.cluster.max(initial=-1)) + 1,
        "texts": len(collection.texts),
        "queries": dict(zip(collection.languages, queries.tolist(), strict=True)),
        "passages": dict(zip(collection.languages, passages.tolist(), strict=True)),
    }
