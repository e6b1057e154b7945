"""Masks that are as random as they need to be, and depend on a text's seed alone."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxir.models.dropout import attention_dropout, dropout, fold_in, hash_bits


def seeds(number, *shape):
    """Different seeds for the texts of a batch, or for their tokens."""
    places = jnp.arange(np.prod(shape)).reshape(shape)
    return fold_in(jnp.full(shape, number, jnp.uint32), places)


def test_mix_is_a_permutation_and_avalanches():
    x = np.arange(1 << 16, dtype=np.uint32)
    mixed = np.asarray(hash_bits(jnp.asarray(x)))
    assert len(np.unique(mixed)) == len(x)
    for bit in range(32):
        changed = mixed ^ np.asarray(hash_bits(jnp.asarray(x ^ np.uint32(1 << bit))))
        flipped = np.unpackbits(changed.view(np.uint8)).mean()
        assert abs(flipped - 0.5) < 0.01


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_drops_its_share_of_every_text_and_place(rate):
    x = np.asarray(dropout(jnp.ones((500, 40, 50)), rate, seeds(0, 500, 40)))
    np.testing.assert_allclose(x[x != 0], 1 / (1 - rate), rtol=1e-6)
    for axes in ((1, 2), (0,)):
        dropped = (x == 0).sum(axis=axes).reshape(-1)
        trials = (x == 0).size // dropped.size
        variance = trials * rate * (1 - rate)
        # a binomial count: its spread is neither too wide nor too narrow
        statistic = ((dropped - trials * rate) ** 2).sum() / variance
        assert 1e-4 < stats.chi2.cdf(statistic, dropped.size) < 1 - 1e-4


def test_masks_of_neighbouring_seeds_places_and_steps_are_independent():
    ones = jnp.ones((1, 64, 4096))
    plain = jnp.arange(64, dtype=jnp.uint32)[None]  # the most alike seeds there are
    masks = np.concatenate(
        [
            np.asarray(dropout(ones, 0.5, x)[0]) > 0
            for x in (plain, fold_in(plain, 1), fold_in(plain, 2))
        ]
    )
    correlation = np.corrcoef(masks)[np.triu_indices(len(masks), 1)]
    assert np.abs(correlation).max() < 6 / np.sqrt(4096)
    shifted = [np.corrcoef(m[:-k], m[k:])[0, 1] for m in masks[:16] for k in (1, 2, 64, 768)]
    assert np.abs(shifted).max() < 5 / np.sqrt(3000)


def test_a_token_keeps_its_mask_wherever_it_stands():
    every, x = seeds(3, 8, 5), jnp.ones((8, 5, 7))
    whole = dropout(x, 0.3, every)
    np.testing.assert_array_equal(whole[5:, 2:], dropout(x[5:, 2:], 0.3, every[5:, 2:]))
    np.testing.assert_array_equal(x, dropout(x, 0.3, None))
    assert (dropout(x, 0.0, every) == 1).all()


def test_attention_drops_its_share_of_every_head_and_token():
    shape, rate = (40, 4, 24, 24), 0.3
    positions = jnp.arange(24)[None, :]
    x = np.asarray(attention_dropout(jnp.ones(shape), rate, seeds(0, 40, 24), positions))
    np.testing.assert_allclose(x[x != 0], 1 / (1 - rate), rtol=1e-6)
    for kept in range(4):  # over all axes but one
        dropped = (x == 0).mean(axis=tuple(axis for axis in range(4) if axis != kept))
        spread = np.sqrt(rate * (1 - rate) * shape[kept] / x.size)
        assert np.abs(dropped - rate).max() < 5 * spread
    heads = x.transpose(1, 0, 2, 3).reshape(4, -1) > 0
    assert np.abs(np.corrcoef(heads)[np.triu_indices(4, 1)]).max() < 5 / np.sqrt(heads.shape[1])


def test_attention_keeps_its_mask_wherever_a_text_stands():
    ones, every = jnp.ones((1, 2, 4, 4)), seeds(1, 1, 4)
    alone = attention_dropout(ones, 0.5, every, jnp.arange(4)[None])
    # three tokens of another text stand before it, and two of padding after
    positions = jnp.array([[0, 1, 2, 0, 1, 2, 3, 4, 5]])
    moved = jnp.concatenate([seeds(2, 1, 3), every, seeds(3, 1, 2)], axis=1)
    whole = attention_dropout(jnp.ones((1, 2, 9, 9)), 0.5, moved, positions)
    np.testing.assert_array_equal(whole[:, :, 3:7, 3:7], alone)
    assert len(np.unique(alone)) == 2
