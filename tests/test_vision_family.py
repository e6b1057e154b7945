"""Whole runs of ALBEF in small: what they leave, who reads it; stopping changes nothing."""

import copy
import dataclasses
import json
import os
import re
import shutil
import signal
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from tiny_albef import LANGUAGES, SIZE, drawings, tiny_albef

from jaxir import evaluate, train
from jaxir import export as export_command
from jaxir.config import ImageSource, ScaleConfig, Shares, SweepConfig
from jaxir.data.tokenizer import train_tokenizer
from jaxir.errors import RunError, UserError
from jaxir.plan import __main__ as plan
from jaxir.runtime import mesh as mesh_module
from jaxir.runtime.mesh import replicate, to_devices
from jaxir.sweep.report import report
from jaxir.sweep.study import overall_metrics, read_study
from jaxir.sweep.workers import sweep
from jaxir.training import loop, task
from jaxir.training.checkpoint import CHECKPOINTS, Checkpoints
from jaxir.training.meter import Meter
from jaxir.training.run import run
from jaxir.training.step import TrainStep, init_state, make_state
from jaxir.vision.clipscore import __main__ as clipscore
from jaxir.vision.clipscore.albef_scorer import AlbefScorer
from jaxir.vision.data.collection import read_captions
from jaxir.vision.evaluation import encoders
from jaxir.vision.evaluation.comparison import BIAS, IMAGE_TO_TEXT, QUALITY, TEXT_TO_IMAGE
from jaxir.vision.models.initial_weights import load_initial_weights
from jaxir.vision.models.trained import read_aligned
from jaxir.vision.training.albef import ALBEF


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Runs that differ in data, seed and what is measured share their programs, as in a sweep."""
    known, made = {}, task.make_compiled

    def compiled(config, kind):
        parts = (config.model, config.loss, config.optimizer, config.steps, config.scale)
        key = repr((parts, config.batch_size))
        if key not in known:
            known[key] = made(config, kind)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "make_compiled", compiled)
        patch.setattr(encoders, "IMAGES_PER_DEVICE", 8)
        patch.setattr(encoders, "PAIRS_PER_DEVICE", 8)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that nothing interrupted: its config and workdir."""
    workdir = tmp_path_factory.mktemp("albef") / "run"
    config = tiny_albef()
    run(config, ALBEF, workdir)
    return config, workdir


@pytest.fixture(scope="module")
def stopped(finished, tmp_path_factory):
    """The workdir of the same run, stopped by SIGTERM at its fifth step."""
    config, whole = finished
    workdir = tmp_path_factory.mktemp("stopped") / "run"
    shutil.copytree(whole / "tokenizer", workdir / "tokenizer")

    class Killing(Meter):
        def add(self, step, *given):
            super().add(step, *given)
            if step == 4:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "Meter", Killing)
        with pytest.raises(RunError, match="stopped at step 5 and saved") as error:
            run(config, ALBEF, workdir)
    assert error.value.exit_status == 143
    return workdir


def _lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def _state(config, workdir, step):
    """A checkpoint, on one device."""
    model, start, _ = load_initial_weights(config, None, epath.Path(workdir))
    config = dataclasses.replace(config, model=model)
    abstract = jax.eval_shape(lambda: init_state(config, start, ALBEF))
    checkpoints = Checkpoints(workdir / CHECKPOINTS, config.checkpoint.keep, config.evaluation.best)
    try:
        return jax.device_get(checkpoints.restore(step, abstract))
    finally:
        checkpoints.close()


