"""A task that trains in seconds: three made-up languages, parallel word by word."""

import json
from pathlib import Path

import numpy as np

from jaxir.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    EncoderConfig,
    LoggingConfig,
    ModelConfig,
    OptimizerConfig,
    RetrievalEvaluationConfig,
    Source,
)

LANGUAGES = ("de", "en", "fr")


def write_rows(path: Path, groups: int = 120) -> None:
    """Parallel questions and passages: a passage holds its question's words and one more."""
    rng = np.random.default_rng(0)
    syllables = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
    words = {x: ["".join(rng.choice(syllables, 3)) for _ in range(60)] for x in LANGUAGES}
    with path.open("w", encoding="utf-8") as stream:
        for group in range(groups):
            chosen = rng.integers(0, 60, 4)
            for language in LANGUAGES:
                text = [words[language][word] for word in chosen]
                row = {"id": f"g{group}", "query": " ".join(text[:3]), "passage": " ".join(text)}
                row |= {"query_lang": language, "passage_lang": language}
                stream.write(json.dumps(row) + "\n")


def tiny_config(folder: Path, steps: int = 24, packed_length: int = 0) -> Config:
    """Writes the rows too. Evaluates once on the way, saves often."""
    write_rows(folder / "rows.jsonl")
    encoder = EncoderConfig(
        hidden_size=16,
        layers=2,
        heads=2,
        intermediate_size=32,
        positions=34,
        dropout=0.1,
        attention_dropout=0.1,
    )
    return Config(
        steps=steps,
        batch_size=16,
        model=ModelConfig(
            encoder=encoder,
            compute_dtype="float32",
            trained_tokenizer_size=300,
            max_query_tokens=24,
            max_passage_tokens=32,
            packed_length=packed_length,
        ),
        data=DataConfig(directory=str(folder), sources=(Source(path="rows.jsonl"),), held_out=0.2),
        optimizer=OptimizerConfig(learning_rate=5e-3, warmup_steps=4),
        checkpoint=CheckpointConfig(every=5),
        evaluation=RetrievalEvaluationConfig(every=12, batch_tokens=1_024),
        logging=LoggingConfig(every=6),
    )


def write_config(folder: Path, steps: int = 24, packed_length: int = 0) -> Path:
    """The tiny config as a file that `--config` reads."""
    tiny_config(folder, steps, packed_length)
    return write_call(folder, f"tiny.tiny_config(Path({str(folder)!r}), {steps}, {packed_length})")


def write_call(folder: Path, call: str) -> Path:
    """A file that `--config` reads, whose config is what a call of a module here gives."""
    path = folder / "tiny_run.py"
    path.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path\n"
        f"import {call.split('.')[0]}\n"
        f"def get_config():\n    return {call}\n"
    )
    return path
