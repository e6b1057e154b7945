"""What runs of one config share, whatever their shares and seeds: texts, tokens, shape, tasks."""

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from etils import epath

from jaxir.benchmarks.held_out import held_out_dataset
from jaxir.benchmarks.run import Benchmark, read_benchmark
from jaxir.config import (
    Config,
    ModelConfig,
    RetrievalEvaluationConfig,
    validate_shape,
)
from jaxir.data.collection import Collection, read_collection, split_held_out
from jaxir.data.contamination import drop_overlap
from jaxir.data.hybrid import Hybrid
from jaxir.data.pipeline import Loader, tokenize
from jaxir.data.tokens import Tokens, read_tokens
from jaxir.evaluation.dataset import RetrievalDataset
from jaxir.models.dual_encoder import init_params
from jaxir.models.hf import HuggingFaceModel, read_model
from jaxir.models.trained import fitted
from jaxir.runtime.files import path_of
from jaxir.training.tokenizers import named, tokenizer_of, with_vocab_of

logger = logging.getLogger(__name__)

# Another seed for another run must not move texts between training and validation.
SPLIT_SEED = 0


@dataclass(frozen=True)
class Task:
    """A retrieval task and its tokens."""

    dataset: RetrievalDataset
    query_tokens: Tokens
    passage_tokens: Tokens


@dataclass(frozen=True)
class RetrievalInputs:
    """Everything read from disk or made from texts, before any step."""

    model: ModelConfig  # with the true shape, which weights or a tokenizer may have decided
    params: Any | None  # of the weights to start from; None: random
    tokenizer: Any
    training: Collection
    held_out: Collection
    query_tokens: Tokens
    passage_tokens: Tokens
    tasks: Mapping[str, Task]  # "held_out" and, if there is one, the benchmark
    data_report: Mapping[str, Any]

    def applied(self, config: Config) -> Config:
        """The config with the model's true shape."""
        return dataclasses.replace(config, model=self.model)

    def loader(
        self, config: Config, collection: Collection, hybrid: Hybrid, training: bool
    ) -> Loader:
        """The batches of a schedule; what is only measured has a row a text."""
        return Loader(
            collection,
            hybrid,
            self.query_tokens,
            self.passage_tokens,
            self.model.max_query_tokens,
            self.model.max_passage_tokens,
            config.data.hard_negatives,
            self.model.packed_length if training else 0,
            jax.device_count(),
            config.scale.grad_cache_chunk or 1,
        )


def prepare(config: Config, workdir: epath.Path) -> RetrievalInputs:
    """Read and tokenize all that the runs of a config need.

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
    data_report["training_groups"], data_report["held_out_groups"] = (
        len(training.ids),
        len(held_out.ids),
    )
    model, params, tokenizer = load_initial_weights(config, training, workdir)
    validate_shape(model, config.loss.matryoshka)
    cache = path_of(config.data.cache) if config.data.cache else workdir / "tokens"
    query_tokens, passage_tokens = tokenize(collection, tokenizer, model, cache)
    sets = {"held_out": held_out_dataset(held_out)} if len(held_out.ids) else {}
    sets |= _benchmark(config.evaluation, Path(config.data.directory))
    return RetrievalInputs(
        model,
        params,
        tokenizer,
        training,
        held_out,
        query_tokens,
        passage_tokens,
        {name: _task(task, tokenizer, model, cache) for name, task in sets.items()},
        data_report,
    )


def _benchmark(config: RetrievalEvaluationConfig, directory: Path) -> dict[str, RetrievalDataset]:
    if not config.benchmark:
        return {}
    where = str(directory / config.benchmark_directory) if config.benchmark_directory else ""
    benchmark = Benchmark(config.benchmark, where, passage=config.passage)
    return {config.benchmark: next(read_benchmark(benchmark))}


def _task(dataset: RetrievalDataset, tokenizer: Any, model: ModelConfig, cache: epath.Path) -> Task:
    queries = [model.query_prefix + text for text in dataset.queries]
    passages = [model.passage_prefix + text for text in dataset.passages]
    return Task(
        dataset,
        read_tokens(queries, tokenizer, cache),
        read_tokens(passages, tokenizer, cache),
    )


def load_initial_weights(
    config: Config, training: Collection | None, workdir: epath.Path
) -> tuple[ModelConfig, Any | None, Any]:
    """The model with its true shape, the weights it starts from, and its tokenizer.

    Args:
        config: the run.
        training: what a tokenizer of its own is trained on; None: it has been.
        workdir: where that tokenizer is kept.

    Raises:
        UserError: names what is wrong in the weights, the tokenizer or the config.
    """
    model, params = config.model, None
    if model.init:
        model, params = _started_from(read_model(model.init), model, config.seed)
    tokenizer = tokenizer_of(model, model.init, training, workdir)
    if params is None:
        encoder = with_vocab_of(tokenizer, model.encoder)
    else:
        encoder = fitted(model.encoder, tokenizer, named(model, model.init))
    return dataclasses.replace(model, encoder=encoder), params, tokenizer


def _started_from(
    found: HuggingFaceModel, model: ModelConfig, seed: int
) -> tuple[ModelConfig, Any]:
    """The config with the shape of the weights, and the weights.

    A sentence-transformers folder decides pooling, Dense and normalization; a bare encoder leaves
    them to the config, and what it lacks starts at random.
    """
    encoder = dataclasses.replace(
        found.config.encoder,
        dropout=model.encoder.dropout,
        attention_dropout=model.encoder.attention_dropout,
    )
    model = dataclasses.replace(model, encoder=encoder)
    if (found.folder / "modules.json").exists():
        head = ("pooling", "dense", "projection", "normalize")
        shape = {name: getattr(found.config, name) for name in head}
        return dataclasses.replace(model, **shape), found.params
    random = init_params(model, jax.random.key(seed))
    return model, {**random, "encoder": found.params["encoder"]}