def _assert_equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.slow
def test_what_a_run_leaves_behind(finished):
    config, workdir = finished
    lines = [line for line in _lines(workdir) if "loss" in line]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    for line in lines:
        parts = [line[name] for name in ("itc", "itm", "mlm")]
        assert np.isfinite(parts).all()
        assert sum(parts) == pytest.approx(line["loss"], rel=1e-5)
        assert config.loss.min_temperature <= line["temperature"] <= config.loss.max_temperature
    held_out = [line for line in _lines(workdir) if "held_out/loss" in line]
    assert [line["step"] for line in held_out] == [4, 8]
    assert 0 <= held_out[0]["held_out/map"] <= 1
    results = json.loads((workdir / "results.json").read_text())
    assert results["used"]["kinds"] == {"monolingual": 4, "multilingual": 4}
    assert sum(results["used"]["pairs"].values()) == 8 * config.batch_size
    assert set(results["used"]["query_languages"]) == set(LANGUAGES)
    systems = results["datasets"]["new"]
    assert list(systems) == ["trained", "top 4 re-scored by ITM", "most alike pixels"]
    for system in systems.values():
        assert system["images"] == 48
        assert system["captions"] == dict.fromkeys(LANGUAGES, 48)
        assert system["chance"]["image_to_text/en"] == pytest.approx(1 / 48)
        for direction in ("image_to_text", "text_to_image"):
            assert 0 <= system[direction]["multilingual"]["R@1"] <= 1
            assert system[direction]["multilingual"]["R@10"] > 0
    # the first places are ordered anew, so what is among them stays
    plain, again = (systems[name]["image_to_text"]["multilingual"] for name in list(systems)[:2])
    assert [plain[name] for name in ("R@5", "R@10")] == [again[name] for name in ("R@5", "R@10")]
    assert (workdir / "values_new.npz").exists()
    assert not list(workdir.rglob("*unfinished*"))


@pytest.mark.slow
def test_a_finished_run_is_shown_and_not_run_again(finished, capsys):
    config, workdir = finished
    before = (workdir / "metrics.jsonl").stat().st_mtime_ns
    run(config, ALBEF, workdir)
    shown = capsys.readouterr().out
    for text in ("new: 48 images, 144 captions", "trained", "re-scored", "pixels", "image to"):
        assert text in shown
    assert (workdir / "metrics.jsonl").stat().st_mtime_ns == before
    other = copy.deepcopy(config)
    other.loss.queue = 48
    with pytest.raises(UserError, match=r"config\.loss\.queue was 40, is 48"):
        run(other, ALBEF, workdir)


@pytest.mark.slow
def test_stopped_by_sigterm_and_resumed_equals_uninterrupted(finished, stopped, tmp_path):
    """Parameters, optimizer, momentum model, queues and their place."""
    config, whole = finished
    shutil.copytree(stopped, tmp_path / "run")
    run(config, ALBEF, tmp_path / "run")
    one, other = (_state(config, workdir, 8) for workdir in (whole, tmp_path / "run"))
    _assert_equal(one, other)
    aux_state = one["aux_state"]
    assert aux_state["next_slot"] == 8 * 16 % 40
    assert (aux_state["queues"]["group"] >= 0).all()
    np.testing.assert_allclose(np.linalg.norm(aux_state["queues"]["image"], axis=1), 1, atol=1e-5)
    moved = jax.tree.map(
        lambda a, b: np.abs(a - b).max(), aux_state["momentum"], one["params"]["model"]
    )
    assert max(jax.tree.leaves(moved)) > 1e-4
    untimed = [
        [{k: v for k, v in line.items() if "second" not in k and "wait" not in k} for line in lines]
        for lines in map(_lines, (whole, tmp_path / "run"))
    ]
    # the line after the stop is of one step instead of two
    assert untimed[0][:2] == untimed[1][:2]
    assert untimed[0][-2:] == untimed[1][-2:]
    results = [
        json.loads((workdir / "results.json").read_text()) for workdir in (whole, tmp_path / "run")
    ]
    assert results[0]["datasets"] == results[1]["datasets"]


@pytest.mark.slow
def test_the_export_reads_back_as_the_best_checkpoint(finished, tmp_path):
    _, workdir = finished
    shutil.copytree(workdir, tmp_path / "bare", ignore=shutil.ignore_patterns("export"))
    model, best = read_aligned(str(workdir)), read_aligned(str(tmp_path / "bare"))
    assert model.config == best.config
    _assert_equal(model.params, jax.device_get(best.params))
    assert model.tokenizer.get_vocab() == best.tokenizer.get_vocab()
    _assert_equal(read_aligned(str(workdir / "export")).params, model.params)


@pytest.mark.slow
def test_a_run_under_way_is_read_from_its_best_checkpoint(finished, stopped):
    config, _ = finished
    found = read_aligned(str(stopped))
    _assert_equal(jax.device_get(found.params), _state(config, stopped, 4)["params"]["model"])


