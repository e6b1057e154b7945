"""The encoder against PyTorch's answers on file, float64 NumPy, and what must change nothing."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_dropout import seeds

from jaxir.config import ARCHITECTURES, DualEncoderConfig, EncoderConfig
from jaxir.errors import UserError
from jaxir.models import encoder
from jaxir.models.attention import padded_layout
from jaxir.models.dual_encoder import abstract_params, hidden_states, init_params
from jaxir.models.hf import read_model

FIXTURES = Path(__file__).parent / "fixtures"


def tiny(architecture="xlm-roberta", compute_dtype="float32", **shape) -> DualEncoderConfig:
    defaults = {"vocab_size": 30, "hidden_size": 16, "layers": 2, "heads": 2}
    defaults |= {"intermediate_size": 24, "positions": 20, "token_types": 2}
    encoder_config = EncoderConfig(architecture=architecture, **defaults | shape)
    return DualEncoderConfig(encoder_config, compute_dtype=compute_dtype)


def run(config, params, ids, mask):
    return jax.jit(lambda *inputs: hidden_states(config, *inputs))(params, ids, mask)


def batch(rows=4, length=7):
    rng = np.random.default_rng(0)
    mask = np.arange(length)[None] < rng.integers(1, length + 1, rows)[:, None]
    return np.where(mask, rng.integers(3, 30, mask.shape), 1).astype(np.int32), mask


@pytest.mark.parametrize("name", ["xlm_roberta", "xlm_roberta_xl", "bert", "labse"])
def test_every_layer_matches_pytorch(name):
    model = read_model(FIXTURES / name)
    model.config.compute_dtype = "float32"
    expected = np.load(FIXTURES / name / "expected.npz")
    states = run(model.config, model.params, expected["ids"], expected["mask"])
    assert states.shape == expected["hidden_states"].shape
    for ours, theirs in zip(states, expected["hidden_states"]):
        np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_padding_changes_nothing(architecture):
    config = tiny(architecture)
    params = init_params(config, jax.random.key(0))
    ids, mask = batch()
    wider = [
        np.pad(x, ((0, 0), (0, 5)), constant_values=value) for x, value in ((ids, 1), (mask, 0))
    ]
    wider[0][:, -2:] = 9  # whatever stands under the mask
    ours = run(config, params, ids, mask)
    theirs = run(config, params, *wider)[:, :, : ids.shape[1]]
    np.testing.assert_allclose(ours[:, mask], theirs[:, mask], atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_left_padding_shifts_xlm_r_only(architecture):
    config = tiny(architecture)
    params = init_params(config, jax.random.key(0))
    ids, mask = batch()
    moved = [
        np.pad(x, ((0, 0), (3, 0)), constant_values=value) for x, value in ((ids, 1), (mask, 0))
    ]
    ours = run(config, params, ids, mask)
    theirs = run(config, params, *moved)[:, :, 3:]
    same = np.allclose(ours[:, mask], theirs[:, mask], atol=1e-5)
    assert same == (architecture != "bert")


def test_dropout_is_in_every_layer_and_only_with_seeds():
    config = tiny(dropout=0.5, attention_dropout=0.0)
    params = init_params(config, jax.random.key(0))
    module = encoder.Encoder(config.encoder, jnp.float32, encoder.nnx.Rngs(0))
    encoder.nnx.update(module, params["encoder"])
    ids, mask = map(jnp.asarray, batch())

    @jax.jit
    def forward(own):
        return module(ids, padded_layout(config.encoder, mask, own), all_states=True)

    one, two = (seeds(run, len(ids)) for run in (1, 2))
    plain, first, again, other = map(forward, (None, one, one, two))
    np.testing.assert_allclose(plain, run(config, params, ids, mask), atol=1e-5)
    np.testing.assert_array_equal(first, again)
    for a, b, c in zip(plain, first, other):
        assert np.abs(a - b).max() > 0.1
        assert np.abs(b - c).max() > 0.1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_compiled_program_does_not_grow_with_depth(architecture):
    def lines(layers):
        config = tiny(architecture, layers=layers)
        ids, mask = batch()
        forward = jax.jit(lambda params: hidden_states(config, params, ids, mask))
        return forward.lower(abstract_params(config)).as_text().count("\n")

    assert lines(2) == lines(12)


def test_bfloat16_computes_in_bfloat16_and_answers_in_float32():
    config = tiny(compute_dtype="bfloat16")
    params = init_params(config, jax.random.key(0))
    ids, mask = batch()
    text = jax.jit(lambda p: hidden_states(config, p, ids, mask)).lower(params).as_text()
    products = re.findall(r"stablehlo.dot_general .*: \((.*)\) ->", text)
    assert len(products) == 8  # of one layer: four projections, two of attention, two feed-forward
    assert all(operands.count("xbf16") == 2 for operands in products)
    states = run(config, params, ids, mask)
    assert states.dtype == jnp.float32
    exact = run(tiny(), params, ids, mask)
    assert 0 < np.abs(states - exact).max() < 0.1


def test_an_id_beyond_the_vocabulary_shows():
    config = tiny()
    ids, mask = batch()
    params = init_params(config, jax.random.key(0))
    ids[0, 0] = config.encoder.vocab_size
    states = run(config, params, ids, mask)
    assert np.isnan(states[-1, 0]).all()
    assert np.isfinite(states[-1, 1:]).all()


@pytest.mark.parametrize(("architecture", "longest"), [("xlm-roberta", 18), ("bert", 20)])
def test_texts_longer_than_the_positions_are_an_error(architecture, longest):
    config = tiny(architecture)
    params = abstract_params(config)
    whole = [jnp.ones((2, longest), kind) for kind in (int, bool)]
    jax.eval_shape(
        lambda p: hidden_states(config, p, *whole), init_params(config, jax.random.key(0))
    )
    longer = [jnp.ones((2, longest + 1), kind) for kind in (int, bool)]
    with pytest.raises(UserError, match=f"{longest + 1} tokens: .* {longest}"):
        jax.eval_shape(lambda p: hidden_states(config, p, *longer), params)
