"""Speed of encoding texts, with tokenizing, beside sentence-transformers on the same weights."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxir.bench import other_libraries, timing
from jaxir.benchmarks.cldr import cldr_dataset
from jaxir.benchmarks.xquad_r import read_language
from jaxir.config import Config, DualEncoderConfig
from jaxir.data.tokenizer import train_tokenizer
from jaxir.models.dual_encoder import init_params
from jaxir.models.trained import TrainedModel
from jaxir.retriever import Retriever


def measure(
    config: Config,
    rounds: int,
    model: str,
    directory: Path | None,
    languages: Sequence[str],
    against: str,
) -> dict[str, Any]:
    """Seconds to encode some texts, by jaxir and by another library in turn.

    Args:
        config: of the model with random weights.
        rounds: number of times that each is measured, after one that compiles.
        model: folder, workdir or hub name; "": random weights.
        directory: of XQuAD-R, whose sentences are encoded; None: the demo's passages.
        languages: of XQuAD-R.
        against: "sentence-transformers", or "".
    """
    texts = _texts(directory, languages)
    retriever = Retriever.load(model) if model else _random_retriever(config, texts)
    seconds, embeddings = _time(retriever, texts, rounds, model, against)
    encoder = retriever.model.config.encoder
    results: dict[str, Any] = {
        "texts": len(texts),
        "source": f"XQuAD-R {' '.join(languages)}" if directory else "the demo",
        "model": model or "random weights",
        "hidden size": encoder.hidden_size,
        "layers": encoder.layers,
        "precision": retriever.model.config.compute_dtype,
        "seconds": {name: timing.spread(times) for name, times in seconds.items()},
        "texts per second": {
            name: len(texts) / float(np.median(times)) for name, times in seconds.items()
        },
    }
    for name in list(seconds)[1:]:
        results[f"speedup over {name}"] = timing.ratio(seconds[name], seconds["jaxir"])
    if against:
        results["largest absolute difference"] = float(
            np.abs(embeddings["jaxir"] - embeddings[against]).max()
        )
    return results


def _texts(directory: Path | None, languages: Sequence[str]) -> Sequence[str]:
    if directory is None:
        return cldr_dataset().passages
    return [
        text
        for language in languages
        for text in read_language(directory / f"{language}.json", language, "sentence").passages
    ]


def _time(
    retriever: Retriever, texts: Sequence[str], rounds: int, model: str, against: str
) -> tuple[dict[str, list[float]], dict[str, np.ndarray]]:
    """Seconds of jaxir and of the other library's variants, and the embeddings of each."""
    embeddings: dict[str, np.ndarray] = {}

    def encode() -> np.ndarray:
        return retriever.encode_passages(texts)

    calls: dict[str, Callable[[], np.ndarray]] = {"jaxir": encode}
    # pickled JAX arrays would go to the accelerator in the other process
    on_host = replace(retriever.model, params=jax.device_get(retriever.model.params))
    with ExitStack() as processes:
        for name, compiled, keep_memory in other_libraries.variants(against):
            if compiled:  # compiling pays for training alone: here each text is encoded once
                continue
            calls[name] = processes.enter_context(
                other_libraries.in_own_process(
                    other_libraries.encoding, on_host, model, texts, keep_memory=keep_memory
                )
            )
        kept = {name: timing.keep_result(embeddings, name, call) for name, call in calls.items()}
        return timing.alternate(kept, rounds), embeddings


def _random_retriever(config: Config, texts: Sequence[str]) -> Retriever:
    """A retriever with random weights, and a tokenizer trained on the texts."""
    model = DualEncoderConfig(config.model.encoder, compute_dtype=config.model.compute_dtype)
    tokenizer = train_tokenizer(texts, 8_000)
    params = jax.device_get(init_params(model, jax.random.key(0)))
    limit = min(256, model.encoder.max_tokens)
    return Retriever(TrainedModel(model, params, tokenizer, "", "", limit, limit))
