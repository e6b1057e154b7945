"""One run from its first byte to its table."""

import dataclasses
import json
import logging
import shlex
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath

from jaxir.benchmarks.bm25 import bm25
from jaxir.config import Config
from jaxir.data.hybrid import Hybrid
from jaxir.errors import RunError
from jaxir.models.trained import TrainedModel
from jaxir.retrieval.tables import print_settings
from jaxir.retrieval.values import write_values
from jaxir.training.inputs import Inputs, prepare
from jaxir.training.loop import Programs, evaluate_task, train
from jaxir.training.meter import usage
from jaxir.training.processes import is_first
from jaxir.training.sharding import make_mesh, replicate
from jaxir.training.step import make_state
from jaxir.training.trained import write_export
from jaxir.training.workdir import RESULTS_FILE, claim, values_file
from jaxir.versions import made_with
from jaxir.whole_files import is_remote, publish, write_json

Results = dict[str, Any]


logger = logging.getLogger(__name__)


def run(config: Config, workdir: epath.Path) -> None:
    """Train what the config says, going on where an earlier call stopped, and show the results.

    Raises:
        UserError, RunError: one line each; see `jaxir.errors`.
    """
    # a batch that does not fit the devices fails before any reading
    make_mesh(config)
    claim(workdir, config)
    inputs = prepare(config, workdir)
    logger.info("data: %s", json.dumps(inputs.data_report))
    results, _ = train_and_measure(config, inputs, workdir, workdir.name, None)
    if not is_first():
        return
    for name, systems in results["tasks"].items():
        print_settings(f"{name}: {size_of(systems)}", systems)
    print(f"{workdir / RESULTS_FILE}, heat maps and metrics beside it")


def size_of(systems: Mapping[str, Any]) -> str:
    """How large a task is, in words."""
    report = next(iter(systems.values()))
    return f"{report['queries']:,} queries, {report['passages']:,} passages"


def train_and_measure(
    config: Config, inputs: Inputs, workdir: epath.Path, name: str, programs: Programs | None
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
    began = time.perf_counter()
    params, programs = train(config, inputs, workdir, name, programs)
    config = dataclasses.replace(config, model=inputs.model)
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
    with jax.set_mesh(mesh):
        results["tasks"] = _measure(config, inputs, workdir, params, programs, mesh)
    if is_first():
        if config.watch.export:
            _export(config, jax.device_get(whole), inputs.tokenizer, results, workdir / "export")
        write_json(path, results)
    return results, programs


def _export(
    config: Config, params: Any, tokenizer: Any, results: Results, target: epath.Path
) -> None:
    """Write the model as a sentence-transformers folder, which a bucket gets when it is whole."""
    model = config.model
    prefixes = (model.query_prefix, model.passage_prefix)
    limits = (model.max_query_tokens, model.max_passage_tokens)
    trained = TrainedModel(model, params, tokenizer, *prefixes, *limits)
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / target.name if is_remote(target) else target
        write_export(local, trained, config, results)
        if is_remote(target):
            publish(local, target, "modules.json")


def _usage(config: Config, inputs: Inputs) -> tuple[dict, dict, dict]:
    hybrid = Hybrid(inputs.training, config.hybrid, config.batch_size, config.seed)
    return usage(hybrid, config.steps)


def _measure(
    config: Config,
    inputs: Inputs,
    workdir: epath.Path,
    params: Any,
    programs: Programs,
    mesh: jax.sharding.Mesh,
) -> dict[str, dict[str, Any]]:
    """Every task's report by system; the trained one as a heat map and query by query too."""
    from jaxir.retrieval.plots import draw_heat_map  # matplotlib takes a second to import

    tasks: dict[str, dict[str, Any]] = {}
    untrained = None
    for name, task in inputs.tasks.items():
        trained = evaluate_task(config, programs, params, task, first_places=True)
        if is_first():
            draw_heat_map(trained, workdir / f"heat_map_{name}.png")
            write_values(workdir / values_file(name), trained.values)
        tasks[name] = {"trained": trained.to_dict()}
        if config.evaluation.baselines and name != "held_out":
            if untrained is None:
                untrained = make_state(config, inputs.params, mesh)["params"]["model"]
            before = evaluate_task(config, programs, untrained, task, first_places=True)
            tasks[name] |= {
                "untrained": before.to_dict(),
                "BM25": bm25(task.retrieval_set).to_dict(),
            }
    return tasks
