"""Tests between points against SciPy, and on runs whose truth is known."""

import dataclasses

import numpy as np
import pytest
import scipy.stats
from etils import epath
from pretend_sweep import QUESTIONS, grid_config, quadratic, write_sweep

from jaxir.config import Config, SweepConfig
from jaxir.evaluation.comparison import MAIN, QUALITY, RETRIEVAL_METRICS
from jaxir.sweep.mixtures import Run, runs
from jaxir.sweep.significance_tests import holm, min_f, mixture_differences, question_t, seed_error
from jaxir.sweep.study import Study, read_study


def _study(effects, seeds, questions, seed_spread, question_spread, rng, missing=()) -> Study:
    """Points that differ by `effects` in one measure; seeds and questions add noise of their own.

    Every point answers each question differently well, the same in all of its runs, and every run
    is better or worse as a whole.
    """
    named = ("uniform", "X-X", "X-Y", "hybrid", "multilingual")[: len(effects)]
    config = Config(sweep=SweepConfig(named=named, seeds=seeds))
    wanted = runs(config)
    by_point = rng.normal(0, question_spread, (len(effects), questions)) / questions
    parts = np.full((len(wanted), questions, 1), np.nan)
    for number, run in enumerate(wanted):
        if run.name not in missing:
            place = named.index(run.mixture.name)
            whole = effects[place] + rng.normal(0, seed_spread)
            noise = rng.normal(0, 0.01, questions) / questions
            parts[number, :, 0] = whole / questions + by_point[place] + noise
    return Study(
        config,
        "held_out",
        RETRIEVAL_METRICS,
        wanted,
        dict.fromkeys(missing, "failed: x"),
        {},
        (),
        MAIN[2:3],
        parts.sum(axis=1),
        parts,
    )


def _p_values(study):
    return {one.mixture: one for one in mixture_differences(study, study.mixtures[0])}


