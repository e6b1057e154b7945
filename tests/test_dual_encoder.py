"""Embeddings against float64 NumPy, on 1 and 8 devices, and at the edges."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from test_dropout import seeds

from jaxir.config import ARCHITECTURES, DualEncoderConfig, EncoderConfig
from jaxir.models.dual_encoder import (
    abstract_params,
    embed,
    embed_packed,
    hidden_states,
    init_params,
    l2_normalize,
)
from jaxir.models.hf import read_model

FIXTURES = Path(__file__).parent / "fixtures"


def tiny(architecture="xlm-roberta", **options) -> DualEncoderConfig:
    shape = {"vocab_size": 32, "hidden_size": 16, "layers": 2, "heads": 2}
    shape |= {"intermediate_size": 24, "positions": 20}
    encoder = EncoderConfig(architecture=architecture, **shape)
    return DualEncoderConfig(encoder, **{"compute_dtype": "float32"} | options)


def batch(rows=16, length=6):
    rng = np.random.default_rng(0)
    mask = np.arange(length)[None] < np.arange(rows)[:, None] % (length + 1)
    return rng.integers(3, 32, mask.shape, np.int32), mask


def spread(params):
    """Larger weights than at the start, so that embeddings differ enough to compare gradients."""
    return jax.tree.map(lambda leaf: leaf * 5 if leaf.ndim > 1 else leaf, params)


def test_labse_matches_sentence_transformers():
    model = read_model(FIXTURES / "labse")
    model.config.compute_dtype = "float32"
    assert (model.config.pooling, model.config.dense, model.config.normalize) == ("cls", 16, True)
    expected = np.load(FIXTURES / "labse/expected.npz")
    ours = embed(model.config, model.params, expected["ids"], expected["mask"])
    np.testing.assert_allclose(ours, expected["embeddings"], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("pooling", "dense", "projection", "normalize"),
    [("cls", 12, 0, True), ("mean", 0, 0, True), ("mean", 0, 8, False), ("cls", 12, 8, False)],
)
def test_head_matches_float64(pooling, dense, projection, normalize):
    config = tiny(pooling=pooling, dense=dense, projection=projection, normalize=normalize)
    params = spread(init_params(config, jax.random.key(0)))
    ids, mask = batch()
    ids, mask = ids[1:6], mask[1:6]  # rows with at least one token
    states, ours = jax.jit(
        lambda params: (hidden_states(config, params, ids, mask), embed(config, params, ids, mask))
    )(params)
    states, params = jax.tree.map(np.asarray, (states[-1].astype(float), params))
    x = states[:, 0]
    if pooling == "mean":
        x = np.stack([row[kept].mean(0) for row, kept in zip(states, mask)])
    if dense:
        x = np.tanh(x @ params["dense"]["kernel"] + params["dense"]["bias"])
    if projection:
        x = x @ params["projection"]["kernel"]
    if normalize:
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
    assert ours.dtype == jnp.float32
    assert ours.shape == (5, config.embedding_size)
    np.testing.assert_allclose(ours, x, atol=1e-5)


def loss_of(config):
    def loss(params, ids, mask, seeds):
        embeddings = embed(config, params, ids, mask, dropout_seeds=seeds)
        return jnp.mean((embeddings - 0.1) ** 2) * 16, embeddings

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def sharded(leaf):
    """Along the last axis that eight devices divide, as FSDP would; never the axis of layers."""
    axes = [None] * leaf.ndim
    divisible = [i for i in range(leaf.ndim) if leaf.shape[i] % 8 == 0]
    if divisible:
        axes[divisible[-1]] = "data"
    return jax.device_put(leaf, P(*axes))


@pytest.mark.parametrize(
    ("architecture", "dropout", "placement"),
    [
        ("xlm-roberta", False, "replicated"),
        ("xlm-roberta", True, "sharded"),
        ("xlm-roberta-xl", False, "sharded"),
        ("bert", False, "replicated"),
    ],
)
def test_eight_devices_agree_with_one(architecture, dropout, placement):
    config = tiny(architecture, dense=16, projection=8)
    params = spread(init_params(config, jax.random.key(0)))
    ids, mask = batch()
    step = loss_of(config)

    every = seeds(1, len(ids)) if dropout else None
    alone = step(params, ids, mask, every)
    with jax.set_mesh(jax.make_mesh((8,), ("data",))):
        rows = [x if x is None else jax.device_put(x, P("data")) for x in (ids, mask, every)]
        if placement == "sharded":
            placed = jax.tree.map(sharded, params)
        else:
            placed = jax.device_put(params, P())
        (value, embeddings), gradient = step(placed, *rows)
        assert jax.typeof(embeddings).sharding.spec == P("data", None)
        specs = [
            jax.tree.map(lambda leaf: str(jax.typeof(leaf).sharding.spec), tree)
            for tree in (placed, gradient)
        ]
        assert specs[0] == specs[1]
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, np.asarray(y), atol=1e-5),
        alone,
        ((value, embeddings), gradient),
    )


def test_dropout_needs_seeds_and_depends_on_them():
    config = tiny()
    params = init_params(config, jax.random.key(0))
    run = jax.jit(lambda seeds: embed(config, params, *batch(), dropout_seeds=seeds))
    rows = len(batch()[0])
    one, two = (seeds(number, rows) for number in (1, 2))
    plain, first, again, other = (np.asarray(run(x)) for x in (None, one, one, two))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - plain).max() > 1e-2
    assert np.abs(first - other).max() > 1e-2


def packed(ids, mask, rows, seeds_of_texts):
    """The texts of a batch, three a row where they fit, with padding at the end of each."""
    width, texts = 20, 4
    row_ids, segments = np.full((rows, width), 1, np.int32), np.zeros((rows, width), np.int32)
    own = np.zeros((rows, texts), np.uint32)
    where = {}
    for number, (text, kept) in enumerate(zip(ids, mask)):
        row, slot, length = number % rows, number // rows, kept.sum()
        start = int((segments[row] > 0).sum())
        row_ids[row, start : start + length] = text[:length]
        segments[row, start : start + length] = slot + 1
        own[row, slot] = 0 if seeds_of_texts is None else seeds_of_texts[number]
        where[number] = (row, slot)
    return row_ids, segments, texts, own, where


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_texts_that_share_rows_are_embedded_as_each_alone(architecture, pooling, dropout):
    config = tiny(architecture, pooling=pooling, dense=16)
    params = spread(init_params(config, jax.random.key(0)))
    ids, mask = batch()
    every = seeds(1, len(ids)) if dropout else None
    row_ids, segments, texts, own, where = packed(ids, mask, 6, every)
    own = jnp.asarray(own) if dropout else None
    rows, slots = map(np.array, zip(*where.values()))
    target = jax.random.normal(jax.random.key(5), (len(ids), config.embedding_size))

    def alone(params):
        return embed(config, params, ids, mask, dropout_seeds=every)

    def together(params):
        found = embed_packed(config, params, row_ids, segments, texts, dropout_seeds=own)
        return found[rows, slots]

    def both(embeddings):
        return jax.jit(jax.value_and_grad(lambda p: ((embeddings(p) - target) ** 2).sum() / 16))(
            params
        ), jax.jit(embeddings)(params)

    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), both(alone), both(together)
    )


@pytest.mark.parametrize(("pooling", "dropout"), [("cls", False), ("mean", True)])
def test_rows_of_padding_alone_give_no_nan(pooling, dropout):
    config = tiny(pooling=pooling)
    params = init_params(config, jax.random.key(0))
    ids, mask = batch()
    assert not mask[0].any()
    every = seeds(1, len(ids)) if dropout else None
    (_, embeddings), gradient = loss_of(config)(params, ids, mask, every)
    np.testing.assert_array_equal(embeddings[0], 0)
    assert np.isfinite(embeddings).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_gradient_matches_finite_differences():
    config = tiny()
    params = spread(init_params(config, jax.random.key(0)))
    ids, mask = batch(4)
    step = loss_of(config)
    _, gradient = step(params, ids, mask, None)
    squares = sum(float(jnp.sum(g * g)) for g in jax.tree.leaves(gradient))
    size = 1e-2 / np.sqrt(squares)
    up, down = (
        step(jax.tree.map(lambda p, g, s=s: p + s * g, params, gradient), ids, mask, None)[0][0]
        for s in (size, -size)
    )
    np.testing.assert_allclose((up - down) / (2 * size), squares, rtol=2e-2)


def test_normalised_rows_have_length_one():
    x = jnp.array([[3.0, 4.0], [1e-20, 0.0], [0.0, 0.0]])
    np.testing.assert_allclose(l2_normalize(x), [[0.6, 0.8], [1e-8, 0], [0, 0]], rtol=1e-6)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_parameters_start_as_berts_do(architecture):
    config = tiny(architecture, dense=16, projection=8)
    params = init_params(config, jax.random.key(0))
    leaves = jax.tree_util.tree_leaves_with_path(params)
    assert {path[-1].key for path, _ in leaves} == {"kernel", "bias", "scale", "embedding"}
    for path, leaf in leaves:
        assert leaf.dtype == jnp.float32
        start = {"bias": 0.0, "scale": 1.0}.get(path[-1].key)
        if start is None:
            np.testing.assert_allclose(np.std(leaf), 0.02, rtol=0.25, err_msg=str(path))
        else:
            np.testing.assert_array_equal(leaf, start)
    kernels = params["encoder"]["layers"]
    assert np.abs(kernels["query"]["kernel"][0] - kernels["query"]["kernel"][1]).max() > 0.01
    assert np.abs(kernels["query"]["kernel"] - kernels["key"]["kernel"]).max() > 0.01
    abstract = abstract_params(config)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda leaf: leaf.shape, abstract)


def test_defaults_are_xlm_r_base():
    shapes = [leaf.shape for leaf in jax.tree.leaves(abstract_params(DualEncoderConfig()))]
    attention, feed_forward, norms = 4 * (768**2 + 768), 2 * 768 * 3072 + 3072 + 768, 4 * 768
    embeddings = (250_002 + 514 + 1 + 2) * 768
    assert sum(map(np.prod, shapes)) == embeddings + 12 * (attention + feed_forward + norms)


def test_configs_are_left_as_they_are():
    config = tiny()
    before = dataclasses.asdict(config)
    jax.eval_shape(lambda params: embed(config, params, *batch()), abstract_params(config))
    assert dataclasses.asdict(config) == before
