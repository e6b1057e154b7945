"""Response surfaces against least squares done by hand and by SciPy, and the trade-off."""

import numpy as np
import pytest
import scipy.stats
from etils import epath
from pretend_sweep import grid_config, quadratic, write_sweep

from jaxir.config import SweepConfig
from jaxir.evaluation.comparison import BIAS, QUALITY
from jaxir.sweep.mixtures import mixtures
from jaxir.sweep.response_surface import best_shares, fit, simplex, terms
from jaxir.sweep.study import read_study
from jaxir.sweep.tradeoff import means, pareto_front, trade_off

GRID = np.array([point.shares for point in mixtures(SweepConfig(step=0.25))])


def _noisy(seeds=3, spread=0.02, seed=0, curve=1.0):
    """Shares and figures of runs, around a known surface."""
    shares = np.repeat(GRID, seeds, axis=0)
    truth = terms(shares) @ np.array([0.3, 0.5, 0.1, 0.4, -0.2, 0.6]) * curve
    return shares, truth + np.random.default_rng(seed).normal(0, spread, len(shares))


def test_the_quadratic_is_the_one_that_best_follows_the_points():
    """Normal equations in float64, and the same numbers from a regression in other coordinates."""
    shares, figures = _noisy()
    found = fit(shares, figures)
    design = terms(shares)
    expected = np.linalg.solve(design.T @ design, design.T @ figures)
    np.testing.assert_allclose(found.coefficients, expected, rtol=1e-9)
    left = figures - design @ expected
    assert found.residual_std == pytest.approx(np.sqrt((left**2).sum() / (len(figures) - 6)))
    # with a constant, two linear and three quadratic terms of the first two shares
    a, b = shares[:, 0], shares[:, 1]
    other = np.stack([np.ones_like(a), a, b, a * a, b * b, a * b], axis=1)
    residual = figures - other @ np.linalg.lstsq(other, figures, rcond=None)[0]
    np.testing.assert_allclose(residual, figures - found.at(shares)[0], atol=1e-12)
    total = ((figures - figures.mean()) ** 2).sum()
    assert found.r_squared == pytest.approx(1 - (residual**2).sum() / total)


def test_intervals_are_those_of_least_squares():
    """Standard errors by the formula, at any shares; and of a difference, between two of them."""
    shares, figures = _noisy(spread=0.05)
    surface = fit(shares, figures)
    design = terms(shares)
    covariance = np.linalg.inv(design.T @ design) * surface.residual_std**2
    width = scipy.stats.t.ppf(0.975, len(figures) - 6)
    one, other = np.random.default_rng(1).dirichlet(np.ones(3), 2)
    for (value, margin), row in (
        (surface.at(one[None]), terms(one[None])[0]),
        (surface.minus(one[None], other), (terms(one[None]) - terms(other[None]))[0]),
    ):
        assert value[0] == pytest.approx(row @ surface.coefficients)
        assert margin[0] == pytest.approx(width * np.sqrt(row @ covariance @ row))


def test_intervals_hold_the_truth_as_often_as_promised():
    truth = np.array([0.3, 0.5, 0.1, 0.4, -0.2, 0.6])
    places = simplex(4)
    held = []
    for seed in range(200):
        value, margin = fit(*_noisy(seeds=2, seed=seed)).at(places)
        held.append(np.abs(value - terms(places) @ truth) <= margin)
    assert 0.93 < np.mean(held) < 0.97


def test_lack_of_fit_by_the_textbook_and_as_often_as_promised():
    shares, figures = _noisy()
    group = np.repeat(np.arange(len(GRID)), 3)
    means_of = np.array([figures[group == i].mean() for i in range(len(GRID))])
    pure = ((figures - means_of[group]) ** 2).sum()
    left = ((figures - fit(shares, figures).at(shares)[0]) ** 2).sum()
    f = (left - pure) / (15 - 6) / (pure / (45 - 15))
    assert fit(shares, figures).p_lack_of_fit == pytest.approx(scipy.stats.f.sf(f, 9, 30))
    p = [fit(*_noisy(seed=seed)).p_lack_of_fit for seed in range(300)]
    assert 0.02 < np.mean(np.array(p) < 0.05) < 0.09
    cubic = figures + 1.5 * shares[:, 0] * shares[:, 1] * (shares[:, 0] - shares[:, 1])
    assert fit(shares, cubic).p_lack_of_fit < 1e-4


