"""Rank distance on worked examples and against a plain loop."""

import numpy as np

from jaxir.retrieval.bias import rank_distance


def test_rank_distance_of_worked_examples():
    ranks = np.array([[5, 1, 9], [0, 7, 3], [4, 0, 0], [0, -1, 0]])
    np.testing.assert_array_equal(rank_distance(ranks), [8, 4, np.nan, np.nan])


def test_rank_distance_equals_a_loop():
    rng = np.random.default_rng(0)
    ranks = np.array([rng.permutation(1000)[:11] + 1 for _ in range(50)], np.int32)
    ranks[rng.random(ranks.shape) < 0.3] = 0
    expected = [max(row[row > 0]) - min(row[row > 0]) for row in ranks]
    np.testing.assert_array_equal(rank_distance(ranks), expected)
