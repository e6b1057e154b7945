"""Sweeps in small: every run once, whoever does it and whatever becomes of them; and the report."""

import base64
import csv
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser

import numpy as np
import pytest
from etils import epath
from pretend_sweep import grid_config, quadratic, write_run, write_sweep
from tiny import tiny_config, write_config

from jaxir.config import Config, SweepConfig
from jaxir.errors import RunError, UserError
from jaxir.runtime.claims import Claims
from jaxir.sweep import workers
from jaxir.sweep.__main__ import main
from jaxir.sweep.mixtures import runs
from jaxir.sweep.report import report
from jaxir.sweep.study import read_study
from jaxir.sweep.workers import DONE, WAIT, Board, sweep
from jaxir.training.retrieval import RETRIEVAL
from jaxir.training.step import TrainStep
from jaxir.training.workdir import claim

NAMED = ("X-X", "uniform")
MOST_KILLS = 5  # there is no more to do after them
# compiling is most of what these short runs do
ENVIRONMENT = os.environ | {
    "XLA_FLAGS": re.sub(r"device_count=\d+ ", "device_count=1 ", os.environ["XLA_FLAGS"])
}


def _config(folder, named=NAMED, seeds=1):
    config = tiny_config(folder, steps=4)
    config.evaluation.every = 0
    config.logging.tensorboard = config.logging.export = False
    config.sweep = SweepConfig(named=named, seeds=seeds)
    return config


def _figures(workdir):
    """What a report says, but for where and when."""
    report(epath.Path(workdir), epath.Path(workdir / "report"), 0.5, None, None)
    folder = workdir / "report"
    return [(folder / name).read_text() for name in ("report.json", "runs.csv", "mixtures.csv")]


def test_every_point_has_its_runs_once_and_one_program_serves_them(tmp_path, monkeypatch, capsys):
    config, workdir = _config(tmp_path), tmp_path / "sweep"
    compiled = []
    compile_step = TrainStep._compile
    monkeypatch.setattr(
        TrainStep, "_compile", lambda *given: compiled.append(1) or compile_step(*given)
    )
    sweep(config, RETRIEVAL, epath.Path(workdir))
    assert len(compiled) == 1
    for one in runs(config):
        results = json.loads((workdir / one.name / "results.json").read_text())
        kinds = results["used"]["kinds"]
        assert sum(kinds.values()) == config.steps
        if one.mixture.name == "X-X":
            assert kinds == {"monolingual": 4}
        assert (workdir / one.name / "values_held_out.npz").exists()
        assert not (workdir / one.name / "tokens").exists()  # shared
    assert not list((workdir / "claims").iterdir())
    summary = json.loads((workdir / "results.json").read_text())
    found = summary["datasets"]["held_out"]
    assert {name: len(some) for name, some in found.items()} == dict.fromkeys(NAMED, 1)
    assert not summary["missing"]

    capsys.readouterr()
    monkeypatch.setattr(workers, "Worker", None)  # would fail if it were called
    sweep(config, RETRIEVAL, epath.Path(workdir))
    shown = capsys.readouterr().out
    assert "uniform" in shown
    assert "±" in shown
    assert f"python -m jaxir.sweep report {workdir}" in shown

    other = _config(tmp_path, named=("X-X", "X-Y"))
    with pytest.raises(UserError, match=r"belongs to a run with another config .*sweep.named was"):
        sweep(other, RETRIEVAL, epath.Path(workdir))


