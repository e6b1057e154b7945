"""The inputs that runs of one config share, whatever their shares and seeds."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from etils import epath

from jaxir.benchmarks.held_out import held_out_dataset
from jaxir.benchmarks.registry import Benchmark, read_benchmark
from jaxir.config import Config, ModelConfig, RetrievalEvaluationConfig, validate_shape
from jaxir.data.collection import Collection, read_collection
from jaxir.data.contamination import drop_overlap
from jaxir.data.held_out import split_held_out
from jaxir.data.hybrid import Hybrid
from jaxir.data.pipeline import Loader, tokenize
from jaxir.data.tokens import Tokens, read_tokens
from jaxir.evaluation.dataset import RetrievalDataset
from jaxir.runtime.files import path_of
from jaxir.training.initial_weights import load_initial_weights

logger = logging.getLogger(__name__)

# Another seed of another run must not move texts between training and validation.
SPLIT_SEED = 0


@dataclass(frozen=True)
class TokenizedDataset:
    """A retrieval dataset and the tokens of its texts."""

    dataset: RetrievalDataset
    query_tokens: Tokens
    passage_tokens: Tokens


@dataclass(frozen=True)
class RetrievalInputs:
    """Everything read from disk or made from texts, before any step; see `task.Inputs`."""

    model: ModelConfig  # with its true shape, which weights or a tokenizer may have decided
    params: Any | None  # initial weights; None: random
    tokenizer: Any
    training: Collection
    held_out: Collection
    query_tokens: Tokens
    passage_tokens: Tokens
    datasets: Mapping[str, TokenizedDataset]  # "held_out" and, if there is one, the benchmark
    data_report: Mapping[str, Any]

    def loader(
        self, config: Config, collection: Collection, schedule: Hybrid, training: bool
    ) -> Loader:
        """The batches of a schedule; only those for training are packed."""
        return Loader(
            collection,
            schedule,
            self.query_tokens,
            self.passage_tokens,
            self.model.max_query_tokens,
            self.model.max_passage_tokens,
            config.data.hard_negatives,
            self.model.packed_length if training else 0,
            jax.device_count(),
            config.scale.grad_cache_chunk or 1,
        )


def read_inputs(config: Config, workdir: epath.Path) -> RetrievalInputs:
    """Read and tokenize everything that the runs of a config need.

    Raises:
        UserError: names what is wrong in the data, the weights or the config.
    """
    collection = read_collection(config.data)
    data_report = dict(collection.report)
    if config.data.drop_overlap_with:
        folder = Path(config.data.directory) / config.data.drop_overlap_with
        collection, dropped = drop_overlap(collection, folder)
        data_report["dropped_as_contaminated"] = dropped
    training, held_out = split_held_out(
        collection, config.data.held_out, config.data.held_out_limit, SPLIT_SEED
    )
    data_report |= {"training_groups": len(training.ids), "held_out_groups": len(held_out.ids)}
    model, params, tokenizer = load_initial_weights(config, training, workdir)
    validate_shape(model, config.loss.matryoshka)
    cache = path_of(config.data.cache) if config.data.cache else workdir / "tokens"
    query_tokens, passage_tokens = tokenize(collection, tokenizer, model, cache)
    datasets = {"held_out": held_out_dataset(held_out)} if len(held_out.ids) else {}
    datasets |= _benchmark(config.evaluation, Path(config.data.directory))
    return RetrievalInputs(
        model,
        params,
        tokenizer,
        training,
        held_out,
        query_tokens,
        passage_tokens,
        {name: _tokenized(dataset, tokenizer, model, cache) for name, dataset in datasets.items()},
        data_report,
    )


def _benchmark(config: RetrievalEvaluationConfig, directory: Path) -> dict[str, RetrievalDataset]:
    if not config.benchmark:
        return {}
    folder = str(directory / config.benchmark_directory) if config.benchmark_directory else ""
    benchmark = Benchmark(config.benchmark, folder, passage=config.passage)
    return {config.benchmark: next(read_benchmark(benchmark))}


def _tokenized(
    dataset: RetrievalDataset, tokenizer: Any, model: ModelConfig, cache: epath.Path
) -> TokenizedDataset:
    queries = [model.query_prefix + text for text in dataset.queries]
    passages = [model.passage_prefix + text for text in dataset.passages]
    return TokenizedDataset(
        dataset,
        read_tokens(queries, tokenizer, cache),
        read_tokens(passages, tokenizer, cache),
    )
