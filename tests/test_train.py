"""Whole runs in small: what they leave behind, and that stopping changes nothing."""

import copy
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath
from safetensors.numpy import load_file
from tiny import tiny_config, write_config

from jaxir.config import LoggingConfig, Shares
from jaxir.errors import RunError, UserError
from jaxir.models.dual_encoder import init_params
from jaxir.runtime.mesh import make_mesh
from jaxir.training.retrieval import RETRIEVAL, evaluate_dataset
from jaxir.training.run import run
from jaxir.training.run_log import RunLog
from jaxir.training.task import set_up


def _weights(workdir):
    return load_file(workdir / "export" / "model.safetensors")


def _assert_bit_equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that nothing interrupted: its config and workdir, which was given as a relative one."""
    folder = tmp_path_factory.mktemp("finished")
    config = tiny_config(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run(config, RETRIEVAL, Path("run"))
    return config, folder / "run"


def test_what_a_run_leaves_behind(finished):
    config, workdir = finished
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["loss"] for line in lines if "loss" in line}
    assert sorted(losses) == [6, 12, 18, 24]
    assert losses[24] < losses[6]
    assert [line["step"] for line in lines if "held_out/loss" in line] == [12, 24]
    (shares,) = {(x["share/monolingual"], x["share/cross_lingual"]) for x in lines if "loss" in x}
    assert shares == (0.5, 0.5)
    assert all(0 < line["padding_waste"] < 1 for line in lines if "loss" in line)
    results = json.loads((workdir / "results.json").read_text())
    assert results["used"]["kinds"] == {"monolingual": 12, "cross_lingual": 12}
    assert sum(results["used"]["pairs"].values()) == 24 * config.batch_size
    report = results["datasets"]["held_out"]["trained"]
    chance = 1 / report["passages"]
    assert report["monolingual"]["map"] > 5 * chance
    assert (workdir / "heat_map_held_out.png").read_bytes()[1:4] == b"PNG"
    assert list((workdir / "tensorboard").iterdir())
    assert (workdir / "checkpoints/24/manifest.json").exists()
    assert not list(workdir.rglob("*unfinished*"))


@pytest.mark.slow
def test_a_packed_run_learns_what_a_padded_one_learns(finished, tmp_path):
    """The same batches and dropout, with other sums of rounding errors."""
    padded, workdir = finished
    config = copy.deepcopy(padded)
    config.model.packed_length = 48
    config.evaluation.every = 0
    shutil.copytree(workdir / "tokenizer", tmp_path / "run" / "tokenizer")
    run(config, RETRIEVAL, tmp_path / "run")
    lines = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (workdir, tmp_path / "run")
    ]
    losses, waste = (
        [[line[name] for line in one if name in line] for one in lines]
        for name in ("loss", "padding_waste")
    )
    np.testing.assert_allclose(losses[1], losses[0], atol=1e-3)
    assert max(waste[1]) < min(waste[0])
    assert all(0 <= line["input_wait"] < 1 for line in lines[1] if "loss" in line)


def test_the_export_reads_back_as_the_best_checkpoint(finished):
    from jaxir.models.hf import read_model

    config, workdir = finished
    model = read_model(workdir / "export")
    assert model.query_prefix == config.model.query_prefix
    assert model.config.encoder.hidden_size == 16


def test_fewer_queries_on_the_way_are_the_same_ones_against_the_whole_pool(finished):
    config, workdir = finished
    inputs = RETRIEVAL.read_inputs(config, workdir)
    setup = set_up(config, RETRIEVAL, inputs, make_mesh(config), workdir)
    params = init_params(inputs.model, jax.random.key(0))
    held_out = inputs.datasets["held_out"]
    with jax.set_mesh(setup.mesh):
        whole, part, again = (
            evaluate_dataset(setup, params, held_out, queries) for queries in (0, 20, 20)
        )
    assert (part.queries, part.passages) == (20, whole.passages)
    chosen = [
        np.flatnonzero((whole.values.in_pool["map"] == value) & (whole.values.question == question))
        for value, question in zip(part.values.in_pool["map"], part.values.question)
    ]
    assert all(len(rows) for rows in chosen)  # each with the value that it has in the whole
    np.testing.assert_array_equal(part.values.in_pool["map"], again.values.in_pool["map"])


def test_a_finished_run_is_shown_and_not_run_again(finished, capsys):
    config, workdir = finished
    before = (workdir / "metrics.jsonl").stat().st_mtime_ns
    run(config, RETRIEVAL, workdir)
    assert "trained" in capsys.readouterr().out
    assert (workdir / "metrics.jsonl").stat().st_mtime_ns == before


def test_another_config_is_refused_with_the_field_named(finished):
    config, workdir = finished
    other = tiny_config(Path(config.data.directory))
    other.optimizer.learning_rate = 1e-3
    with pytest.raises(UserError, match=r"optimizer\.learning_rate was 0\.005, is 0\.001"):
        run(other, RETRIEVAL, workdir)


@pytest.mark.slow
def test_stopped_by_sigterm_and_resumed_equals_uninterrupted(finished, tmp_path):
    config, workdir = finished

    def stop_when_under_way():
        deadline = time.monotonic() + 600
        while not (tmp_path / "run" / "metrics.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop_when_under_way)
    thread.start()
    with pytest.raises(RunError, match=r"stopped at step .* goes on from there") as stopped:
        run(config, RETRIEVAL, tmp_path / "run")
    thread.join()
    assert stopped.value.exit_status == 143
    run(config, RETRIEVAL, tmp_path / "run")
    _assert_bit_equal(_weights(tmp_path / "run"), _weights(workdir))
    metrics = [(p / "metrics.jsonl").read_text().splitlines() for p in (tmp_path / "run", workdir)]
    steps = [[json.loads(line)["step"] for line in lines] for lines in metrics]
    assert steps[0] == steps[1]


def test_a_run_that_starts_again_drops_all_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 6, "loss": 1.0}\n')
    RunLog(epath.Path(tmp_path), LoggingConfig(tensorboard=False), {}, 0).close()
    assert path.read_text() == ""


def test_a_loss_that_is_not_finite_names_step_kind_and_languages(tmp_path):
    config = tiny_config(tmp_path)
    config.optimizer.learning_rate, config.optimizer.clip_norm = 1e30, 0.0
    config.optimizer.warmup_steps = 0
    with pytest.raises(RunError, match=r"step \d+: the loss is .*lingual batch, ..-.."):
        run(config, RETRIEVAL, tmp_path / "run")
    assert not (tmp_path / "run" / "results.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 12}, "config.batch_size = 12: must be a multiple of the 8 devices"),
        (
            {"model.max_query_tokens": 40},
            "max_query_tokens = 40: must be from 3 to .* 32 positions",
        ),
        ({"data.sources": ()}, "config.data.sources is empty"),
        ({"model.trained_tokenizer_size": 0}, "config.model.tokenizer is empty"),
        (
            {"hybrid.shares": Shares(0, 0, 0, 0, 1), "data.only": "de"},
            "english = 1: the data has no",
        ),
        (
            {"hybrid.shares": Shares(0, 0, 1), "data.only": "de"},
            "cross_lingual = 1: the data has no",
        ),
    ],
)
def test_a_config_that_does_not_fit_is_one_line(tmp_path, change, message):
    config = tiny_config(tmp_path)
    for name, value in change.items():
        *path, field = name.split(".")
        if field == "only":
            rows = (tmp_path / "rows.jsonl").read_text().splitlines()
            kept = [row for row in rows if f'"query_lang": "{value}"' in row]
            (tmp_path / "rows.jsonl").write_text("\n".join(kept) + "\n")
            continue
        owner = config
        for part in path:
            owner = getattr(owner, part)
        setattr(owner, field, value)
    with pytest.raises(UserError, match=message) as error:
        run(config, RETRIEVAL, tmp_path / "run")
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_full_disk_while_saving_is_one_line_and_the_run_goes_on_later(tmp_path):
    config = write_config(tmp_path)
    workdirs = {name: tmp_path / name for name in ("full", "whole")}
    command = [sys.executable, "-m", "jaxir.train", "--config", str(config), "--workdir"]
    process = subprocess.Popen(
        [*command, str(workdirs["full"]), "--config.logging.tensorboard=False"],
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (workdirs["full"] / "metrics.jsonl").exists() and process.poll() is None:
        time.sleep(0.01)
    _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (16_000, hard))
    _, said = process.communicate(timeout=900)
    assert process.returncode == 2, said
    assert re.search(r"\nerror: .*cannot save the checkpoint .*free some space.*\n$", said), said
    assert "Traceback" not in said
    checkpoints = workdirs["full"] / "checkpoints"
    assert all((path / "manifest.json").exists() for path in checkpoints.iterdir())
    for workdir in workdirs.values():
        subprocess.run([*command, str(workdir)], check=True, capture_output=True, timeout=900)
    _assert_bit_equal(*map(_weights, workdirs.values()))


def _command(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "jaxir.train", *arguments],
        capture_output=True,
        text=True,
        timeout=900,
        **options,
    )


@pytest.mark.timed
def test_help_answers_within_two_seconds():
    began = time.perf_counter()
    _command("--help")
    assert time.perf_counter() - began < 2


def test_help_shows_flags():
    answer = _command("--help")
    assert answer.returncode == 0
    assert "--config.hybrid.shares.cross_lingual=0.5" in answer.stdout
    assert not answer.stderr


def test_help_imports_neither_jax_nor_tensorflow():
    code = (
        "import sys; sys.argv = ['train', '--help']\n"
        "from jaxir.train import main\nmain(sys.argv)\n"
        "assert not {'jax', 'tensorflow', 'flax', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config is missing"),
        (["--config", "nowhere.py"], "nowhere.py: no such file; there are .*demo.py"),
        (["--config", "demo", "--confg.steps=3"], "confg.steps: no such flag"),
        (["--config", "demo.py", "--config.stepz=3"], "config.stepz: no such field.*config.steps"),
        (["--config=demo.py", "--config.steps=x"], "config.steps=x: invalid literal"),
        (["--config=demo.py", "--config.steps=0"], "config.steps = 0: must be positive"),
        (
            ["--config=demo.py", "--config.hybrid.shares.monolingual=-1"],
            r"shares.monolingual = -1.0: must be 0 or more",
        ),
        (
            [
                "--config=demo.py",
                "--config.hybrid.shares.monolingual=0",
                "--config.hybrid.shares.cross_lingual=0",
            ],
            "must be shares with a positive sum",
        ),
        (["--config=demo.py", "extra"], "'extra': not a flag"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_and_status_2(arguments, message, tmp_path):
    answer = _command(*arguments, "--workdir", str(tmp_path / "w"))
    assert answer.returncode == 2
    assert re.fullmatch(r"error: .*\n", answer.stderr), answer.stderr
    assert re.search(message, answer.stderr)
    assert not (tmp_path / "w").exists()


def test_weights_and_biases_gets_every_number(tmp_path, monkeypatch):
    import types

    from jaxir.config import LoggingConfig

    logged, ended = [], []
    fake = types.SimpleNamespace(
        init=lambda **options: types.SimpleNamespace(
            log=lambda values, step: logged.append((step, values)),
            finish=lambda: ended.append(options["project"]),
        )
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    report = RunLog(tmp_path, LoggingConfig(tensorboard=False, wandb_project="p"), {}, 0)
    report.write(3, {"loss": 1.5})
    report.close()
    assert logged == [(3, {"loss": 1.5})]
    assert ended == ["p"]


def test_weights_and_biases_that_is_not_installed_is_named(tmp_path, monkeypatch):
    from jaxir.config import LoggingConfig

    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r'not installed; run: pip install "jaxir\[wandb\]"'):
        RunLog(tmp_path, LoggingConfig(tensorboard=False, wandb_project="p"), {}, 0)


def test_tensorboard_reads_what_was_written(finished):
    from tensorboardX.proto.event_pb2 import Event

    _, workdir = finished
    (path,) = (workdir / "tensorboard").iterdir()
    content, steps = path.read_bytes(), []
    while content:  # a record: length, its check sum, the event, its check sum
        length = int.from_bytes(content[:8], "little")
        event = Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]
        steps += [event.step for value in event.summary.value if value.tag == "loss"]
    assert steps == [6, 12, 18, 24]