def test_a_failed_run_is_told_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    config = _config(tmp_path, named=("X-X", "X-Y", "uniform"), seeds=2)
    wanted = {run.name: run for run in runs(config)}
    begun, failing = [], ["X-Y-seed0"]

    def pretend(setup, name):
        begun.append(name)
        if name in failing:
            raise RunError("step 3: the loss is nan")
        write_run(tmp_path / "sweep", wanted[name], *quadratic(wanted[name]))

    monkeypatch.setattr(workers, "train_and_evaluate", pretend)
    workdir = epath.Path(tmp_path / "sweep")
    message = r"1 of 6 runs have no results \(X-Y-seed0 failed: step 3: the loss is nan\)"
    with pytest.raises(RunError, match=message) as error:
        sweep(config, RETRIEVAL, workdir)
    assert error.value.exit_status == 1
    assert len(begun) == 6
    assert "X-Y (1 of 2 seeds)" in capsys.readouterr().out

    begun.clear()
    with pytest.raises(RunError, match=message):
        sweep(config, RETRIEVAL, workdir)
    assert not begun

    report(workdir, workdir / "report", 0.5, None, None)
    summary = json.loads((workdir / "report" / "report.json").read_text())
    assert summary["missing"] == {"X-Y-seed0": "failed: step 3: the loss is nan"}
    assert {one["mixture"] for one in summary["tests"]} == {"X-X"}
    assert next(one for one in summary["mixtures"] if one["name"] == "X-Y")["seeds"] == 1
    page = (workdir / "report" / "report.html").read_text()
    assert "X-Y (1 of 2 seeds)" in page
    assert "failed: step 3: the loss is nan: X-Y-seed0" in page

    failing.clear()
    sweep(config, RETRIEVAL, workdir, retry_failed=True)
    assert begun == ["X-Y-seed0"]
    assert not json.loads((workdir / "results.json").read_text())["missing"]


def test_parameters_that_are_not_finite_are_a_failed_run(tmp_path, monkeypatch):
    config = _config(tmp_path, named=("uniform",))
    broken = {"kernel": np.array([1.0, np.nan], np.float32)}

    monkeypatch.setattr("jaxir.training.run.train", lambda *_: broken)
    with pytest.raises(RunError, match=r"uniform-seed0 failed: .*parameters that are not finite"):
        sweep(config, RETRIEVAL, epath.Path(tmp_path / "sweep"))


def test_a_kind_that_the_data_cannot_serve_is_one_line(tmp_path):
    config = _config(tmp_path)
    rows = (tmp_path / "rows.jsonl").read_text().splitlines()
    kept = [row for row in rows if '"query_lang": "de"' in row]
    (tmp_path / "rows.jsonl").write_text("\n".join(kept) + "\n")
    with pytest.raises(UserError, match=r"the data has no row for cross_lingual batches .*: de"):
        sweep(config, RETRIEVAL, epath.Path(tmp_path / "sweep"))


def test_workers_take_runs_apart_and_wait_for_each_other(tmp_path):
    wanted = runs(grid_config(0.5))
    workdir = epath.Path(tmp_path)
    with Claims(workdir / "claims") as one, Claims(workdir / "claims") as other:
        boards = Board(workdir, wanted, one), Board(workdir, wanted, other)
        assert boards[0].take() == 0
        for number in range(1, len(wanted)):  # the first worker is slow
            assert boards[1].take() == number
            write_run(tmp_path, wanted[number], 0.5, 100.0)
            other.release(wanted[number].name)
        assert boards[1].take() == WAIT
        one.release(wanted[0].name)  # given up, as by a worker that was stopped
        assert boards[1].take() == 0
        assert boards[0].take() == WAIT
        write_run(tmp_path, wanted[0], 0.5, 100.0)
        other.release(wanted[0].name)
        assert [board.take() for board in boards] == [DONE, DONE]
        assert boards[0].left() == 0


def test_a_dead_workers_run_is_taken_over(tmp_path):
    wanted = runs(grid_config(0.5))
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / f"{wanted[0].name}.claim-0").write_text("elsewhere 17 1")
    with Claims(epath.Path(tmp_path / "claims"), expires=0.2) as claims:
        board = Board(epath.Path(tmp_path), wanted[:1], claims)
        assert board.take() == WAIT
        deadline = time.monotonic() + 600
        while board.take() == WAIT:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert claims.take(wanted[0].name)


