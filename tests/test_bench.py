"""The benchmarks measure the work that they name."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxir.bench import __main__ as bench
from jaxir.bench import (
    albef_step,
    pipeline_speed,
    runner,
    search_speed,
    step_parts,
    timing,
    training_step,
    workloads,
)
from jaxir.config import EncoderConfig, VitConfig
from jaxir.errors import RunError, UserError
from jaxir.models.dual_encoder import embed, init_params
from jaxir.training.step import matmul_flops

PEER = "sentence-transformers"
DATA = Path(__file__).parents[1].parent / "shared/data"


@pytest.fixture
def config(monkeypatch):
    """A model that is tiny, and short texts."""
    tiny = EncoderConfig(
        vocab_size=100, hidden_size=16, layers=2, heads=2, intermediate_size=32, positions=80
    )
    monkeypatch.setitem(workloads.SHAPES, "small", tiny)
    monkeypatch.setattr(workloads, "BATCHES", 2)
    monkeypatch.setattr(workloads, "PASSAGE_LENGTHS", tuple(range(10, 61, 3)))
    config = workloads.run_config("small", 16, "float32", 0, 0.0)
    config.model.max_passage_tokens = config.model.packed_length = 64
    return config


def test_useful_flops_are_those_of_the_products_without_padding(config):
    """Of texts that are all as long as their rows nothing is padding, so the trace must agree."""
    pairs, length = 6, 20
    batch = {f"{side}_lengths": np.full(pairs, length) for side in ("query", "passage")}
    config.model.remat = "none"
    params = init_params(config.model, jax.random.key(0))
    ids, mask = np.full((2 * pairs, length), 5), np.ones((2 * pairs, length), bool)
    traced = matmul_flops(jax.make_jaxpr(lambda p: embed(config.model, p, ids, mask))(params).jaxpr)
    pooling = 2 * (2 * pairs) * length * config.model.encoder.hidden_size
    assert 3 * (traced - pooling) == workloads.model_flops(config, [batch])


def test_made_up_batches_hold_the_same_texts_packed_and_padded(config):
    padded, packed = workloads.synthetic_batches(config, 8)
    assert len(padded) == len(packed) == 2
    for one, other in zip(padded, packed):
        for side in ("query", "passage"):
            np.testing.assert_array_equal(one[f"{side}_lengths"], other[f"{side}_lengths"])
        for ids, lengths in ((one["query_ids"], one["query_lengths"]),):
            assert (ids[np.arange(ids.shape[1])[None] >= lengths[:, None]] == 1).all()
    (real, places), (same, fewer) = map(workloads.count_tokens, (padded, packed))
    assert real == same < fewer < places


@pytest.mark.slow
def test_training_is_measured_and_packing_changes_no_loss(config):
    found = training_step.measure(config, 1, "", None)
    for name in ("packed", "padded"):
        assert found[name]["pairs per second"] > 0
        assert 0 < found[name]["padding fraction"] < 1
    assert found["packed"]["first loss"] == pytest.approx(found["padded"]["first loss"], abs=1e-5)
    assert found["packed"]["padding fraction"] < found["padded"]["padding fraction"]
    parts = found["seconds by part of the step"]
    assert {"forward", "backward", "loss", "optimizer", "communication"} <= set(parts)
    assert parts["token lookup"] > 0
    assert parts["gradient of the table"] > 0


def test_the_table_is_held_against_a_copy_of_as_many_bytes(config):
    found = step_parts.measure_embedding_table(config, 1)
    assert found["table shape"] == [100, 16]
    assert found["distinct tokens"] <= 100
    size, looked_up = 100 * 16 * 4, found["tokens"] * 16 * 4 / jax.device_count()
    moved = "least GiB read and written"
    assert found[step_parts.LOOKUP][moved] * 2**30 == pytest.approx(2 * looked_up)
    assert found[step_parts.GRADIENT][moved] * 2**30 == pytest.approx(looked_up + size)
    assert found[step_parts.UPDATE][moved] * 2**30 == pytest.approx(7 * size)
    assert found[step_parts.COPY]["time relative to a copy of as many bytes"] == pytest.approx(1)


def test_the_tables_parts_are_right(config):
    ids = np.array([[3, 3, 5], [5, 3, 0]], np.int32)
    embedding = jax.random.normal(jax.random.key(0), (6, 4))
    calls = step_parts.lookups(embedding, ids)
    np.testing.assert_array_equal(calls[step_parts.LOOKUP](), embedding[ids])
    counts = np.bincount(ids.reshape(-1), minlength=6)[:, None]
    gradient = calls[step_parts.GRADIENT]()
    np.testing.assert_allclose(gradient, counts * np.asarray(embedding), atol=1e-6)
    config.optimizer.weight_decay = 0.0
    update = step_parts.TableUpdate(config, embedding, gradient)
    update()
    # Adam's first step is of the learning rate, whatever the size of the gradient
    expected = embedding - config.optimizer.learning_rate * np.sign(gradient)
    np.testing.assert_allclose(update.params["embedding"], expected, atol=1e-6)


@pytest.mark.slow
def test_the_parts_of_albef_are_measured_on_one_state(monkeypatch):
    vit = VitConfig(image_size=16, patch_size=8, hidden_size=8, layers=1, heads=1)
    text = EncoderConfig(
        vocab_size=100, hidden_size=8, layers=2, heads=1, intermediate_size=16, positions=40
    )
    monkeypatch.setitem(albef_step.VITS, "small", vit)
    monkeypatch.setitem(workloads.SHAPES, "small", text)
    monkeypatch.setattr(albef_step, "LOSSES", {"ITC": "itc", "+ momentum": "momentum"})
    config = albef_step.run_config("small", 16, "float32", 0.0)
    config.loss.itm = config.loss.mlm = False
    found = albef_step.measure(config, 1)
    for name in ("ITC", "+ momentum"):
        assert found[name]["images per second"] > 0
        assert found[name]["pairs per second through the fusion layers"] == 0
    peaks = [found[name]["planned peak memory, GiB"] for name in ("ITC", "+ momentum")]
    copy_of_model = found["parameters"] * 4 / 2**30
    assert peaks[1] > peaks[0] + copy_of_model
    assert set(found["forward seconds of the towers"]) == {"images", "captions"}


def test_a_cached_step_of_many_times_the_batch_needs_little_more_memory(config):
    found = training_step.measure_memory(config, 4)
    assert found["pairs per step, cached"] == 4 * found["pairs per step, plain"]
    assert 0.1 < found["ratio of the peaks, cached to plain"] < 4


def test_search_is_compared_with_the_same_answers(monkeypatch):
    monkeypatch.setattr(search_speed, "QUERIES", 8)
    found = search_speed.measure(1, 2_000, 16, "float32", "")
    assert set(found["seconds"]) == {"matrix product", "jaxir"}


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason=f"MLQA's pairs are not at {DATA}")
def test_training_on_mlqa_has_a_table_for_its_tokens(config):
    found = training_step.measure(config, 1, "", DATA)
    assert np.isfinite(found["packed"]["first loss"])
    assert found["packed"]["first loss"] == pytest.approx(found["padded"]["first loss"], abs=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason=f"MLQA's pairs are not at {DATA}")
def test_packing_wastes_little_of_mlqa():
    found = pipeline_speed.padding_fraction(DATA)
    assert found["packed"] <= 0.05 < 0.3 < found["padded"]


def test_turns_are_taken_and_the_first_does_not_count():
    calls = []
    seconds = timing.alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert calls == list("ababab")
    assert {name: len(times) for name, times in seconds.items()} == {"a": 2, "b": 2}
    assert timing.ratio([2.0, 4.0, 6.0], [1.0, 1.0, 2.0]) == {
        "ratio of medians": 4.0,
        "lowest round": 2.0,
        "highest round": 4.0,
    }


def test_figures_are_written_with_their_machine(tmp_path, capsys):
    output = tmp_path / "figures.json"
    runner.measure_and_write("one", lambda: {"a": {"b": 0.12345}}, output)
    found = json.loads(output.read_text())
    assert found["one"] == {"a": {"b": 0.12345}}
    assert {"date", "machine", "devices", "jax"} < set(found)
    assert "| one, a, b | 0.1235 |" in output.with_suffix(".md").read_text()
    assert '"b": 0.12345' in capsys.readouterr().out


def test_what_one_part_breaks_on_costs_the_others_nothing(tmp_path, monkeypatch):
    commands = {}

    def run(command):
        commands[command[3]] = command[4:]
        (output,) = (word.partition("=")[2] for word in command if word.startswith("--output="))
        if command[3] == "encode":
            return SimpleNamespace(returncode=-9)
        Path(output).write_text(json.dumps({"jax": "1", command[3]: {"a": 1.5}}))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(runner.subprocess, "run", run)
    output = tmp_path / "all.json"
    with pytest.raises(RunError, match=r"encode: failed, .* are in .*all\.json"):
        bench.main(["jaxir.bench", "all", "--pairs=8", "--output", str(output)])
    found = json.loads(output.read_text())
    assert found["encode"] == {"failed": "exit status -9"}
    assert all(found[part] == {"a": 1.5} for part in runner.BENCHMARKS if part != "encode")
    assert "| search, a | 1.5 |" in output.with_suffix(".md").read_text()
    assert all({"--pairs=8", "--rounds=2"} < set(words) for words in commands.values())
    assert f"--trace={tmp_path / 'all.profile'}" in commands["profile"]


def breaks(*_):
    raise ValueError("no kernel for that")


def ends(*_):
    os._exit(3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "why"),
    [(breaks, "ValueError: no kernel for that"), (ends, "its process ended, exit status 3")],
)
def test_a_peer_that_breaks_costs_no_figures(config, monkeypatch, broken, why):
    monkeypatch.setattr(training_step.other_libraries, "torch_device", lambda: "cpu")
    monkeypatch.setattr(training_step.other_libraries, "training_steps", broken)
    monkeypatch.setattr(training_step.other_libraries, "matmul_speed", lambda dtype: 1e12)
    monkeypatch.setattr(step_parts, "measure", lambda *_: {})
    found = training_step.measure(config, 1, PEER, None)
    assert found["failed"] == {PEER: why, f"{PEER}, freed memory kept": why}
    assert found["packed"]["pairs per second"] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fast"], "name a benchmark, one of: train"),
        (["train", "--against", "faiss"], f"--against faiss: must be one of: {PEER}"),
        (["memory", "--against", "faiss"], "must be for train, encode and search only"),
        (["train", "--shape", "huge"], "--shape huge: must be one of small, xlm-r-base"),
        (["train", "--dtype", "int4"], "--dtype int4: must be float32 or bfloat16"),
        (["load"], "--model is missing"),
        (["profile"], "--trace is missing"),
        (["all", "--directory", "x"], "not with all"),
        (["train", "--output", "absent/x.json"], "its folder does not exist"),
    ],
)
def test_mistakes_are_one_line(words, message):
    with pytest.raises(UserError, match=message):
        bench.main(["jaxir.bench", *words])
