"""The workdir of a sweep that nobody ran: figures whose truth is known, as runs leave them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from etils import epath

from jaxir.config import Config, SweepConfig
from jaxir.evaluation.per_query import write_values
from jaxir.evaluation.settings import PerQueryMetrics, summarize
from jaxir.runtime.versions import made_with
from jaxir.sweep.mixtures import Run, runs
from jaxir.sweep.workers import FAILED_FILE
from jaxir.training.workdir import RESULTS_FILE, claim, values_file

LANGUAGES = ("de", "en", "zh")
QUESTIONS = 40
TASK = "held_out"

Truth = Callable[[Run], tuple[float, float]]  # a run's quality and bias


def grid_config(step: float = 0.25, seeds: int = 2) -> Config:
    """A sweep over the usual kinds."""
    named = ("X-X", "X-Y", "multilingual", "hybrid", "uniform")
    return Config(steps=10, sweep=SweepConfig(step=step, named=named, seeds=seeds))


def quadratic(run: Run) -> tuple[float, float]:
    """Best at 0.4, 0.4, 0.2; a third of the bias at all cross-lingual; seeds differ little."""
    a, b, c = run.mixture.shares
    noise = 0.004 * np.random.default_rng([run.seed, *(int(1000 * x) for x in (a, b, c))]).normal()
    quality = 0.5 - 0.4 * ((a - 0.4) ** 2 + (b - 0.4) ** 2 + (c - 0.2) ** 2) + noise
    return quality, 300 - 200 * b + 300 * a**2 + 1000 * noise


def query_values(quality: float, bias: float, seed: int) -> PerQueryMetrics:
    """Parallel questions, some of them harder in every run, with noise of the run's own."""
    count = QUESTIONS * len(LANGUAGES)
    question = np.repeat(np.arange(QUESTIONS), len(LANGUAGES))
    hard = np.random.default_rng(7).normal(0, 0.05, QUESTIONS)[question]
    own = np.random.default_rng(seed).normal(0, 0.02, (count, len(LANGUAGES)))
    own -= own.mean(axis=0)
    pool = quality + hard - hard.mean()
    return PerQueryMetrics(
        LANGUAGES,
        ("monolingual", "cross_lingual", "multilingual"),
        np.tile(np.arange(len(LANGUAGES)), QUESTIONS),
        question,
        {"map": np.clip(pool[:, None] + 0.1 + own, 0, 1)},
        {
            "map": pool + own[:, 0],
            "rank_distance": bias * (1 + own[:, 1]),
            "peer": np.clip(0.5 + hard, 0, 1),
            "mrc@100": np.clip(hard, -1, 1),
        },
    )


def write_run(workdir: Path, run: Run, quality: float, bias: float) -> None:
    """What a finished run leaves for the report."""
    folder = workdir / run.name
    folder.mkdir(parents=True, exist_ok=True)
    seed = run.seed + int(1e6 * quality)
    values = query_values(quality, bias, seed)
    report = summarize(values, TASK, len(values.question), 100)
    write_values(folder / values_file(TASK), values)
    results = {
        "command": "python -m jaxir.sweep --config <pretend>.py",
        **made_with(),
        "seconds": 60.0,
        "data": {"rows": 120},
        "used": {"kinds": {"monolingual": 10}},
        "datasets": {TASK: {"trained": report.to_dict()}},
    }
    (folder / RESULTS_FILE).write_text(json.dumps(results))


def write_sweep(
    workdir: Path, config: Config, truth: Truth = quadratic, failed: tuple[str, ...] = ()
) -> None:
    """A whole sweep, in which some runs have failed."""
    claim(epath.Path(workdir), config)
    for run in runs(config):
        if run.name in failed:
            (workdir / run.name).mkdir()
            reason = {"error": "step 7: the loss is nan"}
            (workdir / run.name / FAILED_FILE).write_text(json.dumps(reason))
        else:
            write_run(workdir, run, *truth(run))
