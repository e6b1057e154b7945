"""Several real processes over loopback: one run, whatever becomes of them."""

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny import write_call, write_config

from jaxir.runtime import processes

STEPS = 24
DEVICES = 4


class Run:
    """The processes of one start of a run; a context manager that leaves none behind."""

    def __init__(self, config: Path, workdir: Path, count: int, *arguments: str):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        devices = f"device_count={DEVICES // count} "
        flags = re.sub(r"device_count=\d+ ", devices, os.environ["XLA_FLAGS"])
        environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        self.logs = [workdir.parent / f"{workdir.name}.{i}-of-{count}.log" for i in range(count)]
        self.processes = []
        for number, log in enumerate(self.logs):
            command = [
                *(sys.executable, "-m", "jaxir.train", "--config", str(config)),
                *("--workdir", str(workdir), "--distributed", "--dead_after", "10"),
                *("--coordinator", f"127.0.0.1:{port}", "--processes", str(count)),
                *("--process", str(number), *arguments),
                # what takes longest in so short a run
                *("--compilation_cache", str(config.parent / "compiled")),
            ]
            with log.open("ab") as stream:
                self.processes.append(
                    subprocess.Popen(command, stdout=stream, stderr=stream, env=environment)
                )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()

    def wait(self, seconds: float = 900) -> list[int]:
        deadline = time.monotonic() + seconds
        return [process.wait(max(0.1, deadline - time.monotonic())) for process in self.processes]

    def wait_for(self, path: Path, seconds: float = 600) -> None:
        deadline = time.monotonic() + seconds
        while not path.exists():
            assert time.monotonic() < deadline, self.text()
            assert all(process.poll() is None for process in self.processes), self.text()
            time.sleep(0.005)

    def text(self) -> str:
        return "\n".join(log.read_text() for log in self.logs)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return write_config(tmp_path_factory.mktemp("tiny"), STEPS, packed_length=48)


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """The workdir of an uninterrupted run of two processes."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    with Run(config, workdir, 2) as run:
        assert run.wait() == [0, 0], run.text()
    return workdir


def like(whole: Path, folder: Path) -> Path:
    """A workdir with the same tokenizer, whose training is not reproducible."""
    workdir = folder / "run"
    shutil.copytree(whole / "tokenizer", workdir / "tokenizer")
    return workdir


def lines(workdir: Path) -> dict[int, dict[str, float]]:
    found = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line for line in found if "pairs_per_second" in line}


def weights(workdir: Path) -> dict[str, np.ndarray]:
    return load_file(workdir / "export" / "model.safetensors")


def assert_same_to_1e_5(one: Path, other: Path, steps: int = STEPS) -> None:
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-5)
    # lines before may be means of fewer steps, where a run went on within them
    assert lines(one)[steps]["loss"] == pytest.approx(lines(other)[steps]["loss"], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 4])
def test_processes_change_nothing(config, whole, tmp_path, count):
    workdir = like(whole, tmp_path)
    with Run(config, workdir, count) as run:
        assert run.wait() == [0] * count, run.text()
    assert sorted(lines(workdir)) == sorted(lines(whole)) == [6, 12, 18, 24]
    assert_same_to_1e_5(workdir, whole)


@pytest.mark.slow
def test_stopped_with_four_goes_on_with_two(config, whole, tmp_path):
    workdir = like(whole, tmp_path)
    with Run(config, workdir, 4) as run:
        run.wait_for(workdir / "checkpoints" / "5" / "manifest.json")
        run.processes[2].send_signal(signal.SIGTERM)  # any of them
        assert run.wait() == [processes.SIGTERM_STATUS] * 4, run.text()
    said = [line for line in run.text().splitlines() if "and saved" in line]
    assert len(set(said)) == 1  # the same step on all
    assert len(said) == 4
    with Run(config, workdir, 2) as run:
        assert run.wait() == [0, 0], run.text()
    assert_same_to_1e_5(workdir, whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "way"), [(0, signal.SIGKILL), (1, signal.SIGKILL), (1, signal.SIGSTOP)]
)
def test_a_dead_host_ends_the_others_in_time(config, whole, tmp_path, victim, way):
    workdir = like(whole, tmp_path)
    with Run(config, workdir, 2, "--config.steps=100000") as run:
        run.wait_for(workdir / "checkpoints" / "5" / "manifest.json")
        run.processes[victim].send_signal(way)
        # --dead_after 10; without it JAX takes a hundred seconds
        status = run.processes[1 - victim].wait(90)
        assert status not in (0, processes.SIGTERM_STATUS)
        said = run.logs[1 - victim].read_text()
    assert "because another process ended" in said or "another task died" in said


@pytest.mark.slow
def test_kills_change_nothing(kills, config, whole, tmp_path):
    workdir = like(whole, tmp_path)
    rng = random.Random(1)
    checkpoints = workdir / "checkpoints"
    for kill in range(kills):
        with Run(config, workdir, 2) as run:
            # most strike after a save has begun, the others while the processes start
            before = set(checkpoints.iterdir()) if checkpoints.exists() else set()
            deadline = time.monotonic() + (60 if kill % 3 else rng.random() * 15)
            while time.monotonic() < deadline and all(p.poll() is None for p in run.processes):
                if checkpoints.exists() and set(checkpoints.iterdir()) - before:
                    time.sleep(rng.random() * 0.5)
                    break
                time.sleep(0.005)
            run.processes[rng.randrange(2)].kill()
            time.sleep(rng.random())
    with Run(config, workdir, 2) as run:
        assert run.wait() == [0, 0], run.text()
    ours, theirs = weights(workdir), weights(whole)
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name])
    assert lines(workdir).keys() == lines(whole).keys()


@pytest.mark.slow
def test_two_processes_take_the_runs_of_a_sweep_together(config, tmp_path):
    """As one worker; that one run fails is known to both, and ends both alike."""
    workdir = tmp_path / "sweep"
    (workdir / "X-Y-seed0").mkdir(parents=True)
    (workdir / "X-Y-seed0" / "failed.json").write_text('{"error": "step 7: the loss is nan"}')
    with Run(config, workdir, 2, "--config.sweep.named=('X-X', 'X-Y')") as run:
        assert run.wait() == [1, 1], run.text()
    assert run.text().count("X-Y-seed0 failed: step 7: the loss is nan") == 2
    assert (workdir / "X-X-seed0" / "results.json").exists()
    assert (workdir / "X-X-seed0" / "values_held_out.npz").exists()
    assert list(json.loads((workdir / "results.json").read_text())["missing"]) == ["X-Y-seed0"]
    assert not list((workdir / "claims").iterdir())


@pytest.mark.slow
def test_processes_change_nothing_of_albef(tmp_path):
    """Queues and batches that two processes hold parts of; what is measured of all images."""
    steps = 8
    config = write_call(tmp_path, f"tiny_albef.tiny_albef({steps}, dropout=0.1)")
    # fusion takes long to compile; test_vision_albef.py has it on 8 devices
    losses = ("--config.loss.itm=False", "--config.loss.mlm=False")
    one = tmp_path / "one"
    with Run(config, one, 1, *losses) as run:
        assert run.wait() == [0], run.text()
    two = like(one, tmp_path / "two")
    with Run(config, two, 2, *losses) as run:
        assert run.wait() == [0, 0], run.text()
    assert_same_to_1e_5(one, two, steps)
    ours, theirs = (json.loads((x / "results.json").read_text())["datasets"] for x in (one, two))
    assert ours == theirs
