"""The same work done by what a user would pick instead: sentence-transformers on PyTorch.

Dimension key: B pairs, L tokens.
"""

import multiprocessing
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxir.bench import timing
from jaxir.config import Config
from jaxir.data.pipeline import Batch
from jaxir.data.tokenizer import train_tokenizer
from jaxir.errors import UserError
from jaxir.models.hf import write_model
from jaxir.models.trained import TrainedModel
from jaxir.runtime.memory import keep_freed_memory


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


@contextmanager
def own_process(
    make: Callable[..., Callable[[], Any]], *arguments: Any, keep_memory: bool = False
) -> Iterator[Callable[[], Any]]:
    """A peer's call, in a process of its own, as its user has it.

    How memory is asked for holds for a whole process: beside jaxir's own work PyTorch would take a
    quarter less time for a step on CPUs than it takes by itself.

    Args:
        make: gives the call; it is called there, before the first call.
        arguments: of `make`.
        keep_memory: let that process keep freed memory, as jaxir's commands do.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    what = (theirs, keep_memory, make, arguments)
    process = context.Process(target=_answer, args=what, daemon=True)
    process.start()
    theirs.close()

    def call() -> Any:
        try:
            ours.send("call")
            value, error = ours.recv()
        except (EOFError, ConnectionError) as ended:
            process.join()
            raise RuntimeError(f"its process ended, exit status {process.exitcode}") from ended
        if error:
            raise error
        return value

    try:
        yield call
    finally:
        ours.close()  # which ends it
        process.join()


def _answer(
    connection: Connection, keep_memory: bool, make: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    jax.config.update("jax_platforms", "cpu")  # an accelerator is for the peer
    if keep_memory:
        keep_freed_memory()
    call = None
    while True:
        try:
            connection.recv()
        except EOFError:
            return
        try:
            call = call or make(*arguments)
            connection.send((call(), None))
        except UserError as error:
            connection.send((None, error))
        except Exception as error:  # of whatever kind, the other process may not know it
            connection.send((None, RuntimeError(f"{type(error).__name__}: {str(error)[:500]}")))


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


class Setting(NamedTuple):
    """A way to run a peer."""

    name: str
    compiled: bool = False  # by torch.compile
    keep_memory: bool = False  # as of `own_process`


def settings(against: str) -> list[Setting]:
    """As it comes, and with what else makes it faster on its device; none without a peer."""
    if not against:
        return []
    if torch_device() == "cuda":
        return [Setting(against), Setting(f"{against}, torch.compile", compiled=True)]
    return [Setting(against), Setting(f"{against}, freed memory kept", keep_memory=True)]


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
    sentence-transformers does, and are on the device before; with `scale.grad_cache_chunk` its
    cached loss embeds so many at a time. Products are in the run's precision (bfloat16 by
    autocast), attention is PyTorch's own (SDPA).

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
    if config.scale.grad_cache_chunk:
        loss = losses.CachedMultipleNegativesRankingLoss(
            model, scale=scale, mini_batch_size=config.scale.grad_cache_chunk
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


def encoding(model: TrainedModel, name: str, texts: Sequence[str]) -> Callable[[], np.ndarray]:
    """A call that encodes texts, as passages.

    Args:
        model: whose weights it gets.
        name: folder of the model; where it is one of sentence-transformers, it is loaded from it.
        texts: what is encoded.
    """
    if Path(name).is_dir() and (Path(name) / "modules.json").exists():
        package = require("sentence_transformers", "sentence-transformers")
        peer = package.SentenceTransformer(name, device=torch_device())
    else:
        peer = load_sentence_transformer(model)
    if model.config.compute_dtype == "bfloat16":
        in_bfloat16(peer)
    at_once = 256 if torch_device() == "cuda" else 32  # as its default is
    return lambda: peer.encode(texts, prompt=model.passage_prefix, batch_size=at_once)


def _features(batch: Batch, side: str, device: str) -> dict[str, Any]:
    torch = require("torch", "torch")
    lengths = batch[f"{side}_lengths"]
    ids = torch.from_numpy(batch[f"{side}_ids"][:, : lengths.max()].astype(np.int64)).to(device)
    mask = np.arange(lengths.max())[None, :] < lengths[:, None]
    return {"input_ids": ids, "attention_mask": torch.from_numpy(mask.astype(np.int64)).to(device)}
