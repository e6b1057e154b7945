"""Masks that are as random as they need to be, and depend on a text's seed alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxir.models.dropout import dropout, fold, mix


def seeds(number, count):
    """Different seeds for the texts of a batch."""
    return fold(jnp.full(count, number, jnp.uint32), jnp.arange(count))


def test_mix_is_a_permutation_and_avalanches():
    x = np.arange(1 << 16, dtype=np.uint32)
    mixed = np.asarray(mix(jnp.asarray(x)))
    assert len(np.unique(mixed)) == len(x)
    for bit in range(32):
        changed = mixed ^ np.asarray(mix(jnp.asarray(x ^ np.uint32(1 << bit))))
        flipped = np.unpackbits(changed.view(np.uint8)).mean()
        assert abs(flipped - 0.5) < 0.01


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_drops_its_share_of_every_text_and_place(rate):
    x = np.asarray(dropout(jnp.ones((500, 40, 50)), rate, seeds(0, 500)))
    np.testing.assert_allclose(x[x != 0], 1 / (1 - rate), rtol=1e-6)
    for axes in ((1, 2), (0,)):
        dropped = (x == 0).sum(axis=axes).reshape(-1)
        trials = (x == 0).size // dropped.size
        variance = trials * rate * (1 - rate)
        # a binomial count: its spread is neither too wide nor too narrow
        statistic = ((dropped - trials * rate) ** 2).sum() / variance
        assert 1e-4 < stats.chi2.cdf(statistic, dropped.size) < 1 - 1e-4


def test_masks_of_neighbouring_seeds_places_and_steps_are_independent():
    ones = jnp.ones((64, 4096))
    plain = jnp.arange(64, dtype=jnp.uint32)  # the most alike seeds there are
    masks = np.concatenate(
        [np.asarray(dropout(ones, 0.5, x)) > 0 for x in (plain, fold(plain, 1), fold(plain, 2))]
    )
    correlation = np.corrcoef(masks)[np.triu_indices(len(masks), 1)]
    assert np.abs(correlation).max() < 6 / np.sqrt(4096)
    shifted = [np.corrcoef(m[:-k], m[k:])[0, 1] for m in masks[:16] for k in (1, 2, 64, 768)]
    assert np.abs(shifted).max() < 5 / np.sqrt(3000)


def test_a_text_keeps_its_mask_wherever_it_stands():
    every, x = seeds(3, 8), jnp.ones((8, 5, 7))
    whole = dropout(x, 0.3, every)
    np.testing.assert_array_equal(whole[5:], dropout(x[5:], 0.3, every[5:]))
    np.testing.assert_array_equal(x, dropout(x, 0.3, None))
    assert jax.vmap(lambda s: dropout(jnp.ones((1, 3)), 0.0, s[None]))(every).all()
