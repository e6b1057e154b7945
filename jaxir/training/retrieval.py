"""The task that trains a retriever of texts: its loss, its evaluation, its export."""

import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array

from jaxir.benchmarks.bm25 import bm25
from jaxir.config import Config
from jaxir.data.tokens import Tokens
from jaxir.evaluation.comparison import RETRIEVAL_METRICS
from jaxir.evaluation.dataset import SETTINGS, select_queries
from jaxir.evaluation.measuring import search_top_k_metrics
from jaxir.evaluation.per_query import write_values
from jaxir.evaluation.ranks import count_ranked_above
from jaxir.evaluation.settings import SettingsReport, evaluate_settings
from jaxir.evaluation.tables import COLUMNS
from jaxir.models import dual_encoder
from jaxir.models.trained import TrainedModel
from jaxir.retrieval.encoding import Embed, encode, make_embed, resolve_batch_tokens
from jaxir.runtime.files import is_remote, publish
from jaxir.runtime.processes import is_first
from jaxir.training.batch_embedding import embed_batch
from jaxir.training.inputs import RetrievalInputs, TokenizedDataset, read_inputs
from jaxir.training.losses import clamped_temperature, contrastive_loss
from jaxir.training.step import make_state
from jaxir.training.task import AuxState, Metrics, Results, Setup
from jaxir.training.trained import write_export
from jaxir.training.workdir import values_file


class RetrievalTask:
    """Training and evaluation of a dual encoder on queries and passages; see `Task`."""

    columns = COLUMNS
    comparison = RETRIEVAL_METRICS

    def read_inputs(self, config: Config, workdir: epath.Path) -> RetrievalInputs:
        """Read and tokenize everything that the runs of a config need."""
        return read_inputs(config, workdir)

    def init_params(self, config: Config, pretrained: Any | None) -> dict[str, Any]:
        """The model's parameters, and `log_temperature` where it is learned."""
        if pretrained is None:
            pretrained = dual_encoder.init_params(config.model, jax.random.key(config.seed))
        params = {"model": pretrained}
        if config.loss.learned_temperature:
            params["log_temperature"] = jnp.log(jnp.float32(config.loss.temperature))
        return params

    def init_aux(self, config: Config, params: dict[str, Any]) -> AuxState:
        """Nothing: a step hands on parameters and optimizer state alone."""
        return {}

    def loss(
        self,
        params: Any,
        aux_state: AuxState,
        batch: dict[str, Array],
        config: Config,
        step: Array | int,
        seed: Array | None,
    ) -> tuple[Array, tuple[Metrics, AuxState]]:
        """InfoNCE over the global batch; a seed of None means no dropout."""
        if not (config.model.encoder.dropout or config.model.encoder.attention_dropout):
            seed = None
        queries, passages = embed_batch(config, params["model"], batch, seed)
        temperature = clamped_temperature(params.get("log_temperature"), config.loss)
        loss, accuracy = contrastive_loss(
            queries,
            passages,
            batch["query_cluster"],
            batch["passage_cluster"],
            batch["passage_lengths"] > 0,
            temperature,
            config.loss,
        )
        metrics = {"loss": loss, "accuracy": accuracy, "temperature": jnp.float32(temperature)}
        return loss, (metrics, aux_state)

    def validation_loss(self, params: Any, batch: dict[str, Array], config: Config) -> Array:
        """InfoNCE over the global batch, without dropout."""
        return self.loss(params, {}, batch, config, 0, None)[0]

    def make_encoders(self, config: Config) -> Embed:
        """The jitted embedding function."""
        return make_embed(config.model)

    def validate(self, setup: Setup, params: Any) -> dict[str, float]:
        """Metrics of the three settings on the held-out set, and their mean mAP as `map`."""
        dataset = setup.inputs.datasets["held_out"]
        max_queries = setup.config.evaluation.queries
        summary = evaluate_dataset(setup, params, dataset, max_queries).summary()
        maps = [summary[f"{setting}/map"] for setting in SETTINGS]
        return summary | {"map": float(np.nanmean(maps))}

    def evaluate(self, setup: Setup, params: Any) -> dict[str, dict[str, Any]]:
        """Reports by dataset and system; the trained model's also as heat map and per query."""
        from jaxir.evaluation.plots import draw_heat_maps  # matplotlib takes a second to import

        config, workdir = setup.config, setup.workdir
        reports: dict[str, dict[str, Any]] = {}
        untrained = None
        for name, dataset in setup.inputs.datasets.items():
            trained = evaluate_dataset(setup, params, dataset, with_top_k=True)
            reports[name] = {"trained": trained.to_dict()}
            maps = {"trained": trained.matrix["map"]}
            if config.evaluation.baselines and name != "held_out":
                if untrained is None:
                    state = make_state(config, setup.inputs.params, setup.mesh, self)
                    untrained = state["params"]["model"]
                before = evaluate_dataset(setup, untrained, dataset, with_top_k=True)
                reports[name]["untrained"] = before.to_dict()
                reports[name]["BM25"] = bm25(dataset.dataset).to_dict()
                maps = {"untrained": before.matrix["map"], **maps}
            if is_first():
                write_values(workdir / values_file(name), trained.values)
                title, picture = f"mAP, {trained.name}", workdir / f"heat_map_{name}.png"
                draw_heat_maps(maps, trained.languages, title, picture)
        return reports

    def export(self, setup: Setup, params: Any, results: Results) -> None:
        """Write a sentence-transformers folder; a bucket gets it when it is whole."""
        model, target = setup.config.model, setup.workdir / "export"
        trained = TrainedModel(
            model,
            params,
            setup.inputs.tokenizer,
            model.query_prefix,
            model.passage_prefix,
            model.max_query_tokens,
            model.max_passage_tokens,
        )
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder) / target.name if is_remote(target) else target
            write_export(local, trained, setup.config, results)
            if is_remote(target):
                publish(local, target, "modules.json")


def evaluate_dataset(
    setup: Setup,
    params: Any,
    tokenized: TokenizedDataset,
    max_queries: int = 0,
    with_top_k: bool = False,
) -> SettingsReport:
    """The three settings of a dataset, encoded on all devices.

    Args:
        setup: of the run.
        params: of the model.
        tokenized: the dataset and its tokens.
        max_queries: evaluate only that many queries, always the same ones; 0: all.
        with_top_k: search the multilingual pool too, for metrics of its top-k passages.
    """
    config, dataset = setup.config, tokenized.dataset

    def embeddings(side: str, tokens: Tokens, texts: np.ndarray, limit: int) -> np.ndarray:
        batch_tokens = resolve_batch_tokens(config.evaluation.batch_tokens)
        name = f"{tokenized.dataset.name}: {side}" if is_first() else None
        return encode(setup.compiled.encoders, params, tokens, texts, limit, batch_tokens, name)

    queried = np.arange(len(tokenized.query_tokens.length))
    pool = np.arange(len(tokenized.passage_tokens.length))
    if 0 < max_queries < len(queried):
        queried = np.sort(np.random.default_rng(0).permutation(queried)[:max_queries])
        dataset = select_queries(dataset, queried)
    model = config.model
    queries = embeddings("queries", tokenized.query_tokens, queried, model.max_query_tokens)
    passages = embeddings("passages", tokenized.passage_tokens, pool, model.max_passage_tokens)
    above = count_ranked_above(queries, passages, dataset)
    top_k = search_top_k_metrics(queries, passages, dataset) if with_top_k else None
    return evaluate_settings(above, dataset, top_k)


RETRIEVAL = RetrievalTask()