@pytest.mark.slow
def test_clipscore_with_a_run_as_the_scorer(finished, tmp_path):
    config, workdir = finished
    captions = read_captions(dataclasses.replace(config.captions, limit=4))
    (tmp_path / "images").mkdir()
    rows = []
    for number in range(4):
        captions.open(number, (255, 255, 255)).save(tmp_path / "images" / f"{number}.png")
        text = captions.collection.texts[captions.collection.query[number, number % 3]]
        language = LANGUAGES[number % 3]
        rows.append({"image": f"{number}.png", "caption": text, "language": language})
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files = (f"--captions={tmp_path / 'rows.jsonl'}", f"--images={tmp_path / 'images'}")
    output = tmp_path / "scores.json"
    clipscore.main(["clipscore", f"--model={workdir}", *files, f"--output={output}"])
    found = json.loads(output.read_text())
    scorer = AlbefScorer(read_aligned(str(workdir)))
    images = scorer.image_features([tmp_path / "images" / row["image"] for row in rows])
    texts = scorer.text_features([row["caption"] for row in rows])
    np.testing.assert_allclose(np.linalg.norm(images, axis=1), 1, atol=1e-5)
    expected = 2.5 * np.maximum((images * texts).sum(axis=1), 0)
    scores = [item["clip_score"] for item in found["items"]]
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert set(found["languages"]) == set(LANGUAGES)
    assert found["prefix"] == ""  # it was trained on captions as they are


@pytest.mark.slow
def test_commands_for_retrievers_say_what_this_is(finished, tmp_path):
    _, workdir = finished
    said = "a run of albef; a retriever of texts is needed here"
    with pytest.raises(UserError, match=said):
        export_command.main(["export", f"--model={workdir}", f"--output={tmp_path / 'out'}"])
    write_benchmark(tmp_path / "beir")
    arguments = (f"--benchmark={tmp_path / 'beir'}", f"--output={tmp_path / 'report'}")
    with pytest.raises(UserError, match=said):
        evaluate.main(["evaluate", f"--model={workdir}", *arguments])


