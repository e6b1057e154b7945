"""The same work done by what a user would pick instead: sentence-transformers on PyTorch.

Dimension key: B pairs, L tokens.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxir.config import Config
from jaxir.data.pipeline import Batch
from jaxir.data.tokenizer import train_tokenizer
from jaxir.errors import UserError
from jaxir.models.hf import write_model
from jaxir.models.trained import TrainedModel
from jaxir.speed import timing


def require(module: str, package: str) -> Any:
    """Import a peer.

    Raises:
        UserError: it is not installed.
    """
    try:
        return __import__(module, fromlist=["_"])
    except ImportError as error:
        raise UserError(
            f"--against {package}: it is not installed (pip install {package})"
        ) from error


def torch_device() -> str:
    """Where PyTorch computes: on a GPU, if it finds one."""
    return "cuda" if require("torch", "torch").cuda.is_available() else "cpu"


def in_bfloat16(model: Any) -> None:
    """Let a model's products be in bfloat16 (autocast), wherever it is called.

    The cached loss calls it again from the backward pass, where autocast around the loss has ended.
    """
    torch = require("torch", "torch")
    model.forward = torch.autocast(torch_device(), torch.bfloat16)(model.forward)


def load_sentence_transformer(model: TrainedModel) -> Any:
    """sentence-transformers with the same weights."""
    peer = require("sentence_transformers", "sentence-transformers")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "model"
        write_model(
            target,
            model.config,
            jax.device_get(model.params),
            model.tokenizer,
            query_prefix=model.query_prefix,
            passage_prefix=model.passage_prefix,
            max_tokens=model.max_passage_tokens,
        )
        return peer.SentenceTransformer(str(target), device=torch_device())


def matmul_speed(dtype: str) -> float:
    """FLOPs a second of the product that `timing.matmul_speed` measures, by PyTorch."""
    torch = require("torch", "torch")
    size, repeats = timing.product_size(), 16
    shape, device = (size, size), torch_device()
    left, right = (torch.randn(shape, dtype=getattr(torch, dtype), device=device) for _ in "lr")

    def products() -> None:
        x = left
        for _ in range(repeats):
            x = torch.tanh(x @ right)
        float(x[0, 0])  # which waits for the device

    seconds = timing.in_turns({"products": products}, 5)["products"]
    return repeats * 2 * size**3 / min(seconds)


def training_steps(
    config: Config, params: Any, batches: list[Batch], compiled: bool
) -> Callable[[], list[float]]:
    """A call that takes a step of AdamW on each batch, and gives their losses.

    The loss is that of in-batch negatives. Texts are padded to the longest of the batch, as
    sentence-transformers does, and are on the device before; with `scale.texts_at_once` its cached
    loss embeds so many at a time. Products are in the run's precision (bfloat16 by autocast),
    attention is PyTorch's own (SDPA).

    Args:
        config: the run.
        params: weights to start from.
        batches: padded ones.
        compiled: let torch.compile have the encoder.
    """
    torch = require("torch", "torch")
    losses = require("sentence_transformers.sentence_transformer.losses", "sentence-transformers")
    # tokens are what it gets, so any tokenizer will do
    tokenizer = train_tokenizer(["any text"], 100)
    limits = config.model.max_query_tokens, config.model.max_passage_tokens
    trained = TrainedModel(config.model, params, tokenizer, "", "", *limits)
    model, device = load_sentence_transformer(trained), torch_device()
    model.train()
    if compiled:
        model[0].auto_model.compile(dynamic=True)
    half = config.model.compute_dtype == "bfloat16"
    if half:
        in_bfloat16(model)
    scale = 1 / config.loss.temperature
    if config.scale.texts_at_once:
        loss = losses.CachedMultipleNegativesRankingLoss(
            model, scale=scale, mini_batch_size=config.scale.texts_at_once
        )
    else:
        loss = losses.MultipleNegativesRankingLoss(model, scale=scale)
    rate, decay = config.optimizer.learning_rate, config.optimizer.weight_decay
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay, fused=True)
    features = [
        [_features(batch, side, device) for side in ("query", "passage")] for batch in batches
    ]

    def steps() -> list[float]:
        values = []
        for pair in features:
            with torch.autocast(device, torch.bfloat16, enabled=half):
                value = loss([dict(side) for side in pair], None)
            value.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.clip_norm)
            optimizer.step()
            optimizer.zero_grad()
            values.append(value.detach())
        return [float(value) for value in values]  # which waits for the device

    return steps


def _features(batch: Batch, side: str, device: str) -> dict[str, Any]:
    torch = require("torch", "torch")
    lengths = batch[f"{side}_lengths"]
    ids = torch.from_numpy(batch[f"{side}_ids"][:, : lengths.max()].astype(np.int64)).to(device)
    mask = np.arange(lengths.max())[None, :] < lengths[:, None]
    return {"input_ids": ids, "attention_mask": torch.from_numpy(mask.astype(np.int64)).to(device)}
