"""The aligned collection: parallel groups x languages, all texts of a run.

A parallel group is what rows of one id make together: the same question (and its passage) in one
or more languages. Texts are kept once each and named by their index.

Dimension key: G parallel groups, N languages, T distinct texts, H hard negatives in all,
C groups of a cell.
"""

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from jaxir.config import DataConfig, Source
from jaxir.data.rows import Row
from jaxir.data.sources import read_rows
from jaxir.errors import UserError


@dataclass(frozen=True)
class Collection:
    """Texts and where they stand; -1 is a place without a text.

    Hard negatives of group g in language n are
    `hard_negatives[hard_negative_offsets[g * N + n] : hard_negative_offsets[g * N + n + 1]]`.
    """

    languages: tuple[str, ...]  # N, sorted
    texts: list[str]  # T, distinct
    ids: list[str]  # G, distinct: the rows' id after "source path:" or "parallel word:"
    query: Int[np.ndarray, "G N"]  # indexes of texts
    passage: Int[np.ndarray, "G N"]
    cluster: Int[np.ndarray, "G"]  # one number for groups that share a passage, in any language
    text_cluster: Int[np.ndarray, "T"]  # cluster of a text that is a passage, else -1
    source: Int[np.ndarray, "G"]  # index in source_names
    source_names: tuple[str, ...]
    hard_negative_offsets: Int[np.ndarray, "G*N+1"]
    hard_negatives: Int[np.ndarray, "H"]  # indexes of texts
    report: dict[str, Any] = field(default_factory=dict)  # counts, for people
    # a query may meet its own text, since what it is compared with is no text but an image
    of_images: bool = False

    def negatives_of(self, group: int, language: int) -> Int[np.ndarray, "K"]:
        """Texts that look right for a group in a passage language but are not, in file order."""
        at = group * len(self.languages) + language
        start, end = self.hard_negative_offsets[at : at + 2]
        return self.hard_negatives[start:end]


def read_collection(config: DataConfig) -> Collection:
    """Read every source and join rows of one id into parallel groups.

    Ids count within a source, or within all the sources of one `parallel` word.

    Raises:
        UserError: names file and line, row or id, and how to mend it.
    """
    if not config.sources:
        raise UserError("config.data.sources is empty: name at least one source")
    reading = _Reading()
    for source in config.sources:
        _read_source(reading, source, config)
    return _collect(reading, config)


@dataclass
class _Reading:
    """Rows as columns of numbers; every number is the place of a string in one of the dicts."""

    texts: dict[str, int] = field(default_factory=dict)
    languages: dict[str, int] = field(default_factory=dict)
    ids: dict[str, int] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    columns: tuple[array, ...] = field(default_factory=lambda: tuple(array("i") for _ in range(6)))
    negatives: tuple[array, ...] = field(default_factory=lambda: (array("i"), array("i")))
    counts: Counter[str] = field(default_factory=Counter)
    ends: list[int] = field(default_factory=list)  # number of rows after each source


def _rows(source: Source, config: DataConfig, counts: Counter[str]) -> Iterator[Row]:
    """Rows of a source, of its first `config.limit` ids if that is set."""
    kept: set[str] = set()
    for row in read_rows(source, Path(config.directory), config.passage, counts):
        if config.limit and row.id not in kept:
            if len(kept) == config.limit:
                continue
            kept.add(row.id)
        yield row


def _namespace(source: Source) -> str:
    split = f"#{source.split}" if source.reader == "tfds" else ""
    return source.parallel or f"{source.path}{split}"


def _read_source(reading: _Reading, source: Source, config: DataConfig) -> None:
    texts, languages, ids = reading.texts, reading.languages, reading.ids
    group_column, query_column, passage_column, *rest = reading.columns
    query_language_column, passage_language_column, source_column = rest
    name = reading.names.setdefault(source.name or source.path, len(reading.names))
    namespace, before = _namespace(source), len(group_column)
    for row in _rows(source, config, reading.counts):
        row_id = f"{namespace}:{row.id}"
        for negative in row.hard_negatives:
            reading.negatives[0].append(len(group_column))
            reading.negatives[1].append(texts.setdefault(negative, len(texts)))
        group_column.append(ids.setdefault(row_id, len(ids)))
        query_column.append(texts.setdefault(row.query, len(texts)))
        passage_column.append(texts.setdefault(row.passage, len(texts)))
        query_language_column.append(languages.setdefault(row.query_language, len(languages)))
        passage_language_column.append(languages.setdefault(row.passage_language, len(languages)))
        source_column.append(name)
    if len(group_column) == before:
        raise UserError(f"source {source.path}: no rows; mend its path or leave it out")
    reading.ends.append(len(group_column))