def write_benchmark(folder):
    """One question and its passage, in BEIR's layout."""
    (folder / "qrels").mkdir(parents=True)
    for name in ("corpus", "queries"):
        (folder / f"{name}.jsonl").write_text('{"_id": "1", "text": "a", "language": "en"}\n')
    (folder / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\n1\t1\t1\n")


@pytest.mark.slow
def test_a_sweep_with_one_program_and_its_report(finished, tmp_path, monkeypatch, capsys):
    config = copy.deepcopy(finished[0])
    config.sweep = SweepConfig(named=("X-X", "multilingual"), seeds=2)
    config.evaluation.every, config.evaluation.baselines = 0, False
    config.evaluation.candidates, config.logging.export = 0, False
    asked, compiled = [], task.make_compiled
    monkeypatch.setattr(
        task, "make_compiled", lambda *given: asked.append(given) or compiled(*given)
    )
    workdir = epath.Path(tmp_path / "sweep")
    sweep(config, ALBEF, workdir)
    assert len(asked) == 1  # the first run's programs serve every run
    shown = capsys.readouterr().out
    assert "image to" in shown
    assert "±" in shown
    names = [f"{point}-seed{seed}" for point in ("X-X", "multilingual") for seed in (0, 1)]
    used = [json.loads((workdir / n / "results.json").read_text())["used"]["kinds"] for n in names]
    assert used == [{"monolingual": 8}] * 2 + [{"multilingual": 8}] * 2

    report(workdir, workdir / "report", 0.5, "X-X", None)
    summary = json.loads((workdir / "report/report.json").read_text())
    assert summary["dataset"] == "new"
    by_language = [f"{key}/{one}" for key in (IMAGE_TO_TEXT, TEXT_TO_IMAGE) for one in LANGUAGES]
    main = [IMAGE_TO_TEXT, TEXT_TO_IMAGE, QUALITY, BIAS]
    assert list(summary["mixtures"][0]["metrics"]) == main + by_language
    study = read_study(workdir, None)
    assert [one.key for one in overall_metrics(study)] == main
    assert [one.language for one in study.metrics] == [""] * 4 + [*LANGUAGES] * 2
    for one, figures in zip(study.runs, study.values):
        results = json.loads((workdir / one.name / "results.json").read_text())["datasets"]["new"]
        for key in main:
            direction, setting, measure = key.split("/")
            figure = figures[study.column(key)]
            assert figure == pytest.approx(results["trained"][direction][setting][measure])
    pictures = {path.stem for path in (workdir / "report").glob("*.png")}
    assert {"map_image_to_text_monolingual_R_at_1", "languages", "pareto"} <= pictures
    page = (workdir / "report/report.html").read_text()
    assert "48 images, 144 captions" in page
    assert "image-to-text R@1" in page
    assert "mAP" not in re.sub(r"base64,[^\"]*", "", page)


def _albef_source(name, **changes):
    return dataclasses.replace(drawings(name, "held_out"), **changes)


def _validated_run(config, workdir):
    config.validate()
    run(config, ALBEF, workdir)


MISTAKES = [
    ({"captions.image_size": 64}, r"captions.image_size = 64: must be model.vit.image_size = 32"),
    ({"loss.queue": 8}, r"loss.queue = 8: must be at least batch_size = 16"),
    ({"loss.queue": 33}, r"loss.queue = 33: must be a multiple of the 8 devices"),
    ({"captions.sources": ()}, "captions have no sources"),
    (
        {"captions.sources": (ImageSource("painted"),)},
        r"reader = 'painted': must be one of .*drawn",
    ),
    (
        {"captions.sources": (drawings("drawn", "odd"),)},
        "split 'odd'; must be of train, held_out",
    ),
    ({"model.trained_tokenizer_size": 0}, r"model.tokenizer is empty"),
    ({"model.tokenizer": "MASKLESS"}, "it has no mask token"),
    (
        {"evaluation.sources": (_albef_source("a"), _albef_source("a"))},
        r"evaluation.sources = 'a': must be sources with names, each another",
    ),
    (
        {"evaluation.sources": (_albef_source("drawn"),)},
        "another part is called 'drawn'; rename it",
    ),
    (
        {"model.text.positions": 10},
        r"max_caption_tokens = 16: must be from 3 to the 8 that .* 10 positions",
    ),
    (
        {"captions.sources": (_albef_source("x", languages=("en",)),), "shares": Shares(0, 0, 1)},
        "cross_lingual = 1: the data has no",
    ),
]


@pytest.mark.parametrize(("change", "message"), MISTAKES, ids=[str(list(x)) for x, _ in MISTAKES])
def test_a_config_that_does_not_fit_is_one_line(tmp_path, change, message):
    config = tiny_albef()
    config.captions.limit = 16
    config.evaluation.sources = ()
    for name, value in change.items():
        *path, field = ("hybrid.shares" if name == "shares" else name).split(".")
        owner = config
        for part in path:
            owner = getattr(owner, part)
        setattr(owner, field, value)
    if config.model.tokenizer:
        train_tokenizer(["a b", "b c"], 20).save_pretrained(tmp_path / "maskless")
        config.model.tokenizer = str(tmp_path / "maskless")
        config.model.trained_tokenizer_size = 0
    with pytest.raises(UserError, match=message) as error:
        _validated_run(config, tmp_path / "run")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("main", "arguments", "message"),
    [
        (
            train.main,
            ("--config=demo.py", "--config.captions.limit=3"),
            "captions.limit: no such field in a config of task 'retrieval'; .* --config.data.limit",
        ),
        (
            train.main,
            ("--config=albef_demo.py", "--config.data.limit=3"),
            "data.limit: no such field in a config of task 'albef'; .* --config.captions.limit",
        ),
        (
            train.main,
            ("--config=albef_demo.py", "--config.loss.queue=8"),
            "loss.queue = 8: must be at least batch_size = 64",
        ),
        (
            plan.main,
            ("--config=albef_demo.py", "--topology=v4-16"),
            "a run of albef; only retrieval runs can be planned",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:the load_module")
def test_a_mistake_on_the_command_line_is_one_line(monkeypatch, main, arguments, message):
    monkeypatch.setattr(sys, "argv", ["jaxir", *arguments])
    monkeypatch.chdir(Path(__file__).parents[1])
    with pytest.raises(UserError, match=message) as error:
        main(sys.argv)
    assert "\n" not in str(error.value)


def test_a_line_of_metrics_has_what_only_some_batches_have():
    hybrid = types.SimpleNamespace(
        kind=["monolingual", "cross_lingual", "cross_lingual"].__getitem__,
        languages=lambda step: ("monolingual", np.zeros((1, 2), int)),
        batch_size=2,
    )
    meter = Meter(hybrid, 0)
    batch = {"caption_ids": np.ones((2, 4)), "caption_lengths": np.array([3, 4])}
    meter.add(0, batch, {"loss": jnp.float32(1)})
    meter.add(1, batch, {"loss": jnp.float32(2), "text_text": jnp.float32(3)})
    meter.add(2, batch, {"loss": jnp.float32(6), "text_text": jnp.float32(5)})
    values = meter.flush()
    assert (values["loss"], values["text_text"]) == (3, 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("off", "metrics"),
    [
        (("itc", "momentum"), {"itm", "itm_accuracy", "mlm"}),
        (("itm", "mlm"), {"itc", "itc_accuracy", "text_text"}),
    ],
)
def test_losses_that_are_off_leave_the_others(off, metrics, tmp_path):
    """With dropout, and in cross-lingual batches alone; nothing is measured."""
    config = tiny_albef(steps=2, dropout=0.1)
    config.hybrid.shares = Shares(monolingual=0, cross_lingual=1)
    for name in off:
        setattr(config.loss, name, False)
    config.evaluation.sources, config.logging.export = (), False
    run(config, ALBEF, tmp_path / "run")
    (line,) = (line for line in _lines(tmp_path / "run") if "loss" in line)
    every = {"itc", "itc_accuracy", "itm", "itm_accuracy", "mlm", "text_text"}
    assert every & set(line) == metrics
    assert all(np.isfinite(line[name]) for name in metrics)
    assert ("aux_state" in _state(config, tmp_path / "run", 2)) == ("momentum" not in off)


def _one_step(devices, fsdp):
    """Loss and state after a step of the tiny config on some devices."""
    config = tiny_albef(dropout=0.1)
    config.model = dataclasses.replace(
        config.model,
        text=dataclasses.replace(config.model.text, vocab_size=64),
        mask_id=63,
    )
    # so that AdamW does not divide rounding errors by rounding errors
    config.optimizer.epsilon, config.optimizer.warmup_steps = 1e-2, 0
    config.scale = ScaleConfig(fsdp=fsdp)
    rng = np.random.default_rng(0)
    rows = config.batch_size
    batch = {
        "pixels": rng.integers(0, 256, (rows, SIZE, SIZE, 3)).astype(np.uint8),
        "image_group": (np.arange(rows) // 2 * 2).astype(np.int32),
        "caption_ids": rng.integers(4, 63, (rows, 12)).astype(np.int32),
        "caption_lengths": rng.integers(3, 13, rows).astype(np.int32),
        "other_ids": rng.integers(4, 63, (rows, 12)).astype(np.int32),
        "other_lengths": rng.integers(3, 13, rows).astype(np.int32),
    }
    mesh = jax.make_mesh((1, devices), mesh_module.AXES, devices=jax.devices()[:devices])
    with jax.set_mesh(mesh):
        state = make_state(config, None, mesh, ALBEF)
        split = [leaf for leaf in jax.tree.leaves(state["params"]) if not leaf.is_fully_replicated]
        assert bool(split) == fsdp
        placed = to_devices(batch, mesh)
        state, metrics = TrainStep(config, ALBEF)(state, placed)
        return jax.device_get(replicate(state, mesh)), jax.device_get(metrics)


@pytest.mark.slow
def test_a_step_on_one_device_equals_one_on_eight_with_split_parameters(monkeypatch):
    monkeypatch.setattr(mesh_module, "SPLIT_FROM", 1)
    (one, seen), (eight, also) = _one_step(1, fsdp=False), _one_step(8, fsdp=True)
    for name in ("loss", "itc", "itm", "mlm", "text_text", "gradient_norm"):
        assert seen[name] == pytest.approx(also[name], abs=1e-5, rel=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one, eight)
    assert one["aux_state"]["next_slot"] == 16