class _Page(HTMLParser):
    """Notes what a page needs from elsewhere, its pictures, and tags that are not closed."""

    def __init__(self):
        super().__init__()
        self.outside, self.pictures, self.open = [], [], []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag == "img":
            self.pictures.append(values["src"])
            assert values["alt"]
        elif "src" in values or "href" in values or tag in ("script", "link"):
            self.outside.append((tag, values))
        if tag not in ("img", "meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """A pretended sweep of the whole grid with its report; the config is hostile to HTML."""
    folder = tmp_path_factory.mktemp("reported")
    config = grid_config()
    config.data.directory = "<script>alert(1)</script>"
    write_sweep(folder, config, failed=("25-50-25-seed1",))
    report(epath.Path(folder), epath.Path(folder / "report"), 0.5, None, None)
    return folder


def test_the_page_needs_no_other_file(reported):
    page = _Page()
    page.feed((reported / "report" / "report.html").read_text())
    assert not page.open
    assert not page.outside
    # six measures and the score, the front, the languages
    assert len(page.pictures) == 9
    files = sorted((reported / "report").glob("*.png"))
    assert len(files) == 9
    embedded = {base64.b64decode(source.partition("base64,")[2]) for source in page.pictures}
    assert embedded == {path.read_bytes() for path in files}
    assert all(picture.startswith(b"\x89PNG") for picture in embedded)


def test_the_page_has_what_it_takes_to_do_it_again(reported):
    page = (reported / "report" / "report.html").read_text()
    assert "python -m jaxir.sweep --config &lt;pretend&gt;.py" in page
    assert "python -m jaxir.sweep report" in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert '"learning_rate"' in page.replace("&quot;", '"')
    for package in ("jax ", "numpy ", "scipy "):
        assert re.search(rf"{package}\d+\.", page)


def test_csv_and_json_hold_the_figures(reported):
    study = read_study(epath.Path(reported), None)
    with (reported / "report" / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 32
    for row, figures in zip(rows, study.values):
        assert (row["multilingual/map"] == "") == (row["run"] == "25-50-25-seed1")
        if row["multilingual/map"]:
            assert float(row["multilingual/map"]) == figures[study.column("multilingual/map")]
    with (reported / "report" / "mixtures.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16 * len(study.metrics)
    summary = json.loads((reported / "report" / "report.json").read_text())
    means = {point["name"]: point["metrics"] for point in summary["mixtures"]}
    for row in rows:
        one = means[row["mixture"]][row["metric"]]
        assert float(row["mean"]) == pytest.approx(one["mean"])
        untested = row["mixture"] in ("uniform", "25-50-25")
        assert (row["p_holm"] == "") == untested
        assert row["seeds"] == ("1" if row["mixture"] == "25-50-25" else "2")
    best = summary["trade_off"]["best"]["shares"]
    assert sum(best.values()) == pytest.approx(1)
    assert best["cross_lingual"] > best["multilingual"]  # as the pretended truth has it
    assert summary["surfaces"]["multilingual/map"]["r_squared"] > 0.98


def _said(capsys, *arguments):
    assert main(["sweep", "report", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_one_seed_is_no_test_and_the_report_says_so(tmp_path, capsys):
    write_sweep(tmp_path, grid_config(0.5, seeds=1))
    said = _said(capsys, tmp_path)
    assert "no test: config.sweep.seeds = 1: a test needs at least two seeds" in said
    summary = json.loads((tmp_path / "report" / "report.json").read_text())
    assert not summary["tests"]
    assert "No significance tests:" in (tmp_path / "report" / "report.html").read_text()
    with pytest.raises(UserError, match=r"--against uniform: .* a test needs at least two seeds"):
        main(["sweep", "report", str(tmp_path), "--against", "uniform"])


def test_a_report_on_the_way_says_what_is_missing(tmp_path, capsys):
    config = grid_config(0.5)
    write_sweep(tmp_path, config)
    for name in ("uniform-seed0", "X-X-seed1"):
        (tmp_path / name / "results.json").unlink()
    said = _said(capsys, tmp_path, "--quality_weight", "0.9")
    assert "runs without results: 2 (2 of them not finished)" in said
    assert "no test: no mixture has two finished seeds in common with uniform" in said
    assert "predicted best shares at quality weight 0.9" in said
    assert "significantly better than hybrid" in _said(capsys, tmp_path, "--against", "hybrid")


def test_a_sweep_without_uniform_shares_has_no_test_unless_told(tmp_path, capsys):
    config = grid_config(0.0)
    config.sweep = SweepConfig(named=("X-X", "X-Y"), seeds=2)
    write_sweep(tmp_path, config)
    said = _said(capsys, tmp_path)
    assert "no test: the sweep has no mixture uniform; name another one with --against" in said
    assert "significantly worse than X-Y: X-X" in _said(capsys, tmp_path, "--against", "X-Y")
    assert "No fitted surface:" in (tmp_path / "report" / "report.html").read_text()


def test_a_report_that_cannot_be_is_one_line(tmp_path):
    workdir, single = tmp_path / "sweep", tmp_path / "single"
    write_sweep(workdir, grid_config(0.5))
    claim(epath.Path(single), Config())
    empty = tmp_path / "begun"
    write_sweep(empty, grid_config(0.5), failed=tuple(x.name for x in runs(grid_config(0.5))))
    damaged = tmp_path / "damaged"
    write_sweep(damaged, grid_config(0.5))
    (damaged / "X-X-seed0" / "values_held_out.npz").write_bytes(b"PK nothing")
    for arguments, message in (
        ((), "name the workdir of a sweep"),
        ((tmp_path / "nowhere",), "nowhere: no sweep here"),
        ((single,), "the workdir of a single run"),
        ((empty,), r"no run of this sweep has finished yet \(X-X-seed0 failed: step 7"),
        ((damaged,), "values_held_out.npz: cannot be read"),
        (
            (workdir, "--against", "X-Z"),
            "--against X-Z: no such mixture; the sweep has X-X, X-Y, multi",
        ),
        ((workdir, "--dataset", "cldr"), "--dataset cldr: the runs are evaluated on held_out"),
        ((workdir, "--quality_weight", "2"), "quality_weight"),
        ((workdir, "--qualty_weight", "2"), "did you mean --quality_weight"),
    ):
        with pytest.raises(UserError, match=message) as error:
            main(["sweep", "report", *map(str, arguments)])
        assert "\n" not in str(error.value)
    assert not (damaged / "report").exists()


def _like(whole, workdir):
    """A workdir with the same tokenizer, whose training is not reproducible."""
    shutil.copytree(whole / "tokenizer", workdir / "tokenizer")
    return workdir


def _command(module, config, workdir, *flags):
    command = [sys.executable, "-m", module, "--config", str(config), "--workdir", str(workdir)]
    switches = ("evaluation.every=0", "logging.tensorboard=False", "logging.export=False")
    return [*command, *(f"--config.{flag}" for flag in (*switches, *flags))]


def _start(config, workdir, log):
    flags = (f"sweep.named={NAMED!r}", "sweep.seeds=2")
    with log.open("ab") as stream:
        return subprocess.Popen(
            _command("jaxir.sweep", config, workdir, *flags),
            stdout=stream,
            stderr=stream,
            env=ENVIRONMENT,
        )


@pytest.mark.slow
def test_kills_and_two_workers_change_nothing_in_the_report(kills, tmp_path):
    config = write_config(tmp_path, steps=80)
    log = tmp_path / "log"
    assert _start(config, tmp_path / "whole", log).wait(timeout=900) == 0, log.read_text()

    rng = random.Random(0)
    killed, struck, seen = _like(tmp_path / "whole", tmp_path / "killed"), set(), set()
    for _ in range(min(kills, MOST_KILLS)):
        process = _start(config, killed, log)
        deadline = time.monotonic() + 600
        while not (saved := set(killed.glob("*/checkpoints/*")) - seen):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        seen |= saved
        time.sleep(rng.random() / 4)
        struck |= {path.name.split(".claim-")[0] for path in (killed / "claims").iterdir()}
        process.kill()
        process.wait()
    assert struck  # in the middle of some runs
    workers = [_start(config, killed, log) for _ in range(2)]
    assert [worker.wait(timeout=900) for worker in workers] == [0, 0], log.read_text()
    assert not list((killed / "claims").iterdir())

    together = _like(tmp_path / "whole", tmp_path / "together")
    workers = [_start(config, together, log) for _ in range(2)]
    assert [worker.wait(timeout=900) for worker in workers] == [0, 0], log.read_text()
    expected = _figures(tmp_path / "whole")
    assert _figures(killed) == expected
    assert _figures(together) == expected
    assert "nan" not in expected[1].lower()

    # and a run of a sweep is that run alone
    shares = ("hybrid.shares.monolingual=1", "hybrid.shares.cross_lingual=0")
    alone = _command("jaxir.train", config, tmp_path / "alone", "seed=1", *shares)
    _like(tmp_path / "whole", tmp_path / "alone")
    subprocess.run(alone, check=True, capture_output=True, timeout=900, env=ENVIRONMENT)
    tasks = [
        json.loads((folder / "results.json").read_text())["datasets"]
        for folder in (tmp_path / "alone", killed / "X-X-seed1")
    ]
    assert tasks[0] == tasks[1]
    assert np.isfinite(
        json.loads(expected[0])["mixtures"][0]["metrics"]["multilingual/map"]["mean"]
    )
