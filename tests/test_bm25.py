"""Lexical baselines against float64 written from the formulas."""

import math
from collections import Counter

import numpy as np
import pytest

from jaxir.benchmarks.bm25 import bm25, term_count_cosine, words
from jaxir.evaluation.dataset import RetrievalDataset
from jaxir.evaluation.ranks import (
    count_ranked_above_by_scores,
    ranks_in_pool,
    ranks_within_language,
)
from jaxir.evaluation.settings import evaluate_ranks, evaluate_settings


def make_set() -> RetrievalDataset:
    """Random texts of two languages that share some words, with empty and repeated ones."""
    rng = np.random.default_rng(0)
    vocabulary = {0: [f"w{n}" for n in range(12)], 1: [f"w{n}" for n in range(8, 20)]}
    weights = np.arange(12, 0, -1) / 78

    def texts(language: np.ndarray, longest: int) -> list[str]:
        return [
            " ".join(rng.choice(vocabulary[x], rng.integers(1, longest), p=weights))
            for x in language
        ]

    passage_language, query_language = rng.integers(0, 2, 50), rng.integers(0, 2, 30)
    passages, queries = texts(passage_language, 20), texts(query_language, 6)
    passages[3], queries[4], queries[5] = "?!", "...", "unknown"
    return RetrievalDataset(
        name="random",
        languages=("en", "de"),
        queries=queries,
        query_ids=[str(number) for number in range(30)],
        query_language=query_language,
        passages=passages,
        passage_ids=[str(number) for number in range(50)],
        passage_language=passage_language,
        relevant=np.array([rng.permutation(50)[:4] for _ in range(30)]),
    )


def robertson(query: list[str], passages: list[list[str]], k1: float, b: float) -> np.ndarray:
    """BM25 as Lucene computes it, without the constant factor k1 + 1."""
    average = np.mean([len(passage) for passage in passages])
    scores = np.zeros(len(passages))
    for word in query:
        holding = sum(word in passage for passage in passages)
        idf = math.log(1 + (len(passages) - holding + 0.5) / (holding + 0.5))
        for row, passage in enumerate(passages):
            count = passage.count(word)
            scores[row] += idf * count / (count + k1 * (1 - b + b * len(passage) / average))
    return scores.round(6)  # equal sums in another order tie


def cosine(query: list[str], passages: list[list[str]]) -> np.ndarray:
    ours = Counter(query)
    scores = np.zeros(len(passages))
    for row, passage in enumerate(passages):
        theirs = Counter(passage)
        product = sum(count * theirs[word] for word, count in ours.items())
        lengths = math.hypot(*ours.values()) * math.hypot(*theirs.values())
        scores[row] = product / lengths if lengths else 0
    return scores.round(6)


@pytest.mark.parametrize(
    ("baseline", "score"),
    [
        (bm25, lambda query, passages: robertson(query, passages, 0.9, 0.4)),
        (term_count_cosine, cosine),
    ],
)
def test_baselines_equal_their_formulas(baseline, score, monkeypatch):
    task = make_set()
    passages = [text.split() if text != "?!" else [] for text in task.passages]
    queries = [text.split() if text != "..." else [] for text in task.queries]
    pooled = np.array([score(query, passages) for query in queries])
    own = np.empty_like(pooled)
    for language in (0, 1):
        rows = np.flatnonzero(task.passage_language == language)
        own[:, rows] = [score(query, [passages[row] for row in rows]) for query in queries]
    # sums of float32 in another order differ in the last bits, which would break ties at random
    monkeypatch.setattr(
        "jaxir.benchmarks.bm25.count_ranked_above_by_scores",
        lambda scores, of: count_ranked_above_by_scores(lambda rows: scores(rows).round(5), of),
    )
    expected = evaluate_ranks(
        ranks_within_language(count_ranked_above_by_scores(lambda x: own[x].round(5), task), task),
        ranks_in_pool(count_ranked_above_by_scores(lambda x: pooled[x].round(5), task)),
        task,
    )
    found = baseline(task)
    assert found.summary() == pytest.approx(expected.summary(), abs=1e-12)
    # and statistics of a language's own do make a difference here for BM25
    one_collection = evaluate_settings(
        count_ranked_above_by_scores(lambda x: pooled[x].round(5), task), task
    )
    differs = found.summary() != pytest.approx(one_collection.summary(), abs=1e-12)
    assert differs == (baseline is bm25)


def test_words_know_scripts_without_spaces():
    assert words("Isn't 3,5 a TEST-case?", "en") == ["isn't", "3,5", "a", "test", "case"]
    assert "防守" in words("黑豹队的防守只丢了308分。", "zh")
    assert "คะแนน" in words("แพนเธอร์สเสียคะแนน 308 คะแนน", "th")
    assert words("🙂 😀!?", "en") == []
    assert words("🙂 two 😀 words", "en") == ["two", "words"]


@pytest.mark.parametrize("baseline", [bm25, term_count_cosine])
def test_passages_without_words_and_unknown_languages_rank_by_id(baseline):
    task = RetrievalDataset(
        name="no words",
        languages=("qqq",),
        queries=["two words", "..."],
        query_ids=["1", "2"],
        query_language=np.zeros(2, int),
        passages=["?!", "...", "..."],
        passage_ids=["9", "10", "8"],
        passage_language=np.zeros(3, int),
        relevant=np.array([[1], [2]]),
    )
    # descending: 9, 8, 10
    assert baseline(task).monolingual["mrr"] == pytest.approx((1 / 3 + 1 / 2) / 2)
