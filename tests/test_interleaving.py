"""Exact shares at every prefix; permutations that are permutations."""

import numpy as np
import pytest
from scipy import stats

from jaxir.data.hashing import hash_integers, permute
from jaxir.data.interleaving import integer_shares, interleave


def _share_vectors():
    rng = np.random.default_rng(0)
    for number in range(50):
        kinds = 2 + number % 7
        yield rng.dirichlet(np.ones(kinds) * (0.3 if number % 2 else 3.0))


@pytest.mark.parametrize("shares", list(_share_vectors()), ids=lambda s: f"{len(s)}-kinds")
def test_no_prefix_strays_by_a_whole_batch(shares):
    schedule = interleave(shares, 100_000)
    kinds, _ = schedule.at(np.arange(10_000))
    used = np.cumsum(kinds[:, None] == np.arange(len(shares)), axis=0)
    exact = np.arange(1, 10_001)[:, None] * (schedule.shares / schedule.shares.sum())
    positive = int((schedule.shares > 0).sum())
    assert np.abs(used - exact).max() <= 1 - 1 / (2 * positive - 2) + 1e-9
    assert np.abs(used - np.arange(1, 10_001)[:, None] * shares).max() < 1


def test_the_counter_of_a_kind_counts_its_draws():
    schedule = interleave([0.2, 0.5, 0.3])
    kinds, counters = schedule.at(np.arange(1_000))
    for kind in range(3):
        np.testing.assert_array_equal(
            counters[kinds == kind], np.arange(int((kinds == kind).sum()))
        )


def test_the_period_of_a_million_is_exact():
    schedule = interleave([1.0, np.pi, np.e])
    assert schedule.shares.sum() <= 1_000_000
    np.testing.assert_array_equal(np.bincount(schedule.kinds), schedule.shares)


@pytest.mark.parametrize(
    ("shares", "whole"),
    [
        ([0.5, 0.5], [1, 1]),
        ([1 / 3, 1 / 3, 1 / 3], [1, 1, 1]),
        ([0.1, 0.2, 0.7], [1, 2, 7]),
        ([3.0, 0.0, 1.0], [3, 0, 1]),
        ([0.0, 2.5], [0, 1]),
    ],
)
def test_simple_shares_stay_exact(shares, whole):
    assert integer_shares(shares).tolist() == whole


def test_a_tiny_share_is_not_lost():
    whole = integer_shares([1e-12, 1.0, 1.0])
    assert whole[0] > 0
    assert whole.sum() <= 1_000_000


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 64, 65, 1_000, 4_097])
def test_permutation_is_one(size):
    places = permute(np.arange(size), np.full(size, size), np.full(size, hash_integers(1, 2)))
    assert sorted(places.tolist()) == list(range(size))


def test_permutations_of_other_keys_are_unrelated():
    size, epochs = 50, 4_000
    keys = np.repeat(hash_integers(7, np.arange(epochs)), size)
    places = permute(np.tile(np.arange(size), epochs), np.full(size * epochs, size), keys)
    # the place of the first element is uniform over epochs, and so is that of the second given it
    table = places.reshape(epochs, size)
    for statistic in (table[:, 0], (table[:, 1] - table[:, 0]) % size):
        counts = np.bincount(statistic, minlength=size)
        counts = counts[counts > 0] if statistic is not table[:, 0] else counts
        assert stats.chisquare(counts).pvalue > 1e-4


def test_hash_depends_on_every_word():
    assert (
        len({int(hash_integers(a, b, c)) for a in range(8) for b in range(8) for c in range(8)})
        == 512
    )
