"""Hard negatives: passages that a model ranks high for a query, and that do not answer it.

Dimension key: B rows of a batch, D width.

What answers a query is what the training file says: all texts of rows that have an id or a text in
common, in whatever language, are one cluster, and none of it is a negative of its own rows. That
takes in the clusters of `jaxir.data.collection`, inside which the loss masks negatives anyway.
Training pools the hard negatives of the rows that have one id and one passage language.
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
from jaxir.data.files import json_records
from jaxir.data.rows import Row, RowMaker
from jaxir.data.sources import record_row
from jaxir.data.unicode import check_unicode
from jaxir.errors import UserError
from jaxir.progress import progress_bar
from jaxir.retrieval.index import Encoder, Index, Result
from jaxir.runtime.files import writing

LANGUAGE_POLICIES = ("same", "other", "any")
ROWS_AT_ONCE = 1_024


@dataclass(frozen=True)
class Mining:
    """Which of the passages that a search finds become hard negatives.

    Args:
        negatives: at most that many are added to a row, the best first.
        first_rank: of the window of ranks they are taken from; the best passage has rank 1.
        last_rank: of that window.
        margin: their score is at least that much below the score of the row's own passage.
        language: "same": ranks are among passages in the language of the row's passage;
            "other": among those in all other languages; "any": among all.

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
    """Which texts answer the same queries: ids and texts of the rows, as sets that are joined.

    Texts are kept as digests, so that a file may be larger than memory.
    """

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._parents: list[int] = []

    def add(self, row: Row) -> None:
        """Join the row's id, query and passage."""
        roots = {
            self._root(self._numbers.setdefault(key, len(self._numbers)))
            for key in (_digest("id", row.id), *map(_text_digest, (row.query, row.passage)))
        }
        lowest = min(roots)
        for root in roots:
            self._parents[root] = lowest

    def holds(self, row: Row, text: str) -> bool:
        """Whether a text is in the cluster of a row that was added."""
        number = self._numbers.get(_text_digest(text))
        own = self._root(self._numbers[_digest("id", row.id)])
        return number is not None and self._root(number) == own

    def _root(self, number: int) -> int:
        if number == len(self._parents):
            self._parents.append(number)
        while self._parents[number] != number:
            self._parents[number] = self._parents[self._parents[number]]
            number = self._parents[number]
        return number


def _digest(kind: str, value: str) -> bytes:
    whole = f"{kind}\0{value}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(whole, digest_size=16).digest()


def _text_digest(text: str) -> bytes:
    """The same for texts that differ in white space or in the encoding of accents alone."""
    return _digest("text", " ".join(unicodedata.normalize("NFC", text).split()))


def mine(encoder: Encoder, index: Index, file: Path, output: Path, mining: Mining) -> Counter[str]:
    """Write a training file again, with hard negatives behind those that its rows have already.

    Args:
        encoder: the model that the index was built by.
        index: the passages to take them from.
        file: JSON lines as the reader `jsonl` takes them; fields of other names are kept.
        output: written whole or not at all.
        mining: which to take.

    Returns:
        Counts of "rows", "negatives" added and rows "without" any.

    Raises:
        UserError: names the line that is wrong; or the index holds no passage to take.
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
        while batch := list(islice(records, ROWS_AT_ONCE)):
            rows = [row for _, row in batch]
            for (record, row), mined in zip(batch, _mine(encoder, index, rows, clusters, mining)):
                negatives = [*row.hard_negatives, *mined]
                stream.write(_line(record | {"hard_negatives": negatives}, row.where))
                counts.update(rows=1, negatives=len(mined), without=int(not mined))
            bar.update(len(batch))
        if not counts["rows"]:
            raise UserError(f"{file}: holds no rows")
    return counts


def _records(file: Path) -> Iterator[tuple[dict[str, Any], Row]]:
    """Each record of a file, and the row that training makes of it."""
    make = RowMaker(Source(), "paragraph")
    for number, where, record in json_records(file):
        row = record_row(make, where, record, str(number), ("", ""))
        assert row is not None  # a source has to ask for rows to be left out
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
    encoder: Encoder, index: Index, rows: Sequence[Row], clusters: Clusters, mining: Mining
) -> list[list[str]]:
    """New hard negatives of each row, the best first."""
    queries = encoder.encode_queries([row.query for row in rows])
    passages = encoder.encode_passages([row.passage for row in rows])
    highest = np.einsum("bd,bd->b", queries, passages) - mining.margin
    window = slice(mining.first_rank - 1, mining.last_rank)
    mined: list[list[str]] = []
    for row, limit, found in zip(rows, highest, _search(index, queries, rows, mining)):
        seen, texts = {_text_digest(text) for text in row.hard_negatives}, []
        for result in found[window]:
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
    """The passages that the language policy allows for each row, down to the window's last rank."""
    if mining.language == "any":
        return index.search_embeddings(queries, mining.last_rank)
    found: list[list[Result]] = [[] for _ in rows]
    known = {language for language in index.languages if language}
    for row in rows:
        if mining.language == "same" and row.passage_language not in known:
            raise UserError(
                f"{row.where}: no passage of the index is in {row.passage_language!r}; known are "
                f"{', '.join(sorted(known))}; --language other or any takes those"
            )
    for language in sorted(known):
        same = mining.language == "same"
        asked = [n for n, row in enumerate(rows) if (row.passage_language == language) == same]
        results = index.search_embeddings(queries[asked], mining.last_rank, language=language)
        for number, some in zip(asked, results):
            found[number] += some
    # those of several languages, each in order, become one ranking
    return [sorted(some, key=lambda result: -result.score) for some in found]
