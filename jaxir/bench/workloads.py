"""The work that training is measured on: shapes of models, and batches as real data makes them.

Dimension key: B pairs, L tokens.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from jaxir.config import (
    Config,
    DataConfig,
    EncoderConfig,
    HybridConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    ScaleConfig,
    Shares,
    Source,
)
from jaxir.data import pipeline
from jaxir.data.collection import read_collection
from jaxir.data.hybrid import Hybrid
from jaxir.data.packing import enough_rows, pack, pack_batch, row_counts, texts_a_row
from jaxir.data.pipeline import Batch, Loader, tokenize
from jaxir.models.hf import read_tokenizer

SHAPES = {
    "small": EncoderConfig(
        vocab_size=32_000, hidden_size=256, layers=4, heads=4, intermediate_size=1024
    ),
    "xlm-r-base": EncoderConfig(),
}
# Lengths in tokens of MLQA's questions and paragraphs (five languages of questions, four of
# paragraphs, one question and one paragraph a row), WordPiece of BERT's multilingual vocabulary,
# cut to 64 and 256: the smallest, then each further sixteenth.
QUERY_LENGTHS = (8, 12, 14, 14, 15, 16, 17, 17, 18, 19, 20, 21, 22, 24, 26, 29, 64)
PASSAGE_LENGTHS = (
    *(13, 51, 69, 84, 98, 112, 125, 140, 156, 174, 194, 218, 247),
    *(256, 256, 256, 256),
)
LANGUAGES = {"es": "ar de hi vi zh", "de": "ar es hi vi zh", "zh": "ar de es hi vi", "vi": "de"}
BATCHES = 4  # that are met in a round


def run_config(
    shape: str, batch_size: int, dtype: str, grad_cache_chunk: int, dropout: float
) -> Config:
    """A training run with XLM-R's settings at 64 + 256 tokens, packed into rows of 256."""
    encoder = dataclasses.replace(SHAPES[shape], dropout=dropout, attention_dropout=dropout)
    return Config(
        steps=10_000,
        batch_size=batch_size,
        model=ModelConfig(
            encoder=encoder,
            compute_dtype=dtype,
            max_query_tokens=64,
            max_passage_tokens=256,
            packed_length=256,
            remat="products",
        ),
        loss=LossConfig(temperature=0.05, directions="query_to_passage"),
        optimizer=OptimizerConfig(learning_rate=1e-5, warmup_steps=0),
        scale=ScaleConfig(grad_cache_chunk=grad_cache_chunk),
    )


def made_up_batches(config: Config, devices: int) -> tuple[list[Batch], list[Batch]]:
    """Batches of random ids with MLQA's lengths: a row a text, and the same with shared rows."""
    rng = np.random.default_rng(0)
    model, pairs = config.model, config.batch_size
    padded = []
    for _ in range(BATCHES):
        batch = {}
        for side, table, limit in (
            ("query", QUERY_LENGTHS, model.max_query_tokens),
            ("passage", PASSAGE_LENGTHS, model.max_passage_tokens),
        ):
            sixteenths = rng.random(pairs) * (len(table) - 1)
            lengths = np.interp(sixteenths, np.arange(len(table)), table).astype(np.int32)
            batch[f"{side}_ids"] = made_up_ids(rng, lengths, limit, model.encoder)
            batch[f"{side}_lengths"] = lengths
            batch[f"{side}_cluster"] = np.arange(pairs, dtype=np.int32)
        padded.append(batch)
    return padded, _shared(config, padded, devices)


def made_up_ids(
    rng: np.random.Generator, lengths: Int[np.ndarray, "B"], limit: int, encoder: EncoderConfig
) -> Int[np.ndarray, "B L"]:
    """Random ids of texts of such lengths, padded to `limit`."""
    # as often as words: the r-th most frequent one r times as seldom as the first
    ids = (encoder.vocab_size - 4) ** rng.random((len(lengths), limit)) + 3
    inside = np.arange(limit)[None, :] < lengths[:, None]
    return np.where(inside, ids, encoder.pad_id).astype(np.int32)


