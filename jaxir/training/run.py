"""A run from its config to its results: set-up, training, evaluation, export."""

import shlex
import sys
import time
from typing import Any

import jax
import numpy as np
from etils import epath

from jaxir.config import RunConfig
from jaxir.errors import RunError
from jaxir.evaluation.tables import describe_size, print_settings
from jaxir.progress import still_at
from jaxir.runtime.files import write_json
from jaxir.runtime.mesh import make_mesh, replicate
from jaxir.runtime.processes import is_first
from jaxir.runtime.versions import made_with
from jaxir.training.loop import train
from jaxir.training.meter import usage
from jaxir.training.overview import print_overview
from jaxir.training.task import Results, Setup, Task, set_up
from jaxir.training.workdir import RESULTS_FILE, claim, read_results


def run(config: RunConfig, task: Task, workdir: epath.Path) -> None:
    """Train and evaluate a config, going on where an earlier call stopped, and print the results.

    Raises:
        UserError, RunError: one line each; see `jaxir.errors`.
    """
    mesh = make_mesh(config)  # a batch that does not fit the devices fails before any reading
    claim(workdir, config)
    results = read_results(workdir)
    if results is None:
        with still_at("reading data and weights"):
            inputs = task.read_inputs(config, workdir)
        setup = set_up(config, task, inputs, mesh, workdir)
        print_overview(setup)
        results = train_and_evaluate(setup, workdir.name)
    if is_first():
        for name, systems in results["datasets"].items():
            print_settings(f"{name}: {describe_size(systems)}", systems, task.columns)
        print(f"{workdir / RESULTS_FILE}, pictures and metrics beside it")


def train_and_evaluate(setup: Setup, name: str) -> Results:
    """Train a run, evaluate and export its best checkpoint, and write results.json.

    Args:
        setup: of the run.
        name: label of the progress line.

    Raises:
        UserError, RunError: see `train`; and for parameters that are not finite.
    """
    began = time.perf_counter()
    params = train(setup, name)
    kinds, query_languages, pairs = usage(setup.schedule, setup.config.steps)
    results: Results = {
        "command": shlex.join(["python", "-m", "jaxir.train", *sys.argv[1:]]),
        **made_with(),
        "seconds": time.perf_counter() - began,
        "data": dict(setup.inputs.data_report),
        "used": {
            "kinds": dict(kinds),
            "query_languages": dict(query_languages),
            "pairs": dict(pairs),
        },
    }
    replicated = replicate(params, setup.mesh)  # every process takes part
    _check_finite(replicated, setup.workdir)
    with jax.set_mesh(setup.mesh), still_at("evaluating"):
        results["datasets"] = setup.task.evaluate(setup, params)
    if is_first():
        if setup.config.logging.export:
            setup.task.export(setup, jax.device_get(replicated), results)
        write_json(setup.workdir / RESULTS_FILE, results)
    return results


def _check_finite(params: Any, workdir: epath.Path) -> None:
    if not all(np.isfinite(jax.device_get(leaf)).all() for leaf in jax.tree.leaves(params)):
        raise RunError(
            f"{workdir}: the last step left parameters that are not finite; lower "
            "config.optimizer.learning_rate or set config.optimizer.clip_norm"
        )
