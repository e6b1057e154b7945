"""Workloads that training is measured on: model shapes, and batches with real lengths of texts.

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
from jaxir.data import batch as batch_layout
from jaxir.data.batch import Batch, BatchLayout
from jaxir.data.collection import read_collection
from jaxir.data.hybrid import Hybrid
from jaxir.data.packing import enough_rows, pack_batch, pack_devices, row_counts
from jaxir.data.pipeline import Loader, tokenize
from jaxir.models.hf import read_tokenizer

SHAPES = {
    "small": EncoderConfig(
        vocab_size=32_000, hidden_size=256, layers=4, heads=4, intermediate_size=1024
    ),
    "xlm-r-base": EncoderConfig(),
}
# Quantiles of the lengths of MLQA's questions and paragraphs (questions in five languages,
# paragraphs in four, one of each per pair), in WordPiece tokens of BERT's multilingual vocabulary,
# truncated to 64 and 256: the shortest, then in steps of a sixteenth.
QUERY_LENGTHS = (8, 12, 14, 14, 15, 16, 17, 17, 18, 19, 20, 21, 22, 24, 26, 29, 64)
PASSAGE_LENGTHS = (
    *(13, 51, 69, 84, 98, 112, 125, 140, 156, 174, 194, 218, 247),
    *(256, 256, 256, 256),
)
# MLQA test sets: languages of the questions by that of the paragraph
LANGUAGES = {"es": "ar de hi vi zh", "de": "ar es hi vi zh", "zh": "ar de es hi vi", "vi": "de"}
BATCHES = 4  # per round


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


def synthetic_batches(config: Config, devices: int) -> tuple[list[Batch], list[Batch]]:
    """Batches of random ids with MLQA's lengths, padded, and the same texts packed."""
    rng = np.random.default_rng(0)
    model, pairs = config.model, config.batch_size
    padded = []
    for _ in range(BATCHES):
        batch = {}
        for side, table, limit in (
            ("query", QUERY_LENGTHS, model.max_query_tokens),
            ("passage", PASSAGE_LENGTHS, model.max_passage_tokens),
        ):
            # inverse transform sampling: a uniform number is a quantile, between two of the table
            quantiles = rng.random(pairs) * (len(table) - 1)
            lengths = np.interp(quantiles, np.arange(len(table)), table).astype(np.int32)
            batch[f"{side}_ids"] = synthetic_ids(rng, lengths, limit, model.encoder)
            batch[f"{side}_lengths"] = lengths
            batch[f"{side}_cluster"] = np.arange(pairs, dtype=np.int32)
        padded.append(batch)
    return padded, _packed(config, padded, devices)


def synthetic_ids(
    rng: np.random.Generator, lengths: Int[np.ndarray, "B"], limit: int, encoder: EncoderConfig
) -> Int[np.ndarray, "B L"]:
    """Random ids of texts with these lengths, padded to `limit`."""
    # a Zipf distribution, as words have: density 1/r over the ids, by its inverse N^u
    ids = (encoder.vocab_size - 4) ** rng.random((len(lengths), limit)) + 3
    inside = np.arange(limit)[None, :] < lengths[:, None]
    return np.where(inside, ids, encoder.pad_id).astype(np.int32)


def _packed(config: Config, padded: list[Batch], devices: int) -> list[Batch]:
    """Batches of the same texts, packed as `Loader` packs them."""
    model, pairs = config.model, config.batch_size // devices
    width, limit = model.packed_length, model.max_query_tokens
    layout = BatchLayout(config.batch_size, 0, limit, model.max_passage_tokens, width)
    packings = [
        pack_devices(batch["query_lengths"], batch["passage_lengths"], layout, devices)
        for batch in padded
    ]
    # all devices have as many rows as the one that needs most, rounded up to one of a few counts,
    # each of which is compiled
    needed = [max(packing.rows for packing in of_batch) for of_batch in packings]
    enough = enough_rows(pairs, pairs, width, limit)
    counts = row_counts(needed, enough, config.scale.grad_cache_chunk or 1)
    batches = []
    for batch, of_batch, rows in zip(padded, packings, needed):
        count = next(count for count in counts if count >= rows)
        of_device = dataclasses.replace(layout, pairs=pairs, rows=count)
        pad_id = model.encoder.pad_id
        packed = pack_batch(batch, of_batch, of_device, 0, config.batch_size, pad_id)
        kept = {name: array for name, array in batch.items() if not name.endswith("_ids")}
        batches.append(kept | {name: array.astype(np.int32) for name, array in packed.items()})
    return batches


def with_mlqa_vocab(config: Config, directory: Path) -> Config:
    """The run with a vocabulary that holds all tokens of MLQA's texts.

    Args:
        config: the run.
        directory: holds `tokenizers/mbert-cased-vocab.txt`.

    Raises:
        UserError: the file is missing.
    """
    encoder = config.model.encoder
    size = max(encoder.vocab_size, len(_mlqa_tokenizer(directory)))
    encoder = dataclasses.replace(encoder, vocab_size=size)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, encoder=encoder))


def _mlqa_tokenizer(directory: Path) -> Any:
    return read_tokenizer(str(directory / "tokenizers/mbert-cased-vocab.txt"))


def mlqa_loader(config: Config, directory: Path, devices: int, cache: Path) -> Loader:
    """A training loader of MLQA's pairs: monolingual, cross-lingual and multilingual, equal shares.

    Args:
        config: the run.
        directory: holds `mlqa-test-pairs` and `tokenizers/mbert-cased-vocab.txt`.
        devices: number that share a batch.
        cache: folder of the token cache.

    Raises:
        UserError: a file is missing.
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
        grad_cache_chunk=config.scale.grad_cache_chunk or 1,
    )


def count_tokens(batches: list[Batch]) -> tuple[int, int]:
    """Tokens of the texts in some batches, and tokens computed, padding included."""
    text_tokens, all_tokens = zip(*map(batch_layout.count_tokens, batches))
    return sum(text_tokens), sum(all_tokens)


def model_flops(config: Config, batches: list[Batch]) -> float:
    """FLOPs of the encoder's matrix products on the texts' own tokens, the numerator of MFU.

    One forward and one backward pass over the tokens of the texts, each attending to those of its
    own text; neither padding nor rematerialization counts.
    """
    encoder = config.model.encoder
    width, inner = encoder.hidden_size, encoder.intermediate_size
    total = 0.0
    for batch in batches:
        for side in ("query", "passage"):
            lengths = batch[f"{side}_lengths"].astype(float)
            # per token: query, key, value and output projections, two layers of the MLP; a product
            # takes 2 FLOPs for each weight
            dense = 2 * (4 * width * width + 2 * width * inner) * lengths
            # attention: scores and weighted values, each 2 * width FLOPs for a pair of tokens
            total += float((dense + 4 * width * lengths**2).sum())
    # the backward pass has two products for each of the forward pass: by input and by weight
    return 3.0 * encoder.layers * total
