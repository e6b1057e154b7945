"""Hard negatives: passages that a model ranks high for a query and that are not relevant to it.

Dimension key: B rows of a batch, D width.

Relevance comes from the training file: the texts of rows that share an id or a text, in whatever
language, form a cluster, and a row's positive, its translations and all other texts of its cluster
are excluded. Clusters include those of `jaxir.data.collection`, inside which the loss masks
negatives anyway. Training pools the hard negatives of rows with one id and one passage language.
"""

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxir.config import Source
from jaxir.data.checks import check_unicode
from jaxir.data.files import json_records
from jaxir.data.readers import record_row
from jaxir.data.rows import Row, RowMaker
from jaxir.errors import UserError
from jaxir.progress import progress_bar
from jaxir.retrieval.index import Index, Result, TextEmbedder
from jaxir.runtime.files import writing

LANGUAGE_POLICIES = ("same", "other", "any")
ROW_BATCH = 1_024  # rows whose queries are searched together


@dataclass(frozen=True)
class Mining:
    """Rules that select hard negatives from the ranking of a row's query.

    Args:
        negatives: the most that are added to a row, the highest ranked first.
        first_rank: of the window of ranks they are taken from; the best passage has rank 1.
        last_rank: of that window.
        margin: least distance of their score below the score of the row's passage.
        language: the passages that are ranked; "same": those in the language of the row's passage;
            "other": those in all other languages; "any": all.

    Raises:
        UserError: a value is impossible.
    """

    negatives: int = 7
    first_rank: int = 10
    last_rank: int = 100
    margin: float = 0.05
    language: str = "same"

    def __post_init__(self):
        if self.negatives < 1:
            raise UserError(f"--negatives {self.negatives}: must be 1 or more")
        if not 1 <= self.first_rank <= self.last_rank:
            raise UserError(
                f"--ranks {self.first_rank},{self.last_rank}: must be FIRST,LAST, "
                "the first at least 1 and the last no less"
            )
        if not np.isfinite(self.margin):
            raise UserError(f"--margin {self.margin}: must be a finite number")
        if self.language not in LANGUAGE_POLICIES:
            raise UserError(
                f"--language {self.language}: must be one of {', '.join(LANGUAGE_POLICIES)}"
            )


class Clusters:
    """Clusters of texts that are relevant to the same queries: a union-find over ids and texts.

    Texts are kept as digests, so that a file may be larger than memory.
    """

    def __init__(self) -> None:
        self._nodes: dict[bytes, int] = {}  # by digest
        self._parents: list[int] = []  # of each node; a root is its own

    def add(self, row: Row) -> None:
        """Join the row's id, query and passage."""
        roots = {
            self._root(self._nodes.setdefault(key, len(self._nodes)))
            for key in (_digest("id", row.id), *map(_text_digest, (row.query, row.passage)))
        }
        lowest = min(roots)
        for root in roots:
            self._parents[root] = lowest

    def holds(self, row: Row, text: str) -> bool:
        """True where a text is in the cluster of a row that was added."""
        node = self._nodes.get(_text_digest(text))
        root_of_row = self._root(self._nodes[_digest("id", row.id)])
        return node is not None and self._root(node) == root_of_row

    def _root(self, node: int) -> int:
        if node == len(self._parents):
            self._parents.append(node)
        while self._parents[node] != node:
            # path halving keeps the trees flat
            self._parents[node] = self._parents[self._parents[node]]
            node = self._parents[node]
        return node


def _digest(kind: str, value: str) -> bytes:
    content = f"{kind}\0{value}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(content, digest_size=16).digest()


def _text_digest(text: str) -> bytes:
    """Digest of a text, equal where only white space or the encoding of accents differs."""
    return _digest("text", " ".join(unicodedata.normalize("NFC", text).split()))


