"""Texts into embeddings, with the tokenizing, beside sentence-transformers on the same weights."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxir.bench import peers, timing
from jaxir.benchmarks.cldr import cldr_dataset
from jaxir.benchmarks.lareqa import read_language
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
    """Seconds to encode some texts, by jaxir and by a peer in turns.

    Args:
        config: of the model with random weights.
        rounds: how often each is measured; what comes before, and compiles, does not count.
        model: folder, workdir or hub name; "": random weights.
        directory: of XQuAD-R, whose sentences are encoded; None: the demo's passages.
        languages: of XQuAD-R.
        against: "sentence-transformers", or "".
    """
    texts = cldr_dataset().passages
    if directory:
        texts = [
            text
            for language in languages
            for text in read_language(directory / f"{language}.json", language, "sentence").passages
        ]
    retriever = Retriever.load(model) if model else _random(config, texts)
    found: dict[str, np.ndarray] = {}

    def ours() -> None:
        found["jaxir"] = retriever.encode_passages(texts)

    candidates: dict[str, Callable[[], object]] = {"jaxir": ours}
    # JAX's arrays would go to the accelerator in the peer's process
    sent = replace(retriever.model, params=jax.device_get(retriever.model.params))
    with ExitStack() as processes:
        for name, compiled, keep_memory in peers.settings(against):
            if compiled:  # which pays for training alone: texts here are met once
                continue
            what = peers.encoding, sent, model, texts
            call = processes.enter_context(peers.own_process(*what, keep_memory=keep_memory))

            def theirs(name: str = name, call: Callable[[], Any] = call) -> None:
                found[name] = call()

            candidates[name] = theirs
        seconds = timing.in_turns(candidates, rounds)
    figures: dict[str, Any] = {
        "texts": len(texts),
        "from": f"XQuAD-R {' '.join(languages)}" if directory else "the demo",
        "model": model or "random weights",
        "width": retriever.model.config.encoder.hidden_size,
        "layers": retriever.model.config.encoder.layers,
        "precision": retriever.model.config.compute_dtype,
        "seconds": {name: timing.spread(times) for name, times in seconds.items()},
        "texts a second": {
            name: len(texts) / float(np.median(times)) for name, times in seconds.items()
        },
    }
    for name in list(candidates)[1:]:
        figures[f"times as fast as {name}"] = timing.ratio(seconds[name], seconds["jaxir"])
    if against:
        figures["largest difference of a number"] = float(
            np.abs(found["jaxir"] - found[against]).max()
        )
    return figures


def _random(config: Config, texts: Sequence[str]) -> Retriever:
    model = DualEncoderConfig(config.model.encoder, compute_dtype=config.model.compute_dtype)
    tokenizer = train_tokenizer(texts, 8_000)
    params = jax.device_get(init_params(model, jax.random.key(0)))
    limit = min(256, model.encoder.max_tokens)
    return Retriever(TrainedModel(model, params, tokenizer, "", "", limit, limit))