def _collect(reading: _Reading, config: DataConfig) -> Collection:
    columns = [np.frombuffer(column, np.int32) for column in reading.columns]
    group, query_text, passage_text, query_language, passage_language, source = columns
    languages = tuple(sorted(reading.languages))
    order = np.array([languages.index(language) for language in reading.languages], np.int32)
    query_language, passage_language = order[query_language], order[passage_language]
    groups, width = len(reading.ids), len(languages)
    query, query_clash = _place(group, query_language, query_text, (groups, width))
    passage, passage_clash = _place(group, passage_language, passage_text, (groups, width))
    clash = np.flatnonzero(query_clash | passage_clash)
    if clash.size:
        _raise_duplicate(reading, config, int(clash[0]))
    cluster, text_cluster = _clusters(passage, len(reading.texts))
    _, first_rows = np.unique(group, return_index=True)
    pairs = (group.astype(np.int64) * width + query_language) * width + passage_language
    offsets, values = _ragged(reading, group, passage_language, passage, width)
    collection = Collection(
        languages=languages,
        texts=list(reading.texts),
        ids=list(reading.ids),
        query=query,
        passage=passage,
        cluster=cluster,
        text_cluster=text_cluster,
        source=source[first_rows],
        source_names=tuple(reading.names),
        hard_negative_offsets=offsets,
        hard_negatives=values,
    )
    counts = {"rows": len(group), "repeated": len(group) - len(np.unique(pairs))}
    counts |= {key: number for key, number in sorted(reading.counts.items()) if number}
    return replace(collection, report=counts | _sizes(collection))


def _place(
    group: np.ndarray, language: np.ndarray, text: np.ndarray, shape: tuple[int, int]
) -> tuple[Int[np.ndarray, "G N"], Bool[np.ndarray, "rows"]]:
    """Texts at [group, language], and the rows whose text differs from that of an earlier row."""
    table = np.full(shape, -1, np.int32)
    places, first = np.unique(group.astype(np.int64) * shape[1] + language, return_index=True)
    table.reshape(-1)[places] = text[first]
    return table, table[group, language] != text


def _raise_duplicate(reading: _Reading, config: DataConfig, number: int) -> None:
    """Read once more up to the row, rather than remember where a million rows stood."""
    at = int(np.searchsorted(reading.ends, number, side="right"))
    start = reading.ends[at - 1] if at else 0
    source = config.sources[at]
    row = next(islice(_rows(source, config, Counter()), number - start, None))
    raise UserError(
        f"{row.where}: duplicate id {row.id!r} in {row.query_language}-{row.passage_language} with "
        "another text; make ids distinct, or set fields.id='' of the source to number the rows"
    )


def _clusters(
    passage: Int[np.ndarray, "G N"], texts: int
) -> tuple[Int[np.ndarray, "G"], Int[np.ndarray, "T"]]:
    """Number the connected components of the graph of groups and the passages they have."""
    groups = len(passage)
    group, language = np.nonzero(passage >= 0)
    text = passage[group, language]
    edges = coo_array(
        (np.ones(len(group), np.int8), (group, groups + text)), shape=(groups + texts,) * 2
    )
    _, label = connected_components(edges, directed=False)
    _, cluster = np.unique(label[:groups], return_inverse=True)
    text_cluster = np.full(texts, -1, np.int32)
    text_cluster[text] = cluster[group]
    return cluster.astype(np.int32), text_cluster


def _ragged(
    reading: _Reading,
    group: np.ndarray,
    passage_language: np.ndarray,
    passage: Int[np.ndarray, "G N"],
    width: int,
) -> tuple[Int[np.ndarray, "G*N+1"], Int[np.ndarray, "H"]]:
    """Hard negatives by (group, passage language), each once, without the right passage."""
    row, text = (np.frombuffer(column, np.int32) for column in reading.negatives)
    place = group[row].astype(np.int64) * width + passage_language[row]
    _, first = np.unique(place * len(reading.texts) + text, return_index=True)
    first = np.sort(first)
    first = first[passage.reshape(-1)[place[first]] != text[first]]
    first = first[np.argsort(place[first], kind="stable")]
    lengths = np.bincount(place[first], minlength=passage.size)
    return np.concatenate([[0], np.cumsum(lengths)]), text[first]


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


