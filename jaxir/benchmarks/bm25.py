"""Lexical baselines on any dataset: BM25, and the cosine of term counts.

Dimension key: Q queries, P passages, R relevant passages of a query at most, B queries of a block.

Terms are the words of ICU's word breaker for the text's language (by a dictionary in Thai, Chinese
and Japanese), case-folded, without stemming or stop words. In the monolingual and the cross-lingual
setting each language's passages have term statistics of their own, as in a search engine for that
language; in the multilingual setting the pool is a single collection.
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
from jaxir.evaluation.ranks import (
    count_ranked_above_by_scores,
    ranks_in_pool,
    ranks_within_language,
)
from jaxir.evaluation.settings import SettingsReport, evaluate_ranks

# bm25s logs each index that it builds
logging.getLogger("bm25s").setLevel(logging.WARNING)

# scores of a block of queries for all passages of a collection
BlockScores = Callable[[slice], Float[np.ndarray, "B P"]]


def words(text: str, language: str) -> list[str]:
    """The words of a text, case-folded, without punctuation and spaces."""
    pieces = WordBreaker(text.casefold(), language)
    return [piece for piece in pieces if any(map(str.isalnum, piece))]


def bm25(
    dataset: RetrievalDataset, k1: float = 0.9, b: float = 0.4, depth: int = 0
) -> SettingsReport:
    """Evaluate BM25 (Robertson & Zaragoza 2009; the variant of Lucene, by the library bm25s).

    Args:
        dataset: queries and passages.
        k1: saturation of term frequency; this default and the next are Anserini's.
        b: length normalisation.
        depth: relevant passages below that rank count as not found; 0: the whole ranking counts.
    """
    terms = _Terms(dataset)

    def score(rows: Int[np.ndarray, "_"]) -> BlockScores:
        collection = [terms.passages[row] for row in rows]
        if not any(collection):  # bm25s cannot index passages without any word
            return lambda block: np.zeros((len(terms.queries[block]), len(rows)), np.float32)
        index = bm25s.BM25(method="lucene", k1=k1, b=b)
        index.index(collection, show_progress=False)
        vocabulary = index.vocab_dict

        def score_query(query: list[str]) -> Float[np.ndarray, "P"]:
            known = [vocabulary[word] for word in query if word in vocabulary]
            return index.get_scores(known) if known else np.zeros(len(rows), np.float32)

        return lambda block: np.stack([score_query(query) for query in terms.queries[block]])

    return _evaluate(score, dataset, depth)


def term_count_cosine(dataset: RetrievalDataset) -> SettingsReport:
    """Evaluate the cosine of the term counts of query and passage, without term weights."""
    terms = _Terms(dataset)
    queries, passages = terms.unit_counts

    def score(rows: Int[np.ndarray, "_"]) -> BlockScores:
        columns = passages[rows].T
        return lambda block: (queries[block] @ columns).toarray()

    return _evaluate(score, dataset)


def _evaluate(
    score: Callable[[Int[np.ndarray, "_"]], BlockScores], dataset: RetrievalDataset, depth: int = 0
) -> SettingsReport:
    """Evaluate a score whose statistics depend on the collection.

    Args:
        score: makes the scores of a collection, given by the indices of its passages.
        dataset: queries and passages.
        depth: of `bm25`.
    """
    language = dataset.passage_language
    collections = [np.flatnonzero(language == n) for n in range(len(dataset.languages))]
    by_language = [(rows, score(rows)) for rows in collections if len(rows)]

    def scores_within_languages(block: slice) -> Float[np.ndarray, "B P"]:
        scores = np.empty((len(dataset.queries[block]), len(language)), np.float32)
        for rows, score_rows in by_language:
            scores[:, rows] = score_rows(block)
        return scores

    def cut(ranks: Int[np.ndarray, "Q R"]) -> Int[np.ndarray, "Q R"]:
        return np.where(ranks > depth, 0, ranks) if depth else ranks

    above = count_ranked_above_by_scores(scores_within_languages, dataset)
    within_language = cut(ranks_within_language(above, dataset))
    in_pool = within_language
    if "multilingual" in dataset.settings:
        pooled = score(np.arange(len(language)))
        in_pool = cut(ranks_in_pool(count_ranked_above_by_scores(pooled, dataset)))
    return evaluate_ranks(within_language, in_pool, dataset, whole=not depth)


class _Terms:
    """The words of all queries and passages of a dataset."""

    def __init__(self, dataset: RetrievalDataset):
        def split(texts: list[str], language: Int[np.ndarray, "_"]) -> list[list[str]]:
            codes = [dataset.languages[index] for index in language]
            return [words(text, code) for text, code in zip(texts, codes)]

        self.queries = split(dataset.queries, dataset.query_language)
        self.passages = split(dataset.passages, dataset.passage_language)

    @cached_property
    def unit_counts(self) -> tuple[scipy.sparse.csr_array, scipy.sparse.csr_array]:
        """Term counts of queries and passages, each row divided by its L2 norm."""
        texts = self.queries + self.passages
        vocabulary = {word: column for column, word in enumerate(set().union(*texts))}
        columns = [vocabulary[word] for text in texts for word in text]
        rows = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
        counts = scipy.sparse.csr_array(
            (np.ones(len(columns)), (rows, columns)), shape=(len(texts), len(vocabulary))
        )
        norm = np.sqrt(counts.multiply(counts).sum(axis=1))
        counts = scipy.sparse.diags_array(1 / np.maximum(norm, 1)) @ counts
        return counts[: len(self.queries)], counts[len(self.queries) :]
