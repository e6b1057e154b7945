"""Runs that train a retriever of texts: how they are measured, and what they leave."""

import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath

from jaxir.benchmarks.bm25 import bm25
from jaxir.config import Config
from jaxir.data.tokens import Tokens
from jaxir.evaluation.comparison import RETRIEVERS
from jaxir.evaluation.dataset import SETTINGS, select_queries
from jaxir.evaluation.measuring import first_places_alike
from jaxir.evaluation.per_query import write_values
from jaxir.evaluation.ranks import count_ranked_above
from jaxir.evaluation.settings import SettingsReport, evaluate_settings
from jaxir.evaluation.tables import COLUMNS
from jaxir.models.trained import TrainedModel
from jaxir.retrieval.encoding import Embed, encode, make_embed, tokens_at_once
from jaxir.runtime.files import is_remote, publish
from jaxir.runtime.processes import is_first
from jaxir.training.contrastive import CONTRASTIVE
from jaxir.training.family import Family, Results
from jaxir.training.inputs import RetrievalInputs, Task, prepare
from jaxir.training.step import make_state
from jaxir.training.trained import write_export
from jaxir.training.workdir import values_file


def evaluate_task(
    config: Config,
    embed: Embed,
    params: Any,
    task: Task,
    most_queries: int = 0,
    first_places: bool = False,
) -> SettingsReport:
    """The three settings of a task, on all devices; of `most_queries` always the same ones.

    With `first_places` the pool is searched too, for how alike parallel queries are answered.
    """

    def embeddings(side: str, tokens: Tokens, texts: np.ndarray, limit: int) -> np.ndarray:
        batch_tokens = tokens_at_once(config.evaluation.batch_tokens)
        name = f"{task.dataset.name}: {side}" if is_first() else None
        return encode(embed, params, tokens, texts, limit, batch_tokens, name)

    asked, pool = (
        np.arange(len(task.query_tokens.length)),
        np.arange(len(task.passage_tokens.length)),
    )
    dataset = task.dataset
    if 0 < most_queries < len(asked):
        asked = np.sort(np.random.default_rng(0).permutation(asked)[:most_queries])
        dataset = select_queries(dataset, asked)
    model = config.model
    queries = embeddings("queries", task.query_tokens, asked, model.max_query_tokens)
    passages = embeddings("passages", task.passage_tokens, pool, model.max_passage_tokens)
    above = count_ranked_above(queries, passages, dataset)
    more = first_places_alike(queries, passages, dataset) if first_places else None
    return evaluate_settings(above, dataset, more)


def _measure(config: Config, inputs: RetrievalInputs, embed: Embed, params: Any) -> dict:
    """The three settings on the held-out rows, and their mean as `map`."""
    task, queries = inputs.tasks["held_out"], config.evaluation.queries
    summary = evaluate_task(config, embed, params, task, queries).summary()
    maps = [summary[f"{setting}/map"] for setting in SETTINGS]
    return summary | {"map": float(np.nanmean(maps))}


def _results(
    config: Config,
    inputs: RetrievalInputs,
    embed: Embed,
    params: Any,
    mesh: jax.sharding.Mesh,
    workdir: epath.Path,
) -> dict[str, dict[str, Any]]:
    """Every task's report by system; the trained one as a heat map and query by query too."""
    from jaxir.evaluation.plots import draw_heat_maps  # matplotlib takes a second to import

    tasks: dict[str, dict[str, Any]] = {}
    untrained = None
    for name, task in inputs.tasks.items():
        trained = evaluate_task(config, embed, params, task, first_places=True)
        if is_first():
            write_values(workdir / values_file(name), trained.values)
        tasks[name] = {"trained": trained.to_dict()}
        maps = {"trained": trained.matrix["map"]}
        if config.evaluation.baselines and name != "held_out":
            if untrained is None:
                untrained = make_state(config, inputs.params, mesh)["params"]["model"]
            before = evaluate_task(config, embed, untrained, task, first_places=True)
            tasks[name] |= {
                "untrained": before.to_dict(),
                "BM25": bm25(task.dataset).to_dict(),
            }
            maps = {"untrained": before.matrix["map"], **maps}
        if is_first():
            title = f"mAP, {trained.name}"
            draw_heat_maps(maps, trained.languages, title, workdir / f"heat_map_{name}.png")
    return tasks


def _export(
    config: Config, inputs: RetrievalInputs, params: Any, results: Results, target: epath.Path
) -> None:
    """Write the model as a sentence-transformers folder, which a bucket gets when it is whole."""
    model = config.model
    prefixes = (model.query_prefix, model.passage_prefix)
    limits = (model.max_query_tokens, model.max_passage_tokens)
    trained = TrainedModel(model, params, inputs.tokenizer, *prefixes, *limits)
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / target.name if is_remote(target) else target
        write_export(local, trained, config, results)
        if is_remote(target):
            publish(local, target, "modules.json")


RETRIEVER = Family(
    objective=CONTRASTIVE,
    prepare=prepare,
    embed=lambda config: make_embed(config.model),
    measure=_measure,
    results=_results,
    export=_export,
    columns=COLUMNS,
    comparison=RETRIEVERS,
)
