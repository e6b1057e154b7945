"""sentence-transformers on PyTorch doing the work that jaxir is measured on.

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
from jaxir.data.batch import Batch
from jaxir.data.tokenizer import train_tokenizer
from jaxir.errors import UserError
from jaxir.models.hf import write_model
from jaxir.models.trained import TrainedModel
from jaxir.runtime.memory import keep_freed_memory


def require(module: str, package: str) -> Any:
    """Import a module of another library.

    Raises:
        UserError: its package is not installed.
    """
    try:
        return __import__(module, fromlist=["_"])
    except ImportError as error:
        raise UserError(f"--against {package}: not installed (pip install {package})") from error


def torch_device() -> str:
    """The device that PyTorch computes on: a GPU, if it finds one."""
    return "cuda" if require("torch", "torch").cuda.is_available() else "cpu"


@contextmanager
def in_own_process(
    make: Callable[..., Callable[[], Any]], *arguments: Any, keep_memory: bool = False
) -> Iterator[Callable[[], Any]]:
    """Run another library's call in a process of its own, as its user would.

    The allocator's settings hold for a whole process: in jaxir's process, which keeps freed memory,
    a step of PyTorch on CPUs would take a quarter less time than it takes by itself.

    Args:
        make: makes the call; runs in that process, before the first call.
        arguments: of `make`.
        keep_memory: let that process keep freed memory, as jaxir's commands do.

    Yields:
        A call that runs the other one and returns its value. It raises a UserError as it is, and a
        RuntimeError for any other error or where the process ended.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(
        target=_serve_calls, args=(theirs, keep_memory, make, arguments), daemon=True
    )
    process.start()
    theirs.close()

    def call() -> Any:
        try:
            ours.send("call")
            value, error = ours.recv()
        except (EOFError, ConnectionError) as closed:
            process.join()
            raise RuntimeError(f"its process ended, exit status {process.exitcode}") from closed
        if error:
            raise error
        return value

    try:
        yield call
    finally:
        ours.close()  # at which the process ends
        process.join()


def _serve_calls(
    connection: Connection, keep_memory: bool, make: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    jax.config.update("jax_platforms", "cpu")  # the accelerator is for the other library
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
        except Exception as error:  # as text: its class may not be installed in the other process
            connection.send((None, RuntimeError(f"{type(error).__name__}: {str(error)[:500]}")))


def use_bfloat16(model: Any) -> None:
    """Let a model compute its products in bfloat16 (autocast), wherever it is called.

    The cached loss calls it again from the backward pass, where autocast around the loss has ended.
    """
    torch = require("torch", "torch")
    model.forward = torch.autocast(torch_device(), torch.bfloat16)(model.forward)


def load_sentence_transformer(model: TrainedModel) -> Any:
    """A SentenceTransformer with the same weights."""
    package = require("sentence_transformers", "sentence-transformers")
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
        return package.SentenceTransformer(str(target), device=torch_device())


class LibraryVariant(NamedTuple):
    """A way to run another library."""

    name: str
    compiled: bool = False  # by torch.compile
    keep_memory: bool = False  # as in `in_own_process`


def variants(against: str) -> list[LibraryVariant]:
    """A library with its defaults, and with what speeds it up on this device; none without one."""
    if not against:
        return []
    if torch_device() == "cuda":
        return [LibraryVariant(against), LibraryVariant(f"{against}, torch.compile", compiled=True)]
    return [
        LibraryVariant(against),
        LibraryVariant(f"{against}, freed memory kept", keep_memory=True),
    ]


def matmul_speed(dtype: str) -> float:
    """FLOPs per second of the product that `timing.matmul_speed` measures, by PyTorch."""
    torch = require("torch", "torch")
    size, repeats = timing.matmul_size(), 16
    shape, device = (size, size), torch_device()
    left, right = (torch.randn(shape, dtype=getattr(torch, dtype), device=device) for _ in "lr")

    def products() -> None:
        x = left
        for _ in range(repeats):
            x = torch.tanh(x @ right)
        float(x[0, 0])  # waits for the device

    seconds = timing.alternate({"matmul": products}, 5)["matmul"]
    return repeats * 2 * size**3 / min(seconds)


def training_steps(
    config: Config, params: Any, batches: list[Batch], compiled: bool
) -> Callable[[], list[float]]:
    """A call that takes a step of AdamW on each batch, and returns their losses.

    The loss is InfoNCE over in-batch negatives (MultipleNegativesRankingLoss). Texts are padded to
    the longest of the batch, as sentence-transformers does, and are on the device beforehand; with
    `scale.grad_cache_chunk` its cached loss embeds that many texts at a time. Products are in the
    run's precision (bfloat16 by autocast), attention is PyTorch's own (SDPA).

    Args:
        config: the run.
        params: weights to start from.
        batches: padded ones.
        compiled: compile the encoder with torch.compile.
    """
    torch = require("torch", "torch")
    losses = require("sentence_transformers.sentence_transformer.losses", "sentence-transformers")
    # the batches hold token ids, so any tokenizer will do
    tokenizer = train_tokenizer(["any text"], 100)
    limits = config.model.max_query_tokens, config.model.max_passage_tokens
    trained = TrainedModel(config.model, params, tokenizer, "", "", *limits)
    model, device = load_sentence_transformer(trained), torch_device()
    model.train()
    if compiled:
        model[0].auto_model.compile(dynamic=True)
    bfloat16 = config.model.compute_dtype == "bfloat16"
    if bfloat16:
        use_bfloat16(model)
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
            with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
                value = loss([dict(side) for side in pair], None)
            value.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.clip_norm)
            optimizer.step()
            optimizer.zero_grad()
            values.append(value.detach())
        return [float(value) for value in values]  # waits for the device

    return steps


def encoding(model: TrainedModel, name: str, texts: Sequence[str]) -> Callable[[], np.ndarray]:
    """A call that encodes texts as passages.

    Args:
        model: the weights.
        name: folder of the model, or ""; one in sentence-transformers' format is loaded from there.
        texts: to encode.
    """
    if Path(name).is_dir() and (Path(name) / "modules.json").exists():
        package = require("sentence_transformers", "sentence-transformers")
        encoder = package.SentenceTransformer(name, device=torch_device())
    else:
        encoder = load_sentence_transformer(model)
    if model.config.compute_dtype == "bfloat16":
        use_bfloat16(encoder)
    batch_size = 256 if torch_device() == "cuda" else 32  # 32 is its default
    return lambda: encoder.encode(texts, prompt=model.passage_prefix, batch_size=batch_size)


def _features(batch: Batch, side: str, device: str) -> dict[str, Any]:
    torch = require("torch", "torch")
    lengths = batch[f"{side}_lengths"]
    ids = torch.from_numpy(batch[f"{side}_ids"][:, : lengths.max()].astype(np.int64)).to(device)
    mask = np.arange(lengths.max())[None, :] < lengths[:, None]
    return {"input_ids": ids, "attention_mask": torch.from_numpy(mask.astype(np.int64)).to(device)}
