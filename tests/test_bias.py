"""Measures of language bias: worked examples, SciPy, and the published implementation of PEER."""

import itertools

import numpy as np
import peer_measure
import pytest
import scipy.stats

from jaxir.evaluation.bias import (
    equal_expected_rank,
    language_shares,
    rank_correlation,
    rank_distance,
)


def test_rank_distance_of_worked_examples():
    ranks = np.array([[5, 1, 9], [0, 7, 3], [4, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(rank_distance(ranks, ranks), [8, 4, np.nan, np.nan])


def test_rank_distance_equals_a_loop():
    rng = np.random.default_rng(0)
    ranks = np.array([rng.permutation(1000)[:11] + 1 for _ in range(50)], np.int32)
    ranks[rng.random(ranks.shape) < 0.3] = 0
    expected = [max(row[row > 0]) - min(row[row > 0]) for row in ranks]
    np.testing.assert_array_equal(rank_distance(ranks, ranks), expected)


def test_peer_equals_its_published_implementation():
    rng = np.random.default_rng(0)
    queries, passages, answers = 30, 60, 12
    language = rng.integers(0, 3, passages)
    relevant = np.array([rng.permutation(passages)[:answers] for _ in range(queries)])
    gains = (rng.random(relevant.shape) < 0.8).astype(int)
    order = np.array([rng.permutation(passages) for _ in range(queries)])
    ranks = np.argsort(order, axis=1)[np.arange(queries)[:, None], relevant] + 1
    expected = []
    for query in range(queries):
        groups = [
            ranks[query][(language[relevant[query]] == x) & (gains[query] > 0)].tolist()
            for x in range(3)
        ]
        expected.append(peer_measure.kruskal(*groups)[1])

    values = equal_expected_rank(ranks, language[relevant], gains, np.arange(queries))

    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-12)


def test_peer_pools_the_queries_of_a_question():
    # ranks without repetition, so that SciPy's ranks of ranks are the same
    ranks = np.array([[1, 3, 5], [2, 4, 6], [7, 8, 9]])
    language = np.tile(np.arange(3), (3, 1))
    gains = np.ones_like(ranks)
    values = equal_expected_rank(ranks, language, gains, np.array([4, 4, 9]))
    expected = scipy.stats.kruskal([1, 2], [3, 4], [5, 6]).pvalue
    np.testing.assert_allclose(values[:2], expected)
    # one answer in each language: the statistic would be the same whatever the ranks
    assert np.isnan(values[2])


def union_correlation(one, other):
    """Spearman's correlation by SciPy, over the passages in either list."""
    union = sorted({*one, *other})

    def ranks(places):
        places = list(places)
        return [places.index(p) + 1 if p in places else len(places) + 1 for p in union]

    return scipy.stats.spearmanr(ranks(one), ranks(other)).statistic


def test_rank_correlation_equals_scipy():
    rng = np.random.default_rng(0)
    question = np.array([0, 1, 0, 1, 2, 0, 1, 3, 3])
    places = np.array([rng.permutation(14)[:8] for _ in question])
    values = rank_correlation(places, question, 14)
    for number in range(4):
        rows = np.flatnonzero(question == number)
        pairs = [
            union_correlation(places[a], places[b]) for a, b in itertools.combinations(rows, 2)
        ]
        if pairs:
            np.testing.assert_allclose(values[rows], np.mean(pairs))
        else:
            assert np.isnan(values[rows]).all()


@pytest.mark.parametrize("depth", [1, 6])
def test_equal_rankings_correlate_fully(depth):
    places = np.array([np.arange(depth), np.arange(depth)])
    np.testing.assert_allclose(rank_correlation(places, np.array([0, 0]), 9), 1.0)


def test_language_shares_of_a_worked_example():
    passage_language = np.array([0, 0, 1, 2])
    places = np.array([[0, 1], [2, 0], [3, 3]])
    shares = language_shares(places, np.array([0, 0, 1]), passage_language, 3)
    np.testing.assert_array_equal(shares[:2], [[0.75, 0.25, 0], [0, 0, 1]])
    assert np.isnan(shares[2]).all()
