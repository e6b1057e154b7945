"""Intervals and p values against SciPy, and on data whose truth is known."""

import numpy as np
import pytest
import scipy.stats

from jaxir.evaluation.settings import PerQueryMetrics
from jaxir.evaluation.significance import compare, confidence_intervals

QUERIES = 60


def make_values(values, languages=1, question=None, settings=("multilingual",)):
    """The values as a measure in the pool; queries take turns in the languages."""
    count = len(values)
    return PerQueryMetrics(
        languages=tuple("abc"[:languages]),
        settings=settings,
        query_language=np.arange(count) % languages,
        question=np.arange(count) if question is None else question,
        by_language={"map": np.tile(np.asarray(values)[:, None], (1, languages))},
        in_pool={"map": np.asarray(values)},
    )


@pytest.fixture
def values():
    return np.random.default_rng(0).beta(0.5, 0.7, QUERIES)


def test_interval_equals_scipys_percentile_bootstrap(values):
    ours = confidence_intervals(make_values(values).metric_sums(), 20_000)["multilingual/map"]
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20_000, rng=1
    ).confidence_interval
    np.testing.assert_allclose(ours, theirs, atol=0.004)
    assert ours[0] < values.mean() < ours[1]


def test_queries_of_a_question_are_drawn_together(values):
    """Ten copies of each question say no more than one, where they are known to be copies."""
    alone = confidence_intervals(make_values(values).metric_sums(), 2_000)["multilingual/map"]
    copies, question = np.tile(values, 10), np.tile(np.arange(QUERIES), 10)
    together = confidence_intervals(make_values(copies, question=question).metric_sums(), 2_000)
    np.testing.assert_allclose(together["multilingual/map"], alone)
    apart = confidence_intervals(make_values(copies).metric_sums(), 2_000)["multilingual/map"]
    assert apart[1] - apart[0] < 0.5 * (alone[1] - alone[0])


def test_every_setting_has_its_interval(values):
    every = ("monolingual", "cross_lingual", "multilingual")
    totals = make_values(values, languages=3, settings=every).metric_sums()
    intervals = confidence_intervals(totals, 200)
    assert set(intervals) == {f"{setting}/map" for setting in every}
    for name, (low, high) in intervals.items():
        assert low < totals[name].mean() < high


def test_unknown_values_count_nowhere(values):
    gaps = values.copy()
    gaps[::3] = np.nan
    known = confidence_intervals(make_values(gaps[~np.isnan(gaps)]).metric_sums(), 5_000)
    found = confidence_intervals(make_values(gaps).metric_sums(), 5_000)
    np.testing.assert_allclose(found["multilingual/map"], known["multilingual/map"], atol=0.02)
    nothing = confidence_intervals(make_values(np.full(4, np.nan)).metric_sums(), 10)
    assert np.isnan(nothing["multilingual/map"]).all()


def test_p_value_equals_scipys_permutation_test(values):
    rng = np.random.default_rng(1)
    other = np.clip(values + rng.normal(0.03, 0.12, QUERIES), 0, 1)
    found = compare(make_values(values), make_values(other))["multilingual/map"]
    theirs = scipy.stats.permutation_test(
        (other, values),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=10_000,
        rng=2,
    ).pvalue
    assert found.difference == pytest.approx(other.mean() - values.mean())
    assert 0.005 < theirs < 0.5  # else the comparison says nothing
    assert found.p_value == pytest.approx(theirs, abs=0.02)
    back = compare(make_values(other), make_values(values))["multilingual/map"]
    assert back.difference == pytest.approx(-found.difference)
    assert back.p_value == pytest.approx(found.p_value, abs=1e-12)


def test_a_model_does_not_differ_from_itself(values):
    found = compare(make_values(values), make_values(values))["multilingual/map"]
    assert (found.difference, found.p_value) == (0, 1)


def test_chance_is_believed_as_often_as_promised():
    """Of models that differ by noise alone, about one in twenty has p < .05."""
    rng = np.random.default_rng(3)
    p = [
        compare(make_values(rng.random(40)), make_values(rng.random(40)), permutations=400)[
            "multilingual/map"
        ].p_value
        for _ in range(300)
    ]
    assert 0.02 < np.mean(np.array(p) < 0.05) < 0.09


def test_a_mean_over_languages_is_tested_as_such():
    """A small language counts as much as a large one."""
    language = np.array([0] * 50 + [1] * 10)
    first, second = np.zeros(60), np.where(language == 1, 0.5, 0.0)
    one, other = make_values(first, 2), make_values(second, 2)
    object.__setattr__(one, "query_language", language)
    object.__setattr__(other, "query_language", language)
    found = compare(one, other)["multilingual/map"]
    assert found.difference == pytest.approx(0.25)
    assert found.p_value < 0.01
