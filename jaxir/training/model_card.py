"""The README.md of an exported model: how to use it, what it was trained on, and how well it does.

Figures come from the run's own files; what a run has not measured is not in the card.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from jaxir.config import Config
from jaxir.models.trained import TrainedModel
from jaxir.runtime.hub import revisions
from jaxir.runtime.versions import VERSION

_FIGURES = (
    ("monolingual mAP", "monolingual", "map"),
    ("cross-lingual mAP", "cross_lingual", "map"),
    ("multilingual mAP", "multilingual", "map"),
    ("multilingual nDCG@10", "multilingual", "ndcg@10"),
    ("rank distance", "multilingual", "rank_distance"),
)


def model_card(
    model: TrainedModel,
    config: Config | None = None,
    results: Mapping[str, Any] | None = None,
    name: str = "",
) -> str:
    """Markdown, with the front matter that the hub reads.

    Args:
        model: what is exported.
        config: that of the run which trained it; None: trained elsewhere.
        results: what `results.json` of the run holds; None: it has not finished.
        name: what a model that was trained elsewhere was read from.
    """
    parts = (_front_matter(model, config, results, name), _use(model), _run(config, results))
    return "\n".join(line for part in parts for line in part)


def _front_matter(
    model: TrainedModel, config: Config | None, results: Mapping[str, Any] | None, name: str
) -> Iterator[str]:
    yield "---"
    yield "library_name: sentence-transformers"
    yield "pipeline_tag: sentence-similarity"
    yield "tags: [sentence-transformers, feature-extraction, retrieval, jaxir]"
    languages = sorted((results or {}).get("used", {}).get("query_languages", {}))
    if languages:
        yield f"language: {json.dumps(languages)}"
    start = config.model.init if config is not None else name
    if _revision(start, results):
        yield f"base_model: {json.dumps(start.partition('@')[0])}"
    yield "---"
    yield ""
    encoder = model.config.encoder
    yield "# Dual encoder for multilingual retrieval"
    yield ""
    yield (
        f"{encoder.architecture}, {encoder.layers} layers of {encoder.hidden_size} dimensions, "
        f"{model.config.pooling} pooling; embeddings of {model.config.embedding_size} dimensions"
        f"{', of length 1' if model.config.normalize else ''}. Queries are cut after "
        f"{model.max_query_tokens} tokens, passages after {model.max_passage_tokens}. "
        f"Exported by jaxir {VERSION}."
    )
    if config is None and _revision(name, results):
        yield f"Read from {_start(name, results)}."
    yield ""


def _use(model: TrainedModel) -> Iterator[str]:
    yield "## Use"
    yield ""
    yield "```python"
    yield "from sentence_transformers import SentenceTransformer"
    yield ""
    yield 'model = SentenceTransformer("THIS_FOLDER")'
    yield 'queries = model.encode(["..."], prompt_name="query")'
    yield 'passages = model.encode(["..."], prompt_name="document")'
    yield "scores = queries @ passages.T"
    yield "```"
    yield ""
    yield (
        f"Queries are prefixed with {json.dumps(model.query_prefix, ensure_ascii=False)}, "
        f"passages with {json.dumps(model.passage_prefix, ensure_ascii=False)}."
    )
    yield ""


def _run(config: Config | None, results: Mapping[str, Any] | None) -> Iterator[str]:
    if config is None:
        return
    yield "## Training"
    yield ""
    yield f"* Steps: {config.steps:,} of {config.batch_size:,} pairs; seed {config.seed}."
    yield f"* From: {_start(config.model.init, results) or 'scratch'}."
    shares = {name: share for name, share in vars(config.hybrid.shares).items() if share}
    yield f"* Shares of batches: {_counts(shares)}."
    optimizer, loss = config.optimizer, config.loss
    yield f"* Learning rate {optimizer.learning_rate:g}, temperature {loss.temperature:g}."
    for source in config.data.sources:
        languages = f" ({', '.join(source.languages)})" if source.languages else ""
        yield f"* Data: {source.name or source.path or source.reader}{languages}."
    if results is None:
        yield ""
        yield "Exported from a run that had not finished."
        yield ""
        return
    if "rows" in results["data"]:
        yield f"* Rows of data: {results['data']['rows']:,}."
    for what, title in (("kinds", "Batches used"), ("query_languages", "Queries used")):
        yield f"* {title}: {_counts(results['used'][what])}."
    if "command" in results:
        yield f"* Command: `{results['command']}`."
    yield ""
    yield "## Figures"
    yield ""
    yield f"| dataset | {' | '.join(title for title, _, _ in _FIGURES)} |"
    yield "|---" * (len(_FIGURES) + 1) + "|"
    for dataset, systems in results["datasets"].items():
        for system, report in systems.items():
            cells = (_cell(report[setting].get(name)) for _, setting, name in _FIGURES)
            yield f"| {dataset}, {system} | {' | '.join(cells)} |"
    yield ""


def _revision(start: str, results: Mapping[str, Any] | None) -> str:
    """The commit of what a model started from, if that was read from the hub."""
    return (revisions() | dict((results or {}).get("hub", {}))).get(start, "")


def _start(start: str, results: Mapping[str, Any] | None) -> str:
    revision = _revision(start, results)
    return f"{start}, revision {revision}" if revision else start


def _counts(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:,}" for name, value in values.items())


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if value <= 1 else f"{value:,.0f}"
