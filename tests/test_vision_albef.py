"""ALBEF's losses, momentum model and queues against float64 NumPy, on one device and on eight."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxir.config import AlbefConfig, AlbefLossConfig, AlbefModelConfig, EncoderConfig, VitConfig
from jaxir.errors import UserError
from jaxir.models.dropout import fold_in
from jaxir.runtime import mesh as mesh_module
from jaxir.runtime.mesh import replicate, to_devices
from jaxir.vision.models.albef import (
    image_features,
    image_states,
    init_params,
    match_scores,
    module,
    text_features,
)
from jaxir.vision.training import albef_loss, pair_losses
from jaxir.vision.training.albef_loss import alpha_at, total_loss
from jaxir.vision.training.losses import (
    FeatureBlock,
    ModalityFeatures,
    contrast,
    hard_negatives,
    match_loss,
    token_losses,
)
from jaxir.vision.training.masking import mask_tokens
from jaxir.vision.training.momentum import init_aux, push, update_ema

B, E, G, L, S = 16, 6, 24, 9, 8
GROUP = (np.arange(B) // 2).astype(np.int32)
TEMPERATURE, ALPHA = 0.2, 0.3
SPECIAL = (0, 1, 2, 3)


def _unit(rng, rows):
    x = rng.normal(size=(rows, E))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def _contrast_inputs(filled):
    rng = np.random.default_rng(filled)
    left, right = ([_unit(rng, B), _unit(rng, B), _unit(rng, G)] for _ in range(2))
    queue_group = np.where(np.arange(G) < filled, rng.integers(0, B, G), -1).astype(np.int32)
    return left, right, queue_group


def _log_softmax(scores):
    top = scores.max(axis=-1, keepdims=True)
    return scores - top - np.log(np.exp(scores - top).sum(axis=-1, keepdims=True))


def _direction(left, right, queue_group, alpha):
    """Float64, row by row; without a momentum model left and right hold one array each."""
    every, groups = right[0], GROUP
    if len(right) > 1:
        here = queue_group >= 0
        every = np.concatenate([right[1], right[2][here]])
        groups = np.concatenate([GROUP, queue_group[here]])
    log_p = _log_softmax(left[0] @ every.T / TEMPERATURE)
    total = 0.0
    for i in range(B):
        hard = (groups == GROUP[i]) / np.sum(groups == GROUP[i])
        target = hard
        if len(left) > 1:
            soft = np.exp(_log_softmax(left[1][i] @ every.T / TEMPERATURE))
            target = alpha * soft + (1 - alpha) * hard
        total -= np.sum(target * log_p[i])
    best = log_p.argmax(axis=1)
    return total / B, np.mean(groups[best] == GROUP)


def _contrast_oracle(left, right, queue_group):
    forth, accuracy = _direction(left, right, queue_group, ALPHA)
    return (forth + _direction(right, left, queue_group, ALPHA)[0]) / 2, accuracy


@pytest.mark.parametrize("filled", [0, 10, None], ids=["empty", "part", "no-momentum"])
def test_contrast_equals_the_definition(mesh, filled):
    left, right, queue_group = _contrast_inputs(filled or 0)
    if filled is None:
        left, right = left[:1], right[:1]

    def loss(left, right, queue_group, group):
        sides = []
        for side in (left, right):
            queue = FeatureBlock(side[2], queue_group) if len(side) > 1 else None
            sides.append(ModalityFeatures(side[0], side[1] if len(side) > 1 else None, queue))
        return contrast(*sides, group, jnp.float32(TEMPERATURE), jnp.float32(ALPHA))

    by_row = NamedSharding(mesh, P("data"))
    arrays = jax.tree.map(lambda x: x.astype(np.float32), (left, right))
    arrays = jax.device_put((*arrays, queue_group, GROUP), by_row)
    gradient = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    (value, accuracy), slopes = jax.jit(gradient)(*arrays)
    expected, expected_accuracy = _contrast_oracle(left, right, queue_group)
    assert value == pytest.approx(expected, abs=1e-5)
    assert accuracy == pytest.approx(expected_accuracy)
    for side, slope in zip(range(2), slopes):
        direction = np.random.default_rng(5).normal(size=(B, E))
        steps = []
        for sign in (1, -1):
            sides = [list(left), list(right)]
            sides[side][0] = sides[side][0] + sign * 1e-5 * direction
            steps.append(_contrast_oracle(*sides, queue_group)[0])
        along = np.sum(np.asarray(slope[0], np.float64) * direction)
        assert along == pytest.approx((steps[0] - steps[1]) / 2e-5, abs=1e-5)
        for nothing in slope[1:]:
            assert not np.any(nothing)


def test_negatives_are_the_same_on_any_devices_and_of_another_group():
    rng = np.random.default_rng(0)
    anchors, candidates = (_unit(rng, B).astype(np.float32) for _ in range(2))
    group = GROUP.copy()

    def draw(devices, group):
        mesh = jax.make_mesh((devices,), ("data",), devices=jax.devices()[:devices])
        with jax.set_mesh(mesh):
            arrays = jax.device_put((anchors, candidates, group), NamedSharding(mesh, P("data")))
            run = jax.jit(lambda *x: hard_negatives(*x, TEMPERATURE, jnp.uint32(7)))
            return jax.device_get(run(*arrays))

    (one, found), (eight, _) = draw(1, group), draw(8, group)
    np.testing.assert_array_equal(one, eight)
    assert found.all()
    assert (group[one] != group).all()
    assert len(set(one.tolist())) > 3
    assert not draw(1, np.zeros_like(group))[1].any()


def test_negatives_come_from_the_softmax_of_other_groups():
    rng = np.random.default_rng(1)
    anchors, candidates = (_unit(rng, B).astype(np.float32) for _ in range(2))
    draws = 4_000
    run = jax.vmap(lambda seed: hard_negatives(anchors, candidates, GROUP, TEMPERATURE, seed)[0])
    picked = np.asarray(jax.jit(run)(jnp.arange(draws, dtype=jnp.uint32)))
    scores = anchors @ candidates.T / TEMPERATURE
    scores[GROUP[:, None] == GROUP[None, :]] = -np.inf
    expected = np.exp(_log_softmax(scores))
    counted = np.stack([np.bincount(picked[:, row], minlength=B) for row in range(B)]) / draws
    spread = np.sqrt(expected * (1 - expected) / draws)
    assert (np.abs(counted - expected) <= 5 * spread).all()


def test_match_loss_equals_the_definition():
    rng = np.random.default_rng(2)
    scores = rng.normal(size=(B, 3, 2))
    found = rng.random((B, 2)) > 0.3
    weights = np.concatenate([np.ones((B, 1)), found], axis=1)
    own = np.take_along_axis(_log_softmax(scores), np.array([1, 0, 0])[None, :, None], 2)[..., 0]
    right = scores.argmax(axis=2) == np.array([[1, 0, 0]])
    loss, accuracy = match_loss(jnp.float32(scores), jnp.asarray(found))
    assert loss == pytest.approx(-np.sum(own * weights) / weights.sum(), abs=1e-5)
    assert accuracy == pytest.approx(np.sum(right * weights) / weights.sum(), abs=1e-5)


@pytest.mark.parametrize("soft", [False, True])
def test_token_losses_equal_the_definition(soft):
    rng = np.random.default_rng(3)
    scores, momentum = 4 * rng.normal(size=(2, 5, 3, 40))
    labels = rng.integers(0, 40, (5, 3))
    hard = np.eye(40)[labels]
    target = ALPHA * np.exp(_log_softmax(momentum)) + (1 - ALPHA) * hard if soft else hard
    expected = -np.sum(target * _log_softmax(scores), axis=2)
    arguments = (jnp.float32(scores), jnp.asarray(labels), jnp.float32(momentum) if soft else None)
    np.testing.assert_allclose(token_losses(*arguments, ALPHA), expected, atol=1e-5, rtol=0)


def test_masks_take_their_share_of_tokens_that_are_not_special():
    rng = np.random.default_rng(4)
    rows, length, size, share = 3_000, 12, 1_000, 0.15
    ids = rng.integers(4, size - 1, (rows, length)).astype(np.int32)
    ids[:, 0], ids[::3, 2] = 0, 3
    lengths = rng.integers(2, length + 1, rows).astype(np.int32)
    ids[np.arange(rows), lengths - 1] = 2
    run = jax.jit(lambda ids, lengths, seeds: mask_tokens(
        ids, lengths, seeds, share, size - 1, SPECIAL, size))  # fmt: skip
    seeds = fold_in(jnp.uint32(9), jnp.arange(rows))
    masked = jax.device_get(run(ids, lengths, seeds))
    maskable = (np.arange(length)[None] < lengths[:, None]) & (ids > 3)
    chosen = np.zeros(ids.shape, bool)
    np.put_along_axis(chosen, masked.positions, masked.chosen, axis=1)
    assert not chosen[~maskable].any()
    assert (masked.ids == ids)[~chosen].all()
    np.testing.assert_array_equal(np.take_along_axis(ids, masked.positions, 1), masked.labels)
    count = chosen.sum(axis=1)
    exact = maskable.sum(axis=1) * share
    assert ((count == np.floor(exact)) | (count == np.ceil(exact))).all()
    total = chosen.sum()
    assert total == pytest.approx(exact.sum(), abs=5 * math.sqrt(rows / 4))
    for row, column in ((1, 1), (1, 9)):  # every place has its turn
        assert chosen[:, column][maskable[:, column]].mean() == pytest.approx(share, abs=0.03 * row)
    as_mask, as_it_was = masked.ids[chosen] == size - 1, masked.ids[chosen] == ids[chosen]
    for part, rate in ((as_mask, 0.8), (as_it_was, 0.1), (~as_mask & ~as_it_was, 0.1)):
        assert part.mean() == pytest.approx(rate, abs=5 * math.sqrt(rate * (1 - rate) / total))
    longer = jax.device_get(run(np.pad(ids, ((0, 0), (0, 4))), lengths, seeds))
    np.testing.assert_array_equal(longer.ids[:, :length], masked.ids)


def test_queues_are_first_in_first_out_on_any_devices(mesh):
    rng = np.random.default_rng(6)
    loss = AlbefLossConfig(queue=G)
    config = AlbefModelConfig(projection=E)
    aux_state = init_aux(config, loss, {"bias": np.zeros(2)})
    aux_state["queues"] = jax.device_put(aux_state["queues"], NamedSharding(mesh, P("data")))
    run = jax.jit(lambda aux_state, batch: push(aux_state, *batch))
    expected = {name: np.asarray(queue) for name, queue in aux_state["queues"].items()}
    place = 0
    for _ in range(4):
        batch = (rng.normal(size=(B, E)), rng.normal(size=(B, E)), rng.integers(0, 99, B))
        batch = tuple(x.astype(d) for x, d in zip(batch, (np.float32, np.float32, np.int32)))
        aux_state = run(aux_state, jax.device_put(batch, NamedSharding(mesh, P("data"))))
        for row in range(B):
            for name, values in zip(("image", "text", "group"), batch):
                expected[name] = expected[name].copy()
                expected[name][place] = values[row]
            place = (place + 1) % G
        for name, queue in expected.items():
            np.testing.assert_array_equal(aux_state["queues"][name], queue)
            assert jax.typeof(aux_state["queues"][name]).sharding.spec[0] == "data"
        assert aux_state["next_slot"] == place


def test_a_queue_shorter_than_the_batch_or_not_split_evenly_is_an_error():
    loss = AlbefLossConfig(queue=B - 1)
    aux_state = init_aux(AlbefModelConfig(projection=E), loss, {})
    rows = jnp.zeros((B, E))
    with pytest.raises(UserError, match=r"config.loss.queue = 15: must be a multiple of the 1 dev"):
        jax.eval_shape(push, aux_state, rows, rows, jnp.asarray(GROUP))


def test_captions_longer_than_the_positions_are_an_error():
    config = _model()
    params = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    ids = jax.ShapeDtypeStruct((B, 11), jnp.int32)
    with pytest.raises(UserError, match="captions of 11 tokens: the model has positions for 10"):
        jax.eval_shape(lambda *x: text_features(config, *x), params, ids, jnp.ones(B, jnp.int32))


def test_momentum_moves_by_its_coefficient_and_passes_no_gradient():
    loss = AlbefLossConfig(momentum_coefficient=0.9)
    old, new = {"kernel": np.float32([1.0, 3.0])}, {"kernel": jnp.float32([2.0, -5.0])}
    np.testing.assert_allclose(update_ema(loss, old, new)["kernel"], [1.1, 2.2], rtol=1e-6)
    slope = jax.grad(lambda new: update_ema(loss, old, new)["kernel"].sum())(new)
    assert not slope["kernel"].any()
    assert init_aux(AlbefModelConfig(), AlbefLossConfig(momentum=False), new) == {}


def test_alpha_grows_to_its_share():
    loss = AlbefLossConfig(alpha=0.4, ramp_steps=10)
    found = [float(alpha_at(loss, jnp.int32(step))) for step in (0, 5, 10, 99)]
    np.testing.assert_allclose(found, [0.0, 0.2, 0.4, 0.4], rtol=1e-6)
    assert alpha_at(dataclasses.replace(loss, ramp_steps=0), jnp.int32(1)) == pytest.approx(0.4)


def _model(dropout=0.0):
    text = EncoderConfig(
        vocab_size=40, hidden_size=16, layers=2, heads=2, intermediate_size=24, positions=12,
        dropout=dropout, attention_dropout=dropout,
    )  # fmt: skip
    vit = VitConfig(S, 4, 12, 1, 2, 16, dropout, dropout)
    return AlbefModelConfig(
        vit, text, text_layers=1, projection=E, compute_dtype="float32", mask_id=39
    )


def _batch(other=True, seed=0):
    rng = np.random.default_rng(seed)

    def texts(width):
        lengths = rng.integers(3, L + 1, B).astype(np.int32) * (width > 0)
        return rng.integers(4, 39, (B, width)).astype(np.int32), lengths

    batch = {"pixels": rng.integers(0, 256, (B, S, S, 3)).astype(np.uint8), "image_group": GROUP}
    batch["caption_ids"], batch["caption_lengths"] = texts(L)
    batch["other_ids"], batch["other_lengths"] = texts(L if other else 0)
    return batch


def _larger(params):
    """Weights with which inputs differ in their outputs, unlike at the start."""
    return jax.tree.map(lambda x: x * 5 if x.ndim > 1 else x, params)


OFF = [
    ({}, {"itc", "itc_accuracy", "itm", "itm_accuracy", "mlm"}),
    ({"itc": False}, {"itm", "itm_accuracy", "mlm"}),
    ({"itm": False}, {"itc", "itc_accuracy", "mlm"}),
    ({"mlm": False}, {"itc", "itc_accuracy", "itm", "itm_accuracy"}),
    ({"itm": False, "mlm": False}, {"itc", "itc_accuracy"}),
    ({"momentum": False}, {"itc", "itc_accuracy", "itm", "itm_accuracy", "mlm"}),
]


@pytest.mark.parametrize(("off", "metrics"), OFF, ids=[str(list(off)) for off, _ in OFF])
def test_each_loss_can_be_off(off, metrics):
    config, loss = _model(), AlbefLossConfig(queue=G, **off)
    params = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    aux_state = jax.eval_shape(lambda params: init_aux(config, loss, params), params)

    def step(params, aux_state, batch):
        return total_loss(config, loss, params, aux_state, batch, 0.4, jnp.uint32(0))

    total, found, after = jax.eval_shape(step, params, aux_state, _batch(other=False))
    assert total.shape == ()
    assert set(found) == metrics | {"loss", "temperature"}
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), aux_state
    )


def test_contrast_alone_without_momentum(mesh):
    """The features of the towers, and the losses of a cross-lingual batch made of them."""
    config = _model()
    loss = AlbefLossConfig(
        itm=False, mlm=False, momentum=False, temperature=TEMPERATURE, text_text=0.5
    )
    params, batch = _larger(init_params(config, jax.random.key(0))), _batch()

    def run(params, batch):
        total, metrics, _ = total_loss(config, loss, params, {}, batch, 0.4, jnp.uint32(0))
        texts = [
            text_features(config, params, batch[f"{name}_ids"], batch[f"{name}_lengths"])
            for name in ("caption", "other")
        ]
        return total, metrics, image_features(config, params, batch["pixels"]), *texts

    total, metrics, *features = jax.jit(run)(replicate(params, mesh), to_devices(batch, mesh))
    image, caption, other = ([np.asarray(x, np.float64)] for x in features)
    for (x,) in (image, caption, other):
        np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, atol=1e-5)
    first, accuracy = _contrast_oracle(image, caption, None)
    itc = (first + _contrast_oracle(image, other, None)[0]) / 2
    text_text = _contrast_oracle(caption, other, None)[0]
    assert metrics["itc"] == pytest.approx(itc, abs=1e-5)
    assert metrics["text_text"] == pytest.approx(text_text, abs=1e-5)
    assert total == pytest.approx(itc + 0.5 * text_text, abs=1e-5)
    assert metrics["itc_accuracy"] == pytest.approx(accuracy)
    assert metrics["temperature"] == pytest.approx(TEMPERATURE)


@pytest.mark.slow
def test_one_device_and_eight_have_one_loss_gradient_and_queue(monkeypatch):
    config, loss = _model(dropout=0.2), AlbefLossConfig(queue=G, mask_share=0.3)
    params = _larger(init_params(config, jax.random.key(0)))

    def step(params, aux_state, batch, seed):
        def total(params):
            loss_, metrics, after = total_loss(config, loss, params, aux_state, batch, 0.4, seed)
            return loss_, (metrics, after)

        slope, (metrics, after) = jax.grad(total, has_aux=True)(params)
        return slope, metrics, after

    monkeypatch.setattr(mesh_module, "SPLIT_FROM", 32)

    def steps(devices):
        """On eight, the parameters are split as well."""
        mesh = jax.make_mesh((devices,), ("data",), devices=jax.devices()[:devices])
        with jax.set_mesh(mesh):
            state = (params, init_aux(config, loss, params))
            shardings = mesh_module.state_shardings(state, mesh, fsdp=devices > 1)
            by_row = NamedSharding(mesh, P("data"))
            shardings[1]["queues"] = jax.tree.map(lambda _: by_row, shardings[1]["queues"])
            placed, aux_state = jax.device_put(state, shardings)
            parts = [leaf.is_fully_replicated for leaf in jax.tree.leaves(placed)]
            assert parts.count(False) > 10 or devices == 1
            run = jax.jit(step)
            for number in range(2):  # the second finds the first's queue, and goes round in it
                batch = to_devices(_batch(seed=number), mesh)
                slope, metrics, aux_state = run(placed, aux_state, batch, jnp.uint32(number))
                placed = jax.tree.map(lambda x, d: x - 1e-2 * d, placed, slope)
            return jax.device_get((slope, metrics, aux_state))

    one, eight = steps(1), steps(8)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5), one, eight)
    slope, metrics, aux_state = one
    assert aux_state["next_slot"] == 2 * B % G
    assert (aux_state["queues"]["group"] >= 0).all()
    for path, leaf in jax.tree_util.tree_leaves_with_path(slope):
        keyless = "bias" in str(path[-1]) and any(f"{k}key" in str(path) for k in ("'", "cross_"))
        assert keyless or np.abs(leaf).max() > 1e-7, path
    assert 0 < metrics["mlm"] < 10


@pytest.mark.slow
def test_the_parts_are_what_the_model_says_of_pairs_and_tokens():
    """Matching and masked tokens, put together from the functions that inference uses."""
    config, loss = _model(), AlbefLossConfig(queue=G, mask_share=0.3, momentum_coefficient=0.7)
    params, other = (_larger(init_params(config, jax.random.key(k))) for k in range(2))
    aux_state = init_aux(config, loss, other)
    batch, seed = _batch(other=False), jnp.uint32(3)

    def run(params, aux_state, batch):
        total, metrics, after = total_loss(config, loss, params, aux_state, batch, ALPHA, seed)
        teacher = update_ema(loss, aux_state["momentum"], params)
        ids, lengths = batch["caption_ids"], batch["caption_lengths"]
        features = [
            (image_features(config, p, batch["pixels"]), text_features(config, p, ids, lengths))
            for p in (params, teacher)
        ]
        images = image_states(config, params, batch["pixels"])
        draws = [
            hard_negatives(anchors, candidates, batch["image_group"], 0.07, fold_in(seed, kind))
            for anchors, candidates, kind in (
                (features[0][1], features[1][0], pair_losses.NEGATIVE_IMAGE),
                (features[0][0], features[1][1], pair_losses.NEGATIVE_TEXT),
            )
        ]
        image, text = (picked for picked, _ in draws)
        odds = [
            match_scores(config, params, images, ids, lengths),
            match_scores(config, params, images[image], ids, lengths),
            match_scores(config, params, images, ids[text], lengths[text]),
        ]
        seeds = fold_in(fold_in(seed, albef_loss.MASKS), jnp.arange(B, dtype=jnp.uint32))
        masked = mask_tokens(ids, lengths, seeds, 0.3, config.mask_id, SPECIAL, 40)
        tokens = []
        for p in (params, teacher):
            model = module(config, p)
            states = model.text_states(masked.ids, lengths, None)
            seen = model.image_states(batch["pixels"], None)
            tokens.append(model.token_scores(model.fuse(states, lengths, seen, None)))
        return total, metrics, after, features, odds, masked, tokens

    total, metrics, after, features, odds, masked, tokens = jax.device_get(
        jax.jit(run)(params, aux_state, batch)
    )
    odds = np.float64(odds)
    itm = np.mean([np.log1p(np.exp(-odds[0])), *np.log1p(np.exp(odds[1:]))])
    assert metrics["itm"] == pytest.approx(itm, abs=1e-5)
    assert metrics["itm_accuracy"] == pytest.approx(np.mean([odds[0] > 0, *(odds[1:] <= 0)]))
    online, teacher = (
        _log_softmax(np.take_along_axis(np.float64(x), masked.positions[:, :, None], 1))
        for x in tokens
    )
    target = ALPHA * np.exp(teacher) + (1 - ALPHA) * np.eye(40)[masked.labels]
    each = -np.sum(target * online, axis=2)
    assert metrics["mlm"] == pytest.approx(each[masked.chosen].mean(), abs=1e-5)
    assert total == pytest.approx(metrics["itc"] + metrics["itm"] + metrics["mlm"], abs=1e-5)
    np.testing.assert_allclose(after["queues"]["image"][:B], features[1][0], atol=1e-6)
    np.testing.assert_allclose(after["queues"]["text"][:B], features[1][1], atol=1e-6)
    np.testing.assert_array_equal(after["queues"]["group"][:B], GROUP)


@pytest.mark.parametrize(
    ("field", "value", "bound"),
    [
        ("model.text_layers", 2, "from 1 to text.layers - 1 = 1"),
        ("model.mask_id", 40, "from 0 to vocab_size - 1 = 39"),
        ("model.text.architecture", "xlm-roberta-xl", "one of 'xlm-roberta', 'bert'"),
        ("model.vit.patch_size", 3, "a divisor of image_size = 8"),
        ("model.remat", "all", "one of 'none', 'products', 'layers'"),
        ("loss.temperature", 0.6, "from min_temperature = 0.001 to max_temperature = 0.5"),
        ("loss.alpha", 1.5, "from 0 to 1"),
        ("loss.mask_share", 0.0, "over 0 and under 1"),
        ("loss.queue", 0, "positive"),
        ("model.vit.layers", -1, "positive"),
        ("model.text.hidden_size", 0, "positive"),
        ("model.text.dropout", 1.0, "at least 0 and under 1"),
        ("model.vit.activation", "relu", "one of 'gelu', 'quick_gelu'"),
        ("model.image_std", (1.0,), "three numbers"),
    ],
)
def test_impossible_values_are_named(field, value, bound):
    config = AlbefConfig(batch_size=8, model=_model())
    config.captions.image_size = config.model.vit.image_size
    config.validate()
    *path, last = field.split(".")
    owner = config
    for name in path:
        owner = getattr(owner, name)
    setattr(owner, last, value)
    with pytest.raises(UserError) as error:
        config.validate()
    assert str(error.value) == f"config.{field} = {value!r}: must be {bound}"