def test_p_over_questions_equals_scipys_permutation_test():
    study = _study([0.0, 0.06], 2, 30, 0.0, 0.2, np.random.default_rng(5))
    found = _p_values(study)["X-X"]
    by_point = [
        study.contributions[[run.mixture == point for run in study.runs]].mean(axis=0)[:, 0]
        for point in study.mixtures
    ]
    theirs = scipy.stats.permutation_test(
        by_point,
        lambda one, other, axis: np.sum(other - one, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=20_000,
        rng=1,
    ).pvalue
    assert 0.01 < theirs < 0.5  # else the comparison says nothing
    assert found.p_questions == pytest.approx(theirs, abs=0.01)
    assert found.difference == pytest.approx(by_point[1].sum() - by_point[0].sum())


def test_p_over_seeds_of_two_points_is_the_paired_t_test():
    study = _study([0.0, 0.03], 4, 30, 0.02, 0.1, np.random.default_rng(1))
    found = _p_values(study)["X-X"]
    one, other = (study.of_mixture(point)[:, 0] for point in study.mixtures)
    assert found.p_seeds == pytest.approx(scipy.stats.ttest_rel(other, one).pvalue)


def test_the_error_over_seeds_is_that_of_a_two_way_analysis_of_variance():
    """Balanced: the residual sum of squares by its textbook formula."""
    figures = np.random.default_rng(2).normal(size=(5, 3))  # points x seeds
    points, seeds = np.repeat(np.arange(5), 3), np.tile(np.arange(3), 5)
    found, freedom = seed_error(figures.reshape(-1, 1), points, seeds)
    left = figures - figures.mean(0) - figures.mean(1)[:, None] + figures.mean()
    assert freedom == 4 * 2
    np.testing.assert_allclose(found, [(left**2).sum() / freedom])


def test_runs_without_results_leave_the_error_to_the_others():
    figures = np.random.default_rng(3).normal(size=(4, 3))
    points, seeds = np.repeat(np.arange(4), 3), np.tile(np.arange(3), 4)
    flat = figures.reshape(-1, 1).copy()
    flat[[9, 10, 11]] = np.nan  # a point without any
    found, freedom = seed_error(flat, points, seeds)
    expected, whole = seed_error(figures[:3].reshape(-1, 1), points[:9], seeds[:9])
    assert freedom == whole == 4
    np.testing.assert_allclose(found, expected)


def test_t_over_questions_is_scipys():
    parts = np.random.default_rng(4).normal(0.1, 1, (50, 2)) / 50
    parts[::7, 1] = np.nan
    t, freedom = question_t(parts)
    for column in range(2):
        theirs = scipy.stats.ttest_1samp(parts[:, column], 0, nan_policy="omit")
        assert t[column] == pytest.approx(theirs.statistic)
        assert freedom[column] == theirs.df


def test_min_f_by_its_definition_and_at_its_ends():
    """Clark 1973: F1 F2 / (F1 + F2) on 1 and (F1 + F2)^2 / (F1^2 / n2 + F2^2 / n1) degrees."""
    f1, f2, n1, n2 = 6.0, 9.0, 15, 40
    expected = scipy.stats.f.sf(f1 * f2 / (f1 + f2), 1, (f1 + f2) ** 2 / (f1**2 / n2 + f2**2 / n1))
    t1, t2 = np.sqrt([f1]), -np.sqrt([f2])
    np.testing.assert_allclose(min_f(t1, n1, t2, n2), expected)
    zero, infinite = np.zeros(1), np.full(1, np.inf)
    np.testing.assert_allclose(min_f(zero, n1, zero, n2), 1)
    # where one factor leaves no doubt the other decides alone
    alone = 2 * scipy.stats.t.sf(np.sqrt(f2), n2)
    np.testing.assert_allclose(min_f(infinite, n1, t2, n2), alone)
    np.testing.assert_allclose(min_f(t2, n2, infinite, n1), alone)


def test_holm_by_its_definition():
    rng = np.random.default_rng(6)
    for _ in range(20):
        p = rng.random(8) ** 3
        for level in (0.01, 0.05, 0.2):
            rejected, order = set(), np.argsort(p)
            for step, place in enumerate(order):
                if p[place] > level / (len(p) - step):
                    break
                rejected.add(place)
            assert set(np.flatnonzero(holm(p) <= level)) == rejected
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])
    assert not holm([]).size


@pytest.mark.parametrize(("seed_spread", "question_spread"), [(0.05, 0.0), (0.0, 0.5), (0.03, 0.3)])
def test_chance_is_believed_as_often_as_promised(seed_spread, question_spread, monkeypatch):
    """Whichever of seeds and questions makes the noise, about one in twenty has p < .05."""
    monkeypatch.setattr("jaxir.sweep.significance_tests.PERMUTATIONS", 20)  # not looked at here
    rng = np.random.default_rng(8)
    p = []
    for _ in range(150):
        study = _study([0.0] * 4, 2, 60, seed_spread, question_spread, rng)
        p += [one.p for one in mixture_differences(study, study.mixtures[0])]
    assert np.mean(np.array(p) < 0.05) < 0.075
    assert np.mean(np.array(p) < 0.5) > 0.3  # and the test is not asleep


def test_questions_alone_do_not_see_that_seeds_vary():
    """Why `p_questions` does not decide: models that differ by their seeds alone look different."""
    rng = np.random.default_rng(9)
    both = [
        one
        for _ in range(20)
        for one in _p_values(_study([0.0, 0.0, 0.0], 2, 60, 0.05, 0.0, rng)).values()
    ]
    assert np.mean([one.p_questions < 0.05 for one in both]) > 0.8
    assert np.mean([one.p < 0.05 for one in both]) < 0.2


def test_a_true_difference_is_found_and_has_its_sign():
    study = _study([0.0, 0.2, -0.2], 3, 60, 0.01, 0.1, np.random.default_rng(10))
    found = _p_values(study)
    assert found["X-X"].difference > 0 > found["X-Y"].difference
    assert max(one.p_holm for one in found.values()) < 0.001