def test_one_seed_has_no_lack_of_fit_and_few_points_no_surface():
    assert np.isnan(fit(*_noisy(seeds=1)).p_lack_of_fit)
    shares, figures = _noisy(seeds=5)
    edge = shares[:, 2] == 0
    assert fit(shares[edge], figures[edge]) is None
    assert fit(GRID[:6], np.arange(6.0)) is None
    assert fit(shares, np.full(len(shares), 0.1)) is None


def test_runs_without_results_do_not_count():
    shares, figures = _noisy()
    gaps = figures.copy()
    gaps[::4] = np.nan
    kept = ~np.isnan(gaps)
    np.testing.assert_allclose(
        fit(shares, gaps).coefficients, fit(shares[kept], figures[kept]).coefficients
    )


def test_the_highest_place_is_found_and_the_region_holds_the_true_one():
    places = simplex()
    assert len(places) == 5_151
    np.testing.assert_allclose(places.sum(axis=1), 1)
    # 1 - (a - .4)^2 - (b - .35)^2 - (c - .25)^2, a quadratic in the shares
    best = np.array([0.4, 0.35, 0.25])
    held = 0
    for seed in range(100):
        shares = np.repeat(GRID, 2, axis=0)
        truth = 1 - ((shares - best) ** 2).sum(axis=1)
        noisy = truth + np.random.default_rng(seed).normal(0, 0.02, len(truth))
        found = best_shares(fit(shares, noisy))
        held += found.as_good[np.abs(found.grid - best).sum(axis=1) < 1e-9].all()
        assert found.as_good[(found.grid == found.shares).all(axis=1)].all()
        assert not found.as_good.all()
    assert held >= 90
    exact = best_shares(fit(GRID, 1 - ((GRID - best) ** 2).sum(axis=1)))
    np.testing.assert_allclose(exact.shares, best)


def test_front_by_brute_force():
    rng = np.random.default_rng(2)
    quality, bias = rng.integers(0, 6, (2, 40)) / 5
    expected = [
        not any(
            q >= quality[i] and b <= bias[i] and (q > quality[i] or b < bias[i])
            for q, b in zip(quality, bias)
        )
        for i in range(40)
    ]
    np.testing.assert_array_equal(pareto_front(quality, bias), expected)
    quality[0], bias[0] = np.nan, np.nan
    assert not pareto_front(quality, bias)[0]


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_score_is_what_it_says(tmp_path, weight):
    config = grid_config()
    write_sweep(tmp_path, config, failed=("hybrid-seed1",))
    study = read_study(epath.Path(tmp_path), None)
    trade = trade_off(study, weight)
    quality = study.values[:, study.column(QUALITY)]
    bias = np.log(study.values[:, study.column(BIAS)])
    of_points = [means(study, values) for values in (quality, bias)]
    for number, run in enumerate(study.runs):
        expected = weight * (quality[number] - of_points[0].min()) / np.ptp(of_points[0])
        expected += (1 - weight) * (of_points[1].max() - bias[number]) / np.ptp(of_points[1])
        assert np.isnan(trade.scores[number]) == (run.name == "hybrid-seed1")
        if run.name != "hybrid-seed1":
            assert trade.scores[number] == pytest.approx(expected)
    truth = np.array([quadratic(run)[0] for run in study.runs])
    if weight == 1.0:  # the best shares of the pretended truth
        assert truth.max() < 0.51
        np.testing.assert_allclose(trade.best.shares, [0.4, 0.4, 0.2], atol=0.05)
    if weight == 0.0:
        assert trade.best.shares[1] > 0.9
