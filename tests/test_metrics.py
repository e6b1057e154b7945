"""Measures against pytrec_eval, through ir_measures, on random runs with ties."""

import ir_measures
import numpy as np
import pytest

from jaxir.retrieval import metrics
from jaxir.retrieval.ranks import passages_above_by_scores, ranks_in_pool
from jaxir.retrieval.retrieval_set import RetrievalSet

QUERIES, PASSAGES, ANSWERS = 60, 45, 25  # more right answers than k
ORACLES = {
    "map": (ir_measures.AP, metrics.average_precision),
    "success@1": (ir_measures.Success @ 1, lambda ranks: metrics.success(ranks, 1)),
    "success@5": (ir_measures.Success @ 5, lambda ranks: metrics.success(ranks, 5)),
    "recall@10": (ir_measures.R @ 10, lambda ranks: metrics.recall(ranks, 10)),
    "mrr": (ir_measures.RR, metrics.reciprocal_rank),
    "ndcg@10": (ir_measures.nDCG @ 10, lambda ranks: metrics.ndcg(ranks, 10)),
    "ndcg@40": (ir_measures.nDCG @ 40, lambda ranks: metrics.ndcg(ranks, 40)),
    "map@20": (ir_measures.AP @ 20, lambda ranks: metrics.average_precision(ranks, 20)),
}


@pytest.fixture(scope="module")
def run():
    """Scores with many ties, right answers (none for query 0), and the ranks found for them."""
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 8, (QUERIES, PASSAGES)).astype(np.float32)
    relevant = np.full((QUERIES, ANSWERS), -1)
    for query in range(1, QUERIES):
        count = rng.integers(1, ANSWERS + 1)
        relevant[query, rng.permutation(ANSWERS)[:count]] = rng.permutation(PASSAGES)[:count]
    retrieval_set = RetrievalSet(
        name="random",
        languages=("en",),
        queries=["?"] * QUERIES,
        query_ids=[f"q{number}" for number in range(QUERIES)],
        query_language=np.zeros(QUERIES, int),
        passages=["."] * PASSAGES,
        passage_ids=[f"d{number}" for number in range(PASSAGES)],  # "d9" > "d10"
        passage_language=np.zeros(PASSAGES, int),
        relevant=relevant,
    )
    above = passages_above_by_scores(lambda block: scores[block], retrieval_set)
    return scores, relevant, ranks_in_pool(above)


@pytest.mark.parametrize("name", ORACLES)
def test_measures_equal_trec_eval(run, name):
    scores, relevant, ranks = run
    oracle, measure = ORACLES[name]
    qrels = {
        f"q{query}": {f"d{row}": 1 for row in answers if row >= 0}
        for query, answers in enumerate(relevant)
        if (answers >= 0).any()
    }
    ranking = {
        query: {f"d{row}": float(score) for row, score in enumerate(scores[int(query[1:])])}
        for query in qrels
    }
    expected = np.full(QUERIES, np.nan)
    for metric in ir_measures.pytrec_eval.iter_calc([oracle], qrels, ranking):
        expected[int(metric.query_id[1:])] = metric.value
    if name == "map@20":  # trec_eval divides by the number of right answers
        count = (relevant >= 0).sum(axis=1)
        expected *= count / np.minimum(np.maximum(count, 1), 20)

    values = measure(ranks)

    assert np.isnan(values[0])
    assert np.unique(values[1:]).size > 1
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-12)


def test_average_precision_of_a_worked_example():
    ranks = np.array([[6, 0, 1, 3], [-1, 2, 0, 0], [0, 0, 0, 0]])
    expected = [(1 + 2 / 3 + 3 / 6) / 3, 1 / 2, np.nan]
    np.testing.assert_allclose(metrics.average_precision(ranks), expected)
    # three right answers, but only two places
    np.testing.assert_allclose(metrics.average_precision(ranks, k=2)[0], 1 / 2)


@pytest.mark.parametrize("name", metrics.MEASURES)
def test_best_ranking_earns_one_and_order_of_answers_nothing(name):
    measure = metrics.MEASURES[name]
    best = np.array([[3, 1, 0, 2]], np.int32)
    assert measure(best)[0] == pytest.approx(1, abs=1e-15)
    worse = np.array([[12, 2, 0, 40]], np.int32)
    assert 0 <= measure(worse)[0] < 1
    np.testing.assert_array_equal(measure(worse), measure(worse[:, ::-1]))
