"""The step: the same on one device and on eight, learning, and differing where it should."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxir.config import (
    Config,
    EncoderConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    ScaleConfig,
)
from jaxir.errors import UserError
from jaxir.runtime import mesh as mesh_module
from jaxir.runtime.mesh import make_mesh, process_rows, replicate, to_devices
from jaxir.training.optimizer import decayed, learning_rate
from jaxir.training.retrieval import RETRIEVAL
from jaxir.training.step import TrainStep, init_state, make_state, matmul_flops

BATCH = 16


def _config(**options):
    encoder = EncoderConfig(
        vocab_size=50,
        hidden_size=16,
        layers=2,
        heads=2,
        intermediate_size=32,
        positions=20,
        dropout=options.pop("dropout", 0.0),
        attention_dropout=0.0,
    )
    model = ModelConfig(encoder=encoder, compute_dtype="float32", projection=8)
    optimizer = OptimizerConfig(learning_rate=1e-2, warmup_steps=0)
    return Config(steps=30, batch_size=BATCH, model=model, optimizer=optimizer, **options)


def _batch(negatives=1):
    rng = np.random.default_rng(0)
    passages = BATCH * (1 + negatives)
    lengths = rng.integers(3, 12, passages).astype(np.int32)
    lengths[1 :: 1 + negatives][::3] = 0
    clusters = np.full(passages, -1, np.int32)
    clusters[:: 1 + negatives] = np.arange(BATCH) // 2
    ids = rng.integers(4, 50, (passages, 12)).astype(np.int32)
    return {
        "query_ids": ids[:BATCH, :10].copy(),
        "query_lengths": rng.integers(3, 10, BATCH).astype(np.int32),
        "query_cluster": (np.arange(BATCH) // 2).astype(np.int32),
        "passage_ids": ids,
        "passage_lengths": lengths,
        "passage_cluster": clusters,
    }


def _on(devices, function):
    mesh = jax.make_mesh((devices,), ("data",), devices=jax.devices()[:devices])
    with jax.set_mesh(mesh):
        return jax.device_get(function(mesh))


@pytest.mark.parametrize("dropout", [pytest.param(0.0, marks=pytest.mark.slow), 0.2])
def test_one_device_and_eight_have_one_loss_and_gradient(dropout):
    config = _config(dropout=dropout, loss=LossConfig(learned_temperature=True, matryoshka=(4,)))

    def gradient(mesh):
        state = replicate(init_state(config, None, RETRIEVAL), mesh)
        seed = jnp.uint32(5) if dropout else None
        function = jax.value_and_grad(lambda p, b: RETRIEVAL.loss(p, {}, b, config, 0, seed)[0])
        return jax.jit(function)(state["params"], to_devices(_batch(), mesh))

    (one_loss, one), (eight_loss, eight) = _on(1, gradient), _on(8, gradient)
    assert one_loss == pytest.approx(eight_loss, abs=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one, eight)
    assert np.abs(one["log_temperature"]) > 1e-6


def _gradient(config, dropout, devices=8, replicas=1):
    """Loss and gradient of the batch on a mesh, parameters placed by the config's rule."""
    shape = (replicas, devices // replicas)
    mesh = jax.make_mesh(shape, ("replica", "data"), devices=jax.devices()[:devices])
    with jax.set_mesh(mesh):
        state = make_state(config, None, mesh, RETRIEVAL)
        seed = jnp.uint32(5) if dropout else None
        function = jax.value_and_grad(lambda p, b: RETRIEVAL.loss(p, {}, b, config, 0, seed)[0])
        loss, gradient = jax.jit(function)(state["params"], to_devices(_batch(), mesh))
        return float(loss), jax.device_get(replicate(gradient, mesh)), state


@functools.cache
def _plain_gradient(devices=8):
    """What each variant of the step is held against."""
    return _gradient(_config(dropout=0.2), 0.2, devices)


def _assert_same(one, other):
    assert one[0] == pytest.approx(other[0], abs=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one[1], other[1])


@pytest.mark.parametrize(
    ("devices", "grad_cache_chunk"), [pytest.param(1, 4, marks=pytest.mark.slow), (8, 1)]
)
def test_gradient_caching_changes_nothing(devices, grad_cache_chunk):
    config = _config(dropout=0.2, scale=ScaleConfig(grad_cache_chunk=grad_cache_chunk))
    _assert_same(_gradient(config, 0.2, devices), _plain_gradient(devices))


@pytest.mark.parametrize("remat", [pytest.param("products", marks=pytest.mark.slow), "layers"])
def test_remat_changes_nothing(remat):
    config = _config(dropout=0.2)
    config.model.remat = remat
    _assert_same(_gradient(config, 0.2), _plain_gradient())


def test_fsdp_changes_nothing_but_where_things_stand(monkeypatch):
    replicas, plain = 2, _plain_gradient()
    monkeypatch.setattr(mesh_module, "SPLIT_FROM", 1)
    config = _config(
        dropout=0.2, scale=ScaleConfig(fsdp=True, replicas=replicas, grad_cache_chunk=1)
    )
    loss, gradient, state = _gradient(config, 0.2, replicas=replicas)
    _assert_same((loss, gradient), plain)
    kernels = state["params"]["model"]["encoder"]["layers"]["intermediate"]["kernel"]
    moments = state["optimizer"][1][0].mu["model"]["encoder"]["layers"]["intermediate"]["kernel"]
    for leaf in (kernels, moments):
        # layers are stacked along the first axis, which is not split
        assert leaf.sharding.spec == jax.sharding.PartitionSpec(None, None, "data")
        assert leaf.addressable_shards[0].data.size == leaf.size * replicas / 8
    table = state["params"]["model"]["encoder"]["token_embedding"]["embedding"]
    assert table.addressable_shards[0].data.size == table.size * replicas / 8


@pytest.mark.slow
def test_steps_with_everything_on_learn_like_plain_ones(monkeypatch):
    monkeypatch.setattr(mesh_module, "SPLIT_FROM", 1)

    def losses(config):
        mesh = jax.make_mesh((config.scale.replicas, 8 // config.scale.replicas), mesh_module.AXES)
        with jax.set_mesh(mesh):
            state, batch = make_state(config, None, mesh, RETRIEVAL), to_devices(_batch(), mesh)
            step = TrainStep(config, RETRIEVAL)
            found = []
            for _ in range(5):
                state, metrics = step(state, batch)
                found.append(float(metrics["loss"]))
        return found

    config = _config(dropout=0.1, scale=ScaleConfig(grad_cache_chunk=1, fsdp=True, replicas=2))
    config.model.remat = "layers"
    plain = losses(_config(dropout=0.1))
    np.testing.assert_allclose(losses(config), plain, atol=1e-4)
    rounded = losses(_config(dropout=0.1, scale=ScaleConfig(gradient_dtype="bfloat16")))
    np.testing.assert_allclose(rounded, plain, atol=0.05)
    assert rounded != plain


def test_impossible_scales_are_refused():
    for scale, message in (
        (ScaleConfig(replicas=3), "replicas = 3: must divide the 8 devices"),
        (ScaleConfig(grad_cache_chunk=4), "grad_cache_chunk = 4: must divide the 2 pairs"),
    ):
        config = _config(scale=scale)
        config.evaluation.batch_tokens = 256
        with pytest.raises(UserError, match=message):
            make_mesh(config)


def test_dropout_matters_and_follows_the_seed():
    config = _config(dropout=0.3)

    def losses(mesh):
        params = replicate(init_state(config, None, RETRIEVAL), mesh)["params"]
        batch = to_devices(_batch(), mesh)
        loss = jax.jit(lambda seed: RETRIEVAL.loss(params, {}, batch, config, 0, seed)[0])
        return [loss(x if x is None else jnp.uint32(x)) for x in (None, 1, 1, 2)]

    plain, first, again, other = _on(8, losses)
    assert first == again
    assert len({float(plain), float(first), float(other)}) == 3


def test_steps_learn_a_batch_and_donate_the_state():
    config = _config()

    def run(mesh):
        state = replicate(init_state(config, None, RETRIEVAL), mesh)
        batch = to_devices(_batch(), mesh)
        step = TrainStep(config, RETRIEVAL)
        cost = step.compile(state, batch)
        assert cost.peak_bytes > cost.argument_bytes > 1e4
        losses = []
        before = state
        for _ in range(30):
            state, metrics = step(state, batch)
            losses.append(metrics["loss"])
        assert before["params"]["model"]["encoder"]["layers"] is not None
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before["params"]))
        return losses, state["step"]

    losses, steps = _on(8, run)
    assert losses[-1] < 0.5 * losses[0]
    assert steps == 30


def test_flops_of_a_loop_count_as_often_as_it_turns():
    def stack(x, weights):
        return jax.lax.scan(lambda x, w: (x @ w, None), x, weights)[0].sum()

    x, weights = jnp.ones((3, 4)), jnp.ones((5, 4, 4))
    assert matmul_flops(jax.make_jaxpr(stack)(x, weights).jaxpr) == 5 * 2 * 3 * 4 * 4
    # backwards: one product for the input's gradient and one for the weights'
    both = jax.make_jaxpr(jax.jit(jax.grad(stack, argnums=(0, 1))))(x, weights).jaxpr
    assert matmul_flops(both) == 3 * 5 * 2 * 3 * 4 * 4


def test_flops_are_those_of_all_devices():
    def flops(devices):
        mesh = jax.make_mesh((devices,), ("data",), devices=jax.devices()[:devices])
        with jax.set_mesh(mesh):
            params = replicate(init_state(_config(), None, RETRIEVAL), mesh)["params"]
            batch = to_devices(_batch(), mesh)
            loss = jax.make_jaxpr(lambda p, b: RETRIEVAL.loss(p, {}, b, _config(), 0, None)[0])
            return matmul_flops(loss(params, batch).jaxpr)

    assert flops(1) == flops(8) > 1e5


def test_weight_decay_spares_biases_and_scales():
    config = _config(loss=LossConfig(learned_temperature=True))
    params = init_state(config, None, RETRIEVAL)["params"]
    names = {
        "/".join(key.key for key in path): flag
        for path, flag in jax.tree_util.tree_leaves_with_path(decayed(params))
    }
    assert any(names.values())
    for name, flag in names.items():
        leaf = name.split("/")[-1]
        assert flag == (leaf in ("kernel", "embedding")), name


@pytest.mark.parametrize(
    ("schedule", "half"), [("cosine", 0.5), ("linear", 0.5), ("constant", 1.0)]
)
def test_learning_rate_warms_up_and_comes_down(schedule, half):
    config = OptimizerConfig(learning_rate=2.0, warmup_steps=10, schedule=schedule)
    rate = learning_rate(config, 110)
    assert float(rate(0)) == 0.0
    assert float(rate(5)) == pytest.approx(1.0)
    assert float(rate(10)) == pytest.approx(2.0)
    assert float(rate(60)) == pytest.approx(2.0 * half, rel=1e-5)
    assert float(rate(110)) == pytest.approx(0.0 if schedule != "constant" else 2.0, abs=1e-6)


def test_adamw_agrees_with_float64():
    """Five steps of AdamW with clipping, written out."""
    from jaxir.training.optimizer import make_optimizer

    config = OptimizerConfig(
        learning_rate=0.1,
        warmup_steps=0,
        schedule="constant",
        weight_decay=0.1,
        clip_norm=0.5,
        beta2=0.9,
    )
    rng = np.random.default_rng(0)
    weight = rng.normal(size=6)
    params = {"kernel": jnp.asarray(weight, jnp.float32)}
    optimizer = make_optimizer(config, 10)
    state = optimizer.init(params)
    first, second = np.zeros(6), np.zeros(6)
    for number in range(1, 6):
        gradient = rng.normal(size=6)
        updates, state = optimizer.update(
            {"kernel": jnp.asarray(gradient, jnp.float32)}, state, params
        )
        params = jax.tree.map(jnp.add, params, updates)
        gradient *= min(1.0, 0.5 / np.linalg.norm(gradient))
        first = 0.9 * first + 0.1 * gradient
        second = 0.9 * second + 0.1 * gradient**2
        step = (first / (1 - 0.9**number)) / (np.sqrt(second / (1 - 0.9**number)) + 1e-8)
        weight = weight - 0.1 * (step + 0.1 * weight)
    np.testing.assert_allclose(params["kernel"], weight, rtol=1e-5)


def test_a_process_holds_its_contiguous_rows():
    config = _config()
    config.evaluation.batch_tokens = 256
    mesh = make_mesh(config)
    assert process_rows(mesh, BATCH) == slice(0, BATCH)


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(UserError, match="batch_size = 12: must be a multiple of the 8 devices"):
        make_mesh(dataclasses.replace(_config(), batch_size=12))


def test_the_seed_decides_the_weights():
    a, b = (
        init_state(dataclasses.replace(_config(), seed=seed), None, RETRIEVAL)["params"]
        for seed in (1, 2)
    )
    kernels = [p["model"]["projection"]["kernel"] for p in (a, b)]
    assert not np.allclose(*kernels)