def test_missing_seeds_are_left_out_on_both_sides():
    rng = np.random.default_rng(11)
    study = _study([0.0, 0.1, 0.1], 3, 40, 0.01, 0.1, rng, missing=("X-X-seed1", "X-Y-seed0"))
    found = _p_values(study)
    assert {name: one.seeds for name, one in found.items()} == {"X-X": 2, "X-Y": 2}
    place = {run.name: study.values[i, 0] for i, run in enumerate(study.runs)}
    expected = np.mean([place[f"X-X-seed{s}"] - place[f"uniform-seed{s}"] for s in (0, 2)])
    assert found["X-X"].difference == pytest.approx(expected)


def test_fewer_than_two_seeds_are_no_test():
    rng = np.random.default_rng(12)
    study = _study([0.0, 0.1], 1, 40, 0, 0, rng)
    assert not mixture_differences(study, study.mixtures[0])
    study = _study([0.0, 0.1, 0.1], 2, 40, 0.01, 0.1, rng, missing=("X-X-seed1",))
    assert [one.mixture for one in mixture_differences(study, study.mixtures[0])] == ["X-Y"]


def test_figures_are_those_of_the_runs_and_the_sums_of_their_parts(tmp_path):
    config = grid_config(0.5)
    write_sweep(tmp_path, config, failed=("X-X-seed1",))
    study = read_study(epath.Path(tmp_path), None)
    assert study.missing == {"X-X-seed1": "failed: step 7: the loss is nan"}
    for number, run in enumerate(study.runs):
        if run.name in study.missing:
            assert np.isnan(study.values[number]).all()
            continue
        report = study.results[run.name]["datasets"]["held_out"]["trained"]
        for column, measure in enumerate(study.metrics):
            setting, name, *language = measure.key.split("/")
            if not language:
                expected = report[setting][name]
            elif setting == "multilingual":
                expected = report["pool"][name][study.languages.index(language[0])]
            else:
                row = report["matrix"][name][study.languages.index(language[0])]
                own = study.languages.index(language[0])
                others = [value for place, value in enumerate(row) if place != own]
                expected = row[own] if setting == "monolingual" else np.mean(others)
            assert study.values[number, column] == pytest.approx(expected, abs=1e-12)
        np.testing.assert_allclose(
            np.nansum(study.contributions[number], axis=0), study.values[number], atol=1e-12
        )
    assert study.contributions.shape[1] == QUESTIONS


def test_families_are_corrected_apart(tmp_path):
    write_sweep(tmp_path, grid_config(0.5))
    study = read_study(epath.Path(tmp_path), None)
    uniform = next(point for point in study.mixtures if point.name == "uniform")
    found = mixture_differences(study, uniform)
    for single in (False, True):
        family = [one for one in found if (one.metric.count("/") == 2) == single]
        expected = holm([one.p for one in family])
        np.testing.assert_allclose([one.p_holm for one in family], expected)
    truth = {run.mixture.name: quadratic(run)[0] for run in study.runs}
    for one in found:
        if one.metric == QUALITY and one.p_holm < 0.001:
            assert (one.difference > 0) == (truth[one.mixture] > truth["uniform"])


def test_the_order_of_points_says_nothing(tmp_path):
    rng = np.random.default_rng(13)
    study = _study([0.0, 0.05, 0.1], 2, 40, 0.02, 0.1, rng)
    order = rng.permutation(len(study.runs))
    shuffled = dataclasses.replace(
        study,
        runs=tuple(Run(study.runs[i].mixture, study.runs[i].seed) for i in order),
        values=study.values[order],
        contributions=study.contributions[order],
    )
    one = {d.mixture: d for d in mixture_differences(study, study.mixtures[0])}
    other = {d.mixture: d for d in mixture_differences(shuffled, study.mixtures[0])}
    for name in one:
        assert one[name].p == pytest.approx(other[name].p)