def mine(
    embedder: TextEmbedder, index: Index, file: Path, output: Path, mining: Mining
) -> Counter[str]:
    """Write a copy of a training file with hard negatives appended to those its rows have.

    Args:
        embedder: the model that the index was built by.
        index: the passages to take them from.
        file: JSON lines as the reader `jsonl` takes them; fields of other names are kept.
        output: written whole or not at all.
        mining: the rules that select them.

    Returns:
        Counts of "rows", "negatives" added and rows "without" any.

    Raises:
        UserError: a line is wrong, which the message names, or no passage of the index is allowed.
    """
    clusters = Clusters()
    lines = 0
    with progress_bar(f"reading {file.name}", None, "rows", leave=False) as bar:
        for _, row in _records(file):
            clusters.add(row)
            lines += 1
            bar.update()
    _check_window(index, mining)
    counts: Counter[str] = Counter()
    records = _records(file)
    with writing(output) as stream, progress_bar("mining", lines, "rows") as bar:
        while batch := list(islice(records, ROW_BATCH)):
            rows = [row for _, row in batch]
            for (record, row), mined in zip(batch, _mine(embedder, index, rows, clusters, mining)):
                negatives = [*row.hard_negatives, *mined]
                stream.write(_line(record | {"hard_negatives": negatives}, row.where))
                counts.update(rows=1, negatives=len(mined), without=int(not mined))
            bar.update(len(batch))
        if not counts["rows"]:
            raise UserError(f"{file}: holds no rows")
    return counts


def _records(file: Path) -> Iterator[tuple[dict[str, Any], Row]]:
    """Records of a file, each with the row that training makes of it."""
    make = RowMaker(Source(), "paragraph")
    for number, where, record in json_records(file):
        row = record_row(make, where, record, str(number), ("", ""))
        assert row is not None  # rows are left out only where a source asks for it
        yield record, row


def _line(record: dict[str, Any], where: str) -> str:
    # there may be fields that the reader does not look at
    return check_unicode(json.dumps(record, ensure_ascii=False) + "\n", f"{where}: a field")


def _check_window(index: Index, mining: Mining) -> None:
    if mining.first_rank > len(index):
        raise UserError(
            f"--ranks {mining.first_rank},{mining.last_rank}: the index has {len(index):,} passages"
        )
    if mining.language != "any" and not any(index.languages):
        raise UserError(
            f"--language {mining.language}: the passages of the index have no language; "
            "--language any does without, and jaxir.encode --language sets one"
        )


def _mine(
    embedder: TextEmbedder,
    index: Index,
    rows: Sequence[Row],
    clusters: Clusters,
    mining: Mining,
) -> list[list[str]]:
    """New hard negatives of each row, the highest ranked first."""
    queries = embedder.encode_queries([row.query for row in rows])
    passages = embedder.encode_passages([row.passage for row in rows])
    # a passage that scores about as high as the positive is likely to be relevant too
    limits = np.einsum("bd,bd->b", queries, passages) - mining.margin
    window = slice(mining.first_rank - 1, mining.last_rank)
    mined: list[list[str]] = []
    for row, limit, ranking in zip(rows, limits, _search(index, queries, rows, mining)):
        seen, texts = {_text_digest(text) for text in row.hard_negatives}, []
        for result in ranking[window]:
            digest = _text_digest(result.text)
            if result.score > limit or digest in seen or clusters.holds(row, result.text):
                continue
            seen.add(digest)
            texts.append(result.text)
        mined.append(texts[: mining.negatives])
    return mined


def _search(
    index: Index, queries: Float[np.ndarray, "B D"], rows: Sequence[Row], mining: Mining
) -> list[list[Result]]:
    """Rankings of the passages that the language policy allows, down to the window's last rank."""
    if mining.language == "any":
        return index.search_embeddings(queries, mining.last_rank)
    rankings: list[list[Result]] = [[] for _ in rows]
    known = {language for language in index.languages if language}
    for row in rows:
        if mining.language == "same" and row.passage_language not in known:
            raise UserError(
                f"{row.where}: no passage of the index is in {row.passage_language!r}; known are "
                f"{', '.join(sorted(known))}; --language other or any takes those"
            )
    for language in sorted(known):
        same = mining.language == "same"
        asking = [n for n, row in enumerate(rows) if (row.passage_language == language) == same]
        results = index.search_embeddings(queries[asking], mining.last_rank, language=language)
        for position, ranking in zip(asking, results):
            rankings[position] += ranking
    # "other" searches several languages apart; their rankings become one
    return [sorted(ranking, key=lambda result: -result.score) for ranking in rankings]
