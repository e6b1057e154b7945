"""Measures against pytrec_eval, through ir_measures, on random runs with ties."""

from functools import partial

import ir_measures
import numpy as np
import pytest

from jaxir.evaluation import metrics
from jaxir.evaluation.dataset import RetrievalDataset
from jaxir.evaluation.ranks import count_ranked_above_by_scores, ranks_in_pool

QUERIES, PASSAGES, ANSWERS = 60, 45, 25  # more right answers than k
ORACLES = {
    "map": (ir_measures.AP, metrics.average_precision),
    "success@1": (ir_measures.Success @ 1, partial(metrics.success, k=1)),
    "success@5": (ir_measures.Success @ 5, partial(metrics.success, k=5)),
    "recall@10": (ir_measures.R @ 10, partial(metrics.recall, k=10)),
    "recall@100": (ir_measures.R @ 100, partial(metrics.recall, k=100)),
    "mrr": (ir_measures.RR, metrics.reciprocal_rank),
    "ndcg@10": (ir_measures.nDCG @ 10, partial(metrics.ndcg, k=10)),
    "ndcg@40": (ir_measures.nDCG @ 40, partial(metrics.ndcg, k=40)),
    "map@20": (ir_measures.AP @ 20, partial(metrics.average_precision, k=20)),
}
DEPTHS = {"whole": PASSAGES, "cut": 12}


@pytest.fixture(scope="module")
def task():
    """Scores with many ties; graded right answers, none for query 0."""
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 8, (QUERIES, PASSAGES)).astype(np.float32)
    relevant = np.full((QUERIES, ANSWERS), -1)
    for query in range(1, QUERIES):
        count = rng.integers(1, ANSWERS + 1)
        relevant[query, rng.permutation(ANSWERS)[:count]] = rng.permutation(PASSAGES)[:count]
    dataset = RetrievalDataset(
        name="random",
        languages=("en",),
        queries=["?"] * QUERIES,
        query_ids=[f"q{number}" for number in range(QUERIES)],
        query_language=np.zeros(QUERIES, int),
        passages=["."] * PASSAGES,
        passage_ids=[f"d{number}" for number in range(PASSAGES)],  # "d9" > "d10"
        passage_language=np.zeros(PASSAGES, int),
        relevant=relevant,
        gains=np.where(relevant >= 0, rng.integers(1, 4, relevant.shape), 0),
    )
    return scores, dataset


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("name", ORACLES)
def test_measures_equal_trec_eval(task, name, depth):
    scores, dataset = task
    oracle, measure = ORACLES[name]
    ranks = ranks_in_pool(count_ranked_above_by_scores(lambda block: scores[block], dataset))
    ranks[ranks > DEPTHS[depth]] = 0
    qrels, ranking = {}, {}
    for query, (answers, gains) in enumerate(zip(dataset.relevant, dataset.gains)):
        if (answers < 0).all():
            continue
        qrels[f"q{query}"] = {f"d{row}": int(gain) for row, gain in zip(answers, gains) if gain}
        by_id = sorted(range(PASSAGES), key=lambda row: f"d{row}", reverse=True)
        best = sorted(by_id, key=lambda row: -scores[query, row])[: DEPTHS[depth]]
        ranking[f"q{query}"] = {f"d{row}": float(scores[query, row]) for row in best}
    # query 1 is missing from the run: nothing was found for it
    del ranking["q1"]
    ranks[1] = 0
    expected = np.full(QUERIES, np.nan)
    for metric in ir_measures.pytrec_eval.iter_calc([oracle], qrels, ranking):
        expected[int(metric.query_id[1:])] = metric.value
    assert np.isnan(expected[0])
    assert expected[1] == 0
    if name == "map@20":  # trec_eval divides by the number of right answers
        count = (dataset.gains > 0).sum(axis=1)
        expected *= count / np.minimum(np.maximum(count, 1), 20)

    values = measure(ranks, dataset.gains)

    assert np.isnan(values[0])
    assert np.unique(values[1:]).size > 1
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-12)


def test_average_precision_of_a_worked_example():
    ranks = np.array([[6, 0, 1, 3], [0, 2, 0, 0], [0, 0, 0, 0]])
    # the second query has two right answers, one of which was not found
    gains = np.array([[1, 0, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]])
    expected = [(1 + 2 / 3 + 3 / 6) / 3, 1 / 4, np.nan]
    np.testing.assert_allclose(metrics.average_precision(ranks, gains), expected)
    # three right answers, but only two places
    np.testing.assert_allclose(metrics.average_precision(ranks, gains, k=2)[0], 1 / 2)


@pytest.mark.parametrize("name", metrics.METRICS)
def test_best_ranking_earns_one_and_order_of_answers_nothing(name):
    measure = metrics.METRICS[name]
    gains = np.array([[1, 1, 0, 1]])
    best = np.array([[3, 1, 0, 2]], np.int32)
    assert measure(best, gains)[0] == pytest.approx(1, abs=1e-15)
    worse = np.array([[102, 2, 0, 400]], np.int32)
    assert 0 <= measure(worse, gains)[0] < 1
    backwards = measure(worse[:, ::-1], gains[:, ::-1])
    np.testing.assert_array_equal(measure(worse, gains), backwards)
