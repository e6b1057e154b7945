"""One run from its first byte to its table."""

import json
import logging
import shlex
import sys
import time

import jax
import numpy as np
from etils import epath

from jaxir.config import RunConfig
from jaxir.data.hybrid import Hybrid
from jaxir.errors import RunError
from jaxir.evaluation.tables import print_settings
from jaxir.progress import still_at
from jaxir.runtime.files import write_json
from jaxir.runtime.mesh import make_mesh, replicate
from jaxir.runtime.processes import is_first
from jaxir.runtime.versions import made_with
from jaxir.tasks import family_of
from jaxir.training.family import Inputs, Results, size_of
from jaxir.training.loop import Programs, train
from jaxir.training.meter import usage
from jaxir.training.workdir import RESULTS_FILE, claim

logger = logging.getLogger(__name__)


def run(config: RunConfig, workdir: epath.Path) -> None:
    """Train what the config says, going on where an earlier call stopped, and show the results.

    Raises:
        UserError, RunError: one line each; see `jaxir.errors`.
    """
    # a batch that does not fit the devices fails before any reading
    make_mesh(config)
    claim(workdir, config)
    family = family_of(config)
    with still_at("reading data and weights"):
        inputs = family.prepare(config, workdir)
    logger.info("data: %s", json.dumps(inputs.data_report))
    results, _ = train_and_measure(config, inputs, workdir, workdir.name, None)
    if not is_first():
        return
    for name, systems in results["tasks"].items():
        print_settings(f"{name}: {size_of(systems)}", systems, family.columns)
    print(f"{workdir / RESULTS_FILE}, pictures and metrics beside it")


def train_and_measure(
    config: RunConfig,
    inputs: Inputs,
    workdir: epath.Path,
    name: str,
    programs: Programs | None,
) -> tuple[Results, Programs | None]:
    """Results of one run, going on where it was stopped; those of a finished one are read.

    Args:
        config: the run.
        inputs: shared by the runs of a sweep.
        workdir: the run's own folder.
        name: what the progress line calls it.
        programs: as for `train`; they are returned.

    Raises:
        UserError, RunError: as `train`; and for parameters that are not finite.
    """
    path = workdir / RESULTS_FILE
    if path.exists():
        claim(workdir, config)
        return json.loads(path.read_text(encoding="utf-8")), programs
    began, family = time.perf_counter(), family_of(config)
    params, programs = train(config, family, inputs, workdir, name, programs)
    config = inputs.applied(config)
    results: Results = {
        "command": shlex.join(["python", "-m", "jaxir.train", *sys.argv[1:]]),
        **made_with(),
        "seconds": time.perf_counter() - began,
        "data": dict(inputs.data_report),
    }
    results["used"] = dict(
        zip(("kinds", "query_languages", "pairs"), map(dict, _usage(config, inputs)))
    )
    mesh = make_mesh(config)
    whole = replicate(params, mesh)  # every process takes part
    if not all(np.isfinite(jax.device_get(leaf)).all() for leaf in jax.tree.leaves(whole)):
        raise RunError(
            f"{workdir}: the last step left parameters that are not finite; lower "
            "config.optimizer.learning_rate or set config.optimizer.clip_norm"
        )
    with jax.set_mesh(mesh), still_at("measuring"):
        results["tasks"] = family.results(config, inputs, programs.embed, params, mesh, workdir)
    if is_first():
        if config.logging.export:
            family.export(config, inputs, jax.device_get(whole), results, workdir / "export")
        write_json(path, results)
    return results, programs


def _usage(config: RunConfig, inputs: Inputs) -> tuple[dict, dict, dict]:
    hybrid = Hybrid(inputs.training, config.hybrid, config.batch_size, config.seed)
    return usage(hybrid, config.steps)
