"""Checkpoints: bit-equal, sealed, pruned, and a flipped bit in any file is named."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxir.errors import UserError
from jaxir.training.checkpoint import MANIFEST, Checkpoints


def _state(number, mesh):
    key = jax.random.key(number)
    state = {
        "params": {"kernel": jax.random.normal(key, (33, 17)), "bias": jnp.arange(5.0)},
        "step": jnp.int32(number),
    }
    return jax.device_put(state, NamedSharding(mesh, PartitionSpec()))


def _abstract(state):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def _assert_equal(found, expected):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(found), jax.device_get(expected))


@pytest.fixture
def checkpoints(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2, best="loss")
    yield checkpoints
    checkpoints.close()


@pytest.fixture
def mesh():
    mesh = jax.make_mesh((8,), ("data",))
    with jax.set_mesh(mesh):
        yield mesh


def test_the_newest_comes_back_bit_equal(checkpoints, mesh):
    for step in (3, 7):
        checkpoints.save(step, _state(step, mesh), {})
    checkpoints.wait()
    step, state = checkpoints.restore_latest(_abstract(_state(0, mesh)))
    assert step == 7
    _assert_equal(state, _state(7, mesh))
    assert state["params"]["kernel"].sharding == _state(7, mesh)["params"]["kernel"].sharding


def test_the_newest_and_the_best_are_kept(checkpoints, mesh):
    for step, loss in ((1, 3.0), (2, 1.0), (3, 2.0), (4, 5.0), (5, None)):
        checkpoints.save(step, _state(step, mesh), {} if loss is None else {"loss": loss})
    checkpoints.wait()
    assert checkpoints.steps() == [2, 4, 5]
    assert checkpoints.best_step() == 2


def test_the_best_may_be_the_highest(tmp_path, mesh):
    checkpoints = Checkpoints(tmp_path, keep=1, best="map")
    for step, value in ((1, 0.1), (2, 0.9), (3, 0.5)):
        checkpoints.save(step, _state(step, mesh), {"map": value})
    checkpoints.close()
    assert checkpoints.best_step() == 2


def _files(folder):
    return sorted(
        path for path in Path(folder).rglob("*") if path.is_file() and path.stat().st_size
    )


def test_a_flipped_bit_in_any_file_is_named_and_the_one_before_is_used(checkpoints, mesh, caplog):
    for step in (1, 2):
        checkpoints.save(step, _state(step, mesh), {"loss": 0.5})
    checkpoints.wait()
    files = _files(checkpoints.folder / "2")
    assert len(files) > 5
    for path in files:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        original = path.read_bytes()
        path.write_bytes(bytes(content))
        caplog.clear()
        step, state = checkpoints.restore_latest(_abstract(_state(0, mesh)))
        assert step == 1, path
        _assert_equal(state, _state(1, mesh))
        assert path.name in caplog.text, path
        path.write_bytes(original)
    assert checkpoints.restore_latest(_abstract(_state(0, mesh)))[0] == 2


@pytest.mark.parametrize("damage", ["missing", "added"])
def test_a_missing_or_added_file_is_damage(checkpoints, mesh, damage):
    checkpoints.save(1, _state(1, mesh), {})
    checkpoints.wait()
    if damage == "missing":
        next(p for p in _files(checkpoints.folder / "1") if p.name != MANIFEST).unlink()
    else:
        (checkpoints.folder / "1" / "extra").write_text("x")
    with pytest.raises(UserError, match="every checkpoint is damaged"):
        checkpoints.restore_latest(_abstract(_state(0, mesh)))


def test_a_manifest_changed_with_its_own_sums_is_damage(checkpoints, mesh):
    checkpoints.save(1, _state(1, mesh), {"loss": 0.5})
    checkpoints.wait()
    path = checkpoints.folder / "1" / MANIFEST
    manifest = json.loads(path.read_text())
    manifest["metrics"]["loss"] = 0.4
    path.write_text(json.dumps(manifest))
    assert "manifest.json was changed" in checkpoints.damage(1)


def test_what_was_interrupted_does_not_count_and_is_removed(checkpoints, mesh):
    for step in (1, 2):
        checkpoints.save(step, _state(step, mesh), {})
    checkpoints.wait()
    (checkpoints.folder / "2" / MANIFEST).unlink()
    (checkpoints.folder / "3.orbax-checkpoint-tmp").mkdir()
    assert checkpoints.restore_latest(_abstract(_state(0, mesh)))[0] == 1
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["1"]
    checkpoints.save(2, _state(2, mesh), {})
    checkpoints.wait()
    assert checkpoints.steps() == [1, 2]


def test_nothing_saved_is_nothing_restored(checkpoints, mesh):
    assert checkpoints.restore_latest(_abstract(_state(0, mesh))) is None
    assert checkpoints.best_step() is None
