"""A retrieval dataset: queries, one multilingual pool of passages, and relevance judgements.

Dimension key: Q queries, P passages, R relevant passages of a query at most, S selected queries.

    monolingual    queries of X against the passages of X
    cross_lingual  queries of X against the passages of Y, Y != X
    multilingual   queries of X against the passages of all languages
"""

import dataclasses
from collections import Counter
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from jaxir.errors import UserError

SETTINGS = ("monolingual", "cross_lingual", "multilingual")


@dataclass(frozen=True, eq=False)
class RetrievalDataset:
    """Queries and passages in several languages, and the relevant passages of each query.

    A query may have several relevant passages, in any language; a query without any counts in no
    metric. Ids are unique among the queries and among the passages; they also break ties (`ranks`).
    Queries with the same `question` ask the same thing, in other languages or words: they are
    resampled together (`significance`).

    Raises:
        UserError: fields do not fit together; the message names the dataset.
    """

    name: str
    languages: tuple[str, ...]
    queries: list[str]
    query_ids: list[str]
    query_language: Int[np.ndarray, "Q"]  # index into languages
    passages: list[str]
    passage_ids: list[str]
    passage_language: Int[np.ndarray, "P"]  # index into languages
    relevant: Int[np.ndarray, "Q R"]  # indices of passages, padded with -1
    # graded relevance, 0 where `relevant` is padding; None: 1 for all
    gains: Int[np.ndarray, "Q R"] = None  # type: ignore[assignment]
    # None: every query asks another question
    question: Int[np.ndarray, "Q"] = None  # type: ignore[assignment]
    settings: tuple[str, ...] = SETTINGS  # those that the dataset is evaluated in

    def __post_init__(self):
        if self.gains is None:
            object.__setattr__(self, "gains", (np.asarray(self.relevant) >= 0).astype(np.int64))
        if self.question is None:
            object.__setattr__(self, "question", np.arange(len(self.queries)))
        self._check_side("quer", "ies", self.queries, self.query_ids, self.query_language)
        self._check_side("passage", "s", self.passages, self.passage_ids, self.passage_language)
        shape = np.shape(self.relevant)
        self._require(
            len(shape) == 2 and shape[0] == len(self.queries) and shape[1] > 0,
            f"relevant has shape {shape}; it must have a row, not empty, for each of "
            f"{len(self.queries)} queries",
        )
        within = (self.relevant >= -1) & (self.relevant < len(self.passages))
        self._require(
            within.all(), f"a relevant passage is outside the {len(self.passages)} passages"
        )
        ordered = np.sort(self.relevant, axis=1)
        twice = ((np.diff(ordered, axis=1) == 0) & (ordered[:, 1:] >= 0)).any(axis=1)
        if twice.any():
            query = self.query_ids[int(np.argmax(twice))]
            self._require(False, f"query {query!r} names a relevant passage twice")
        self._require(
            np.shape(self.gains) == shape and ((self.gains > 0) == (self.relevant >= 0)).all(),
            "gains must be positive for relevant passages and 0 elsewhere",
        )
        self._require(
            np.shape(self.question) == (len(self.queries),),
            f"question has shape {np.shape(self.question)} for {len(self.queries)} queries",
        )
        self._require(
            bool(self.settings) and set(self.settings) <= set(SETTINGS),
            f"settings {self.settings}: must be among {', '.join(SETTINGS)}",
        )

    def _require(self, holds: bool, problem: str) -> None:
        if not holds:
            raise UserError(f"dataset {self.name!r}: {problem}")

    def _check_side(self, stem, plural, texts, ids, language) -> None:
        self._require(len(texts) > 0, f"there are no {stem}{plural}")
        self._require(
            len(texts) == len(ids) and np.shape(language) == (len(texts),),
            f"{len(texts)} {stem}{plural} come with {len(ids)} ids and languages of shape "
            f"{np.shape(language)}",
        )
        known = (language >= 0) & (language < len(self.languages))
        self._require(known.all(), f"a language of the {stem}{plural} is not in languages")
        if len(set(ids)) < len(ids):
            twice = Counter(ids).most_common(1)[0][0]
            self._require(False, f"duplicate id {twice!r} among the {stem}{plural}")


def select_queries(dataset: RetrievalDataset, rows: Int[np.ndarray, "S"]) -> RetrievalDataset:
    """The dataset with the queries of `rows` alone, against the whole pool of passages."""
    return dataclasses.replace(
        dataset,
        queries=[dataset.queries[row] for row in rows],
        query_ids=[dataset.query_ids[row] for row in rows],
        query_language=dataset.query_language[rows],
        relevant=dataset.relevant[rows],
        gains=dataset.gains[rows],
        question=dataset.question[rows],
    )
