"""Attention and its gradients against float64 NumPy and JAX's own derivatives."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_dropout import seeds

from jaxir.config import EncoderConfig
from jaxir.models import attention
from jaxir.models.dropout import attention_dropout


def attention_inputs():
    keys = jax.random.split(jax.random.key(3), 3)
    query, key, value = (jax.random.normal(k, (3, 5, 2, 4)) for k in keys)
    return query, key, value, jnp.arange(5)[None] < jnp.array([[5], [3], [1]])


def test_attention_matches_float64():
    query, key, value, mask = attention_inputs()
    places = attention.padded_layout(EncoderConfig(), mask, None)
    ours = attention.attention(query, key, value, places)
    q, k, v = (np.asarray(x, np.float64) for x in (query, key, value))
    scores = np.einsum("blhk,bmhk->bhlm", q, k) / np.sqrt(4)
    weights = np.where(np.asarray(mask)[:, None, None], np.exp(scores), 0)
    weights /= weights.sum(-1, keepdims=True)
    np.testing.assert_allclose(ours, np.einsum("bhlm,bmhk->blhk", weights, v), atol=1e-6)


def test_the_fused_kernel_gets_a_mask_as_large_as_the_scores(monkeypatch):
    """cuDNN's refuses one that is to be repeated; here another kernel stands in for it."""
    query, key, value, mask = attention_inputs()
    places = attention.padded_layout(EncoderConfig(), mask, None)
    expected = attention.attention(query, key, value, places)
    kernel = jax.nn.dot_product_attention

    def checked(query, key, value, mask, implementation):
        assert implementation == "cudnn"
        assert mask.shape == (len(query), 1, query.shape[1], key.shape[1])
        return kernel(query, key, value, mask=mask)

    monkeypatch.setattr(attention, "_has_fused_attention", lambda dtype: True)
    monkeypatch.setattr(jax.nn, "dot_product_attention", checked)
    fused = attention.attention(query, key, value, places)
    np.testing.assert_allclose(fused, expected, atol=1e-5)


def test_attention_dropout_keeps_the_mean():
    query, key, value, mask = attention_inputs()
    many = seeds(1, 12_000).reshape(4000, 3)

    def attend(own):
        places = attention.padded_layout(EncoderConfig(), mask, own)
        return attention.attention(query, key, value, places, 0.3)

    dropped = jax.vmap(attend)(many)
    assert np.std(dropped, axis=0).max() > 0.1
    plain = attend(None)
    np.testing.assert_allclose(np.mean(dropped, axis=0), plain, atol=0.08)


def several_texts(rate):
    """Places of packed rows, the last with padding, which attends to nothing."""
    segments = jnp.array([[1, 1, 2, 2, 2], [1, 1, 1, 1, 1], [1, 2, 3, 0, 0]])
    return attention.packed_layout(segments, seeds(2, 9).reshape(3, 3) if rate else None)


def plainly(query, key, value, places, rate):
    """The same, written down as it is defined, for JAX to derive."""
    scores = jnp.einsum("blhk,bmhk->bhlm", query, key) / query.shape[-1] ** 0.5
    scores = jnp.where(places.attention_mask[:, None], scores, jnp.finfo(jnp.float32).min)
    probabilities = jax.nn.softmax(scores)
    if rate:
        probabilities = attention_dropout(probabilities, rate, places.seeds, places.positions)
    return jnp.einsum("bhlm,bmhk->blhk", probabilities, value)


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_gradients_match_those_that_jax_derives(rate):
    *inputs, _ = attention_inputs()
    places = several_texts(rate)
    upstream = jax.random.normal(jax.random.key(4), inputs[0].shape)
    results = [
        jax.vjp(lambda *x, call=call: call(*x, places, rate), *inputs)
        for call in (plainly, attention.attention)
    ]
    (expected, derived), (found, ours) = results
    np.testing.assert_allclose(found, expected, atol=1e-6)
    for name, ours_of, expected_of in zip("qkv", ours(upstream), derived(upstream), strict=True):
        np.testing.assert_allclose(ours_of, expected_of, atol=2e-6, err_msg=name)
        assert np.abs(expected_of).max() > 0.1


def test_products_are_in_bfloat16_and_gradients_near_those_of_float32():
    inputs = [x.astype(jnp.bfloat16) for x in attention_inputs()[:3]]
    places = several_texts(0.3)

    def loss(*x):
        return (attention.attention(*x, places, 0.3).astype(jnp.float32) ** 2).sum()

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
    operands = re.findall(
        r"stablehlo.dot_general .*: \((.*)\) ->", gradient.lower(*inputs).as_text()
    )
    assert len(operands) == 7  # two, and for the backward pass one of them again and four
    assert all(pair.count("xbf16") == 2 for pair in operands)
    exact = gradient(*(x.astype(jnp.float32) for x in inputs))
    for half, whole in zip(gradient(*inputs), exact, strict=True):
        assert half.dtype == jnp.bfloat16
        assert 0 < np.abs(half.astype(jnp.float32) - whole).max() < 0.05 * np.abs(whole).max()


def test_remat_of_products_keeps_what_is_attended():
    """The backward pass computes the scores again, and nothing else of attention."""
    *inputs, _ = attention_inputs()
    places = several_texts(0.3)

    def products(policy):
        attend = jax.checkpoint(
            lambda *x: attention.attention(*x, places, 0.3) * 1.0, policy=policy
        )
        gradient = jax.grad(lambda *x: (attend(*x) ** 2).sum(), argnums=(0, 1, 2))
        text = jax.jit(gradient).lower(*inputs).as_text()
        return text.count("stablehlo.dot_general")

    policies = jax.checkpoint_policies
    assert products(policies.save_only_these_names(*attention.SAVED_NAMES)) == 7
    assert products(policies.nothing_saveable) == 9