def _shared(config: Config, padded: list[Batch], devices: int) -> list[Batch]:
    width, limit = config.model.packed_length, config.model.max_query_tokens
    most, pairs = texts_a_row(width, limit), config.batch_size
    packings = []
    for batch in padded:
        lengths = [batch[f"{side}_lengths"].reshape(devices, -1) for side in ("query", "passage")]
        packings.append([pack(own, width, most) for own in np.concatenate(lengths, axis=1)])
    needed = [max(packing.rows for packing in of_batch) for of_batch in packings]
    enough = enough_rows(pairs // devices, pairs // devices, width, limit)
    counts = row_counts(needed, enough, config.scale.grad_cache_chunk or 1)
    batches = []
    for batch, of_batch, rows in zip(padded, packings, needed):
        count = next(count for count in counts if count >= rows)
        shape = (count, width, most)
        shared = pack_batch(batch, of_batch, shape, 0, pairs, config.model.encoder.pad_id)
        kept = {name: array for name, array in batch.items() if not name.endswith("_ids")}
        batches.append(kept | {name: array.astype(np.int32) for name, array in shared.items()})
    return batches


def for_mlqa(config: Config, directory: Path) -> Config:
    """The same run, with a table of as many embeddings as the tokens that MLQA's texts may have.

    Args:
        config: the run.
        directory: holds `tokenizers/mbert-cased-vocab.txt`.

    Raises:
        UserError: the file is not there.
    """
    encoder = config.model.encoder
    size = max(encoder.vocab_size, len(_mlqa_tokenizer(directory)))
    encoder = dataclasses.replace(encoder, vocab_size=size)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, encoder=encoder))


def _mlqa_tokenizer(directory: Path) -> Any:
    return read_tokenizer(str(directory / "tokenizers/mbert-cased-vocab.txt"))


def mlqa_loader(config: Config, directory: Path, devices: int, cache: Path) -> Loader:
    """A loader of MLQA's pairs, as training would have it, with equal shares of three kinds.

    Args:
        config: the run.
        directory: holds `mlqa-test-pairs` and `tokenizers/mbert-cased-vocab.txt`.
        devices: that share a batch.
        cache: folder of the token cache.

    Raises:
        UserError: a file is not there.
    """
    sources = tuple(
        Source(
            "squad",
            f"mlqa-test-pairs/test-context-{passage}-question-{query}.json",
            (query, passage),
            parallel="mlqa",
        )
        for passage, queries in LANGUAGES.items()
        for query in queries.split()
    )
    collection = read_collection(DataConfig(directory=str(directory), sources=sources))
    model = config.model
    tokens = tokenize(collection, _mlqa_tokenizer(directory), model, cache)
    shares = Shares(monolingual=1, cross_lingual=1, multilingual=1)
    return Loader(
        collection,
        Hybrid(collection, HybridConfig(shares=shares), config.batch_size, seed=0),
        *tokens,
        model.max_query_tokens,
        model.max_passage_tokens,
        hard_negatives=0,
        packed_length=model.packed_length,
        devices=devices,
        rows_at_once=config.scale.grad_cache_chunk or 1,
    )


def tokens_of(batches: list[Batch]) -> tuple[int, int]:
    """Tokens of texts in some batches, and tokens that are computed, padding included."""
    real, places = zip(*map(pipeline.tokens_of, batches))
    return sum(real), sum(places)


def useful_flops(config: Config, batches: list[Batch]) -> float:
    """Floating-point operations of the encoder's matrix products that the texts themselves ask for.

    Three passes (one forward, two backward) over the tokens of the texts, each attending to those
    of its own text; neither padding nor what is computed again counts.
    """
    encoder = config.model.encoder
    width, inner = encoder.hidden_size, encoder.intermediate_size
    total = 0.0
    for batch in batches:
        for side in ("query", "passage"):
            lengths = batch[f"{side}_lengths"].astype(float)
            dense = 2 * (4 * width * width + 2 * width * inner) * lengths
            total += float((dense + 4 * width * lengths**2).sum())
    return 3.0 * encoder.layers * total
