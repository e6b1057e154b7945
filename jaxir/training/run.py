"""A config from its first byte to its table: one run, or several side by side."""

import copy
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
from etils import epath

from jaxir.benchmarks.bm25 import bm25
from jaxir.config import CompareConfig, Config
from jaxir.data.hybrid import Hybrid
from jaxir.models.trained import TrainedModel
from jaxir.retrieval.tables import print_comparison, print_settings
from jaxir.training.inputs import Inputs, prepare
from jaxir.training.loop import Programs, evaluate_task, train
from jaxir.training.meter import usage
from jaxir.training.processes import is_first
from jaxir.training.sharding import make_mesh, replicate
from jaxir.training.step import make_state
from jaxir.training.trained import write_export
from jaxir.training.workdir import RESULTS_FILE, claim
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
    if config.compare.shares:
        _compare(config, inputs, workdir)
        return
    results, _ = _train_and_measure(config, inputs, workdir, workdir.name, None)
    if not is_first():
        return
    for name, systems in results["tasks"].items():
        print_settings(f"{name}: {_size(systems)}", systems)
    print(f"{workdir / RESULTS_FILE}, heat maps and metrics beside it")


def _compare(config: Config, inputs: Inputs, workdir: epath.Path) -> None:
    """Every setting of the shares with every seed, then one table a task."""
    programs = None
    every: dict[str, list[Results]] = {}
    for seed in range(config.seed, config.seed + config.compare.seeds):
        for name, shares in config.compare.shares.items():
            one = copy.deepcopy(config)
            one.seed, one.hybrid.shares, one.compare = seed, shares, CompareConfig()
            folder = workdir / f"{name}-seed{seed}"
            results, programs = _train_and_measure(one, inputs, folder, folder.name, programs)
            every.setdefault(name, []).append(results)
    if not is_first():
        return
    summary: dict[str, Any] = {"tasks": {}, "ties": {}}
    for task in inputs.tasks:
        reports = {
            name: [one["tasks"][task]["trained"] for one in runs] for name, runs in every.items()
        }
        first = next(iter(every.values()))[0]["tasks"][task]
        ties = print_comparison(f"{task}, {_size(first)}", reports)
        summary["tasks"][task], summary["ties"][task] = reports, ties
    write_json(workdir / RESULTS_FILE, summary)
    print(f"{workdir / RESULTS_FILE}, the runs in folders beside it")


def _size(systems: Mapping[str, Any]) -> str:
    report = next(iter(systems.values()))
    return f"{report['queries']:,} queries, {report['passages']:,} passages"


def _train_and_measure(
    config: Config, inputs: Inputs, workdir: epath.Path, name: str, programs: Programs | None
) -> tuple[Results, Programs | None]:
    """Results of one run; those of a run that was finished before are read."""
    path = workdir / RESULTS_FILE
    if path.exists():
        claim(workdir, config)
        return json.loads(path.read_text(encoding="utf-8")), programs
    began = time.perf_counter()
    params, programs = train(config, inputs, workdir, name, programs)
    config = dataclasses.replace(config, model=inputs.model)
    results: Results = {
        "command": shlex.join(["python", "-m", "jaxir.train", *sys.argv[1:]]),
        "seconds": time.perf_counter() - began,
        "data": dict(inputs.data_report),
    }
    results["used"] = dict(
        zip(("kinds", "query_languages", "pairs"), map(dict, _usage(config, inputs)))
    )
    mesh = make_mesh(config)
    with jax.set_mesh(mesh):
        results["tasks"] = _measure(config, inputs, workdir, params, programs, mesh)
    whole = replicate(params, mesh)  # every process takes part
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
    """Every task's report by system; the trained one is drawn as a heat map."""
    from jaxir.retrieval.plots import draw_heat_map  # matplotlib takes a second to import

    tasks: dict[str, dict[str, Any]] = {}
    untrained = None
    for name, task in inputs.tasks.items():
        trained = evaluate_task(config, programs, params, task)
        if is_first():
            draw_heat_map(trained, workdir / f"heat_map_{name}.png")
        tasks[name] = {"trained": trained.to_dict()}
        if config.evaluation.baselines and name != "held_out":
            if untrained is None:
                untrained = make_state(config, inputs.params, mesh)["params"]["model"]
            before = evaluate_task(config, programs, untrained, task)
            tasks[name] |= {
                "untrained": before.to_dict(),
                "BM25": bm25(task.retrieval_set).to_dict(),
            }
    return tasks