def take_groups(collection: Collection, groups: Int[np.ndarray, "R"]) -> Collection:
    """The collection of some groups, in the given order; texts and clusters keep their numbers."""
    width = len(collection.languages)
    places = (groups[:, None] * width + np.arange(width)).reshape(-1)
    starts = collection.hard_negative_offsets[places]
    lengths = collection.hard_negative_offsets[places + 1] - starts
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    at = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
    return replace(
        collection,
        ids=[collection.ids[group] for group in groups.tolist()],
        query=collection.query[groups],
        passage=collection.passage[groups],
        cluster=collection.cluster[groups],
        source=collection.source[groups],
        hard_negative_offsets=offsets,
        hard_negatives=collection.hard_negatives[at],
    )


def with_hard_negatives(collection: Collection, keep: Bool[np.ndarray, "H"]) -> Collection:
    """The collection with some of its hard negatives."""
    before = np.concatenate([[0], np.cumsum(keep)])
    return replace(
        collection,
        hard_negative_offsets=before[collection.hard_negative_offsets],
        hard_negatives=collection.hard_negatives[keep],
    )


def cell(
    collection: Collection, query_language: str, passage_language: str
) -> Int[np.ndarray, "C"]:
    """Groups with a query in one language and a passage in the other that is another text.

    Captions of images need a second text in another language only.
    """
    query = collection.query[:, collection.languages.index(query_language)]
    passage = collection.passage[:, collection.languages.index(passage_language)]
    alone = collection.of_images and query_language == passage_language
    return np.flatnonzero((query >= 0) & (passage >= 0) & ((query != passage) | alone))


def split_held_out(
    collection: Collection, share: float, limit: int, seed: int
) -> tuple[Collection, Collection]:
    """Split off whole clusters for validation, so that no held-out passage is trained on.

    A cluster is held out if a hash of its ids and the seed lies under `share`: it stays on its side
    when rows of other clusters come or go.

    Args:
        collection: what to split; both parts keep all its texts.
        share: share of the clusters to hold out, in [0, 1).
        limit: hold out at most that many groups; larger clusters stay in training.
        seed: another seed, another split.

    Returns:
        (training part, held-out part).

    Raises:
        UserError: a positive share holds out nothing, or everything.
    """
    groups = np.arange(len(collection.ids))
    if share == 0:
        return collection, take_groups(collection, groups[:0])
    chosen = held_out_groups(collection.ids, collection.cluster, share, limit, seed)
    return take_groups(collection, groups[~chosen]), take_groups(collection, groups[chosen])


def held_out_groups(
    ids: Sequence[str], cluster: Int[np.ndarray, "G"], share: float, limit: int, seed: int
) -> Bool[np.ndarray, "G"]:
    """Which groups are held out, as `split_held_out` says, by ids of their own.

    Raises:
        UserError: none of them, or all.
    """
    clusters = int(cluster.max(initial=-1)) + 1
    hashes = _cluster_hashes(ids, cluster, clusters, seed)
    sizes = np.bincount(cluster, minlength=clusters)
    held_out = np.zeros(clusters, bool)
    room = limit
    for number in np.argsort(hashes, kind="stable"):
        if hashes[number] >= share * 2.0**64:
            break
        if 0 < sizes[number] <= room:
            held_out[number] = True
            room -= int(sizes[number])
    chosen = held_out[cluster]
    if not chosen.any() or chosen.all():
        raise UserError(
            f"data.held_out = {share} with held_out_limit = {limit} would hold out "
            f"{chosen.sum()} of {len(chosen)} parallel groups; change them, or set held_out = 0"
        )
    return chosen


def _cluster_hashes(
    ids: Sequence[str], cluster: Int[np.ndarray, "G"], clusters: int, seed: int
) -> np.ndarray:
    """A 64-bit number of each cluster that depends on its smallest id hash and the seed alone."""

    def number(text: str) -> int:
        return int.from_bytes(
            hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big"
        )

    of_groups = np.fromiter(map(number, ids), np.uint64, len(ids))
    smallest = np.full(clusters, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(smallest, cluster, of_groups)
    # hashed again, since the smallest of many numbers is no longer spread evenly
    again = (number(f"{seed} {smallest_hash}") for smallest_hash in smallest.tolist())
    return np.fromiter(again, np.uint64, clusters)
