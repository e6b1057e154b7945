"""Lexical baselines on any retrieval set: BM25, and the cosine of term counts.

Dimension key: Q queries, P passages, B queries of a block, V vocabulary.

Terms are the words of ICU's breaker for the text's language (a dictionary finds those of Thai,
Chinese and Japanese), case-folded; no stemming and no stop words. In the monolingual and the
cross-lingual setting each language's passages have statistics of their own, as a search engine for
that language would; in the multilingual one the pool is a single collection.
"""

import logging
from collections.abc import Callable
from functools import cached_property

import bm25s
import numpy as np
import scipy.sparse
from icu4py.breakers import WordBreaker
from jaxtyping import Float, Int

from jaxir.evaluation.dataset import RetrievalDataset
from jaxir.evaluation.ranks import passages_above_by_scores, ranks_in_pool, ranks_within_language
from jaxir.evaluation.settings import SettingsReport, report

# it announces every index it builds
logging.getLogger("bm25s").setLevel(logging.WARNING)

Score = Callable[[slice], Float[np.ndarray, "B P"]]


def words(text: str, language: str) -> list[str]:
    """The words of a text, case-folded; pieces without a letter or a digit are left out."""
    pieces = WordBreaker(text.casefold(), language)
    return [piece for piece in pieces if any(map(str.isalnum, piece))]


def bm25(
    dataset: RetrievalDataset, k1: float = 0.9, b: float = 0.4, depth: int = 0
) -> SettingsReport:
    """Evaluate BM25 (Robertson & Zaragoza 2009; the variant of Lucene, by the library bm25s).

    Args:
        dataset: the task.
        k1: saturation of term frequency; the defaults of both are Anserini's.
        b: normalisation by length.
        depth: right answers beyond that rank count as not found; 0: the whole ranking counts.
    """
    terms = _Terms(dataset)

    def score(rows: Int[np.ndarray, "_"]) -> Score:
        collection = [terms.passages[row] for row in rows]
        if not any(collection):  # no word at all, which bm25s cannot index
            return lambda block: np.zeros((len(terms.queries[block]), len(rows)), np.float32)
        index = bm25s.BM25(method="lucene", k1=k1, b=b)
        index.index(collection, show_progress=False)
        vocabulary = index.vocab_dict

        def one(query: list[str]) -> Float[np.ndarray, "P"]:
            known = [vocabulary[word] for word in query if word in vocabulary]
            return index.get_scores(known) if known else np.zeros(len(rows), np.float32)

        return lambda block: np.stack([one(query) for query in terms.queries[block]])

    return _evaluate(score, dataset, depth)


def term_count_cosine(dataset: RetrievalDataset) -> SettingsReport:
    """Evaluate the cosine between the term counts of query and passage: no weights at all."""
    terms = _Terms(dataset)
    queries, passages = terms.unit_counts

    def score(rows: Int[np.ndarray, "_"]) -> Score:
        columns = passages[rows].T
        return lambda block: (queries[block] @ columns).toarray()

    return _evaluate(score, dataset)


def _evaluate(
    score: Callable[[Int[np.ndarray, "_"]], Score], dataset: RetrievalDataset, depth: int = 0
) -> SettingsReport:
    """Evaluate a score that depends on the collection, given as rows of the passages."""
    language = dataset.passage_language
    collections = [np.flatnonzero(language == n) for n in range(len(dataset.languages))]
    by_language = [(rows, score(rows)) for rows in collections if len(rows)]

    def own_statistics(block: slice) -> Float[np.ndarray, "B P"]:
        scores = np.empty((len(dataset.queries[block]), len(language)), np.float32)
        for rows, score_rows in by_language:
            scores[:, rows] = score_rows(block)
        return scores

    def cut(ranks: Int[np.ndarray, "Q R"]) -> Int[np.ndarray, "Q R"]:
        return np.where(ranks > depth, 0, ranks) if depth else ranks

    above = passages_above_by_scores(own_statistics, dataset)
    within_language = cut(ranks_within_language(above, dataset))
    in_pool = within_language
    if "multilingual" in dataset.settings:
        pooled = score(np.arange(len(language)))
        in_pool = cut(ranks_in_pool(passages_above_by_scores(pooled, dataset)))
    return report(within_language, in_pool, dataset, whole=not depth)


class _Terms:
    """The words of every text of a task."""

    def __init__(self, dataset: RetrievalDataset):
        def of(texts: list[str], language: Int[np.ndarray, "_"]) -> list[list[str]]:
            codes = [dataset.languages[number] for number in language]
            return [words(text, code) for text, code in zip(texts, codes)]

        self.queries = of(dataset.queries, dataset.query_language)
        self.passages = of(dataset.passages, dataset.passage_language)

    @cached_property
    def unit_counts(self) -> tuple[scipy.sparse.csr_array, scipy.sparse.csr_array]:
        """Term counts of queries and passages, each row divided by its length."""
        both = self.queries + self.passages
        vocabulary = {word: number for number, word in enumerate(set().union(*both))}
        columns = [vocabulary[word] for text in both for word in text]
        rows = np.repeat(np.arange(len(both)), [len(text) for text in both])
        counts = scipy.sparse.csr_array(
            (np.ones(len(columns)), (rows, columns)), shape=(len(both), len(vocabulary))
        )
        length = np.sqrt(counts.multiply(counts).sum(axis=1))
        counts = scipy.sparse.diags_array(1 / np.maximum(length, 1)) @ counts
        return counts[: len(self.queries)], counts[len(self.queries) :]
