"""A run killed at random moments, also while saving, ends as if nothing had happened."""

import json
import random
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny import write_config

MOST_KILLS = 40
STEPS = 400


def _start(config, workdir):
    # stderr goes to a file: a pipe that nobody reads would stop the run
    with (workdir.parent / f"{workdir.name}.log").open("ab") as log:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "jaxir.train", "--config", str(config)),
                *("--workdir", str(workdir), "--config.evaluation.every=100"),
            ],
            stdout=log,
            stderr=log,
        )


def _finish(config, workdir):
    process = _start(config, workdir)
    assert process.wait(timeout=900) == 0, (workdir.parent / f"{workdir.name}.log").read_text()
    return load_file(workdir / "export" / "model.safetensors")


@pytest.mark.slow
def test_kills_change_nothing(kills, tmp_path):
    config = write_config(tmp_path, STEPS, packed_length=48)
    uninterrupted = _finish(config, tmp_path / "whole")
    rng = random.Random(0)
    checkpoints = tmp_path / "killed" / "checkpoints"
    seen, while_saving = set(), 0
    for kill in range(MOST_KILLS):
        if kill >= kills and while_saving:
            break
        process = _start(config, tmp_path / "killed")
        deadline = time.monotonic() + 600
        # every other kill strikes the moment a save begins, the others anywhere after one
        while process.poll() is None and time.monotonic() < deadline:
            names = {path.name for path in checkpoints.iterdir()} if checkpoints.exists() else set()
            if fresh := {n for n in names if n not in seen}:
                seen |= fresh
                break
            time.sleep(0.0005)
        time.sleep(rng.random() * (0.02 if kill % 2 else 0.4))
        sealed = {path.parent.name for path in checkpoints.glob("*/manifest.json")}
        while_saving += any(path.name not in sealed for path in checkpoints.iterdir())
        process.kill()
        process.wait()
    assert while_saving > 0
    killed = _finish(config, tmp_path / "killed")
    assert killed.keys() == uninterrupted.keys()
    for name in killed:
        np.testing.assert_array_equal(killed[name], uninterrupted[name])
    lines = [
        [
            json.loads(line)["step"]
            for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()
        ]
        for run in ("killed", "whole")
    ]
    assert lines[0] == lines[1]
