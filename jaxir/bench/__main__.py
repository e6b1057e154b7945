"""Measure the speed and the memory of jaxir's parts, beside other libraries.

    python -m jaxir.bench NAME [--against LIBRARY] [--rounds 5] [--output FILE.json]

`train`: training steps on packed and on padded batches of 64 + 256 tokens, in turn with each other
and with sentence-transformers: pairs and tokens per second, MFU, the padding fraction, the parts of
a step. The model has random weights (--shape); the texts are random ids with MLQA's lengths, or
MLQA's own (--directory with `mlqa-test-pairs` and `tokenizers`). TensorFlow is not needed.
sentence-transformers has a process of its own; on a CPU it is also measured with freed memory kept,
as jaxir's commands keep it.

`memory`: planned peak memory of a step, and of one with gradient caching at 16 times the batch.

`encode`: encoding texts, beside sentence-transformers: the demo's passages, or sentences of XQuAD-R
(--directory, --languages), with --model's weights or random ones (--shape, --dtype).

`search`: the top 100 of 500,000 passages of width 384 (on a GPU or TPU of 10,000,000 of 768) for
256 queries, on an index that stays on the device, beside the matrix product alone and faiss or
torch. --passages, --width, --dtype.

`search_disk`: the top 100 of 5,000,000 passages in bfloat16, streamed from a file made for it
(3.6 GiB in the folder for temporary files), with the peak anonymous memory of the process.

`pipeline`: from the token cache on disk to batches in memory: pairs per second, padded and packed;
and the padding fraction in batches of MLQA's pairs (--directory).

`embedding_table`: the token lookup, the gradient of the table of token embeddings, and AdamW's
update of it by themselves, beside a copy of as many bytes; XLM-R base's table unless --shape says
otherwise.

`albef`: training steps of ALBEF with ITC only, + ITM, + MLM, + momentum, in turn: images and pairs
per second and the planned peak memory; and its towers by themselves. --pairs: images in a batch.

`load`: a new process per round, which loads --model, indexes two passages and searches once.

`profile`: a trace of one training step in the folder --trace, and its slowest operations.

`all`: train, memory, encode, search and profile one after the other, each in a process of its own
and beside the other library where it is installed, in two rounds, at a size that suits the device:
XLM-R base, 2,048 pairs and 10,000,000 passages on a GPU or TPU, small ones on a CPU. Writes
FILE.json after each, a table to FILE.md, and the trace to FILE.profile.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

from jaxir import command_line
from jaxir.errors import UserError

LIBRARIES = {
    "train": ("sentence-transformers",),
    "encode": ("sentence-transformers",),
    "search": ("faiss", "torch"),
}
NAMES = (
    *("train", "memory", "encode", "search", "search_disk", "pipeline", "albef", "load"),
    *("embedding_table", "profile", "all"),
)


def main(argv: list[str]) -> int | None:
    """Run the benchmark that the command line names."""
    values = flags.FlagValues()
    _define(values)
    words = command_line.parse(argv, values, str(__doc__), words=1)
    if words is None:
        return 0
    if not words or words[0] not in NAMES:
        raise UserError(f"name a benchmark, one of: {', '.join(NAMES)}")
    (name,) = words
    allowed = LIBRARIES.get(name, ())
    if values.against and values.against not in allowed:
        listed = f"one of: {', '.join(allowed)}" if allowed else "for train, encode and search only"
        raise UserError(f"--against {values.against}: must be {listed}")
    if name == "load":
        command_line.require(values, "model")
    if name == "profile":
        command_line.require(values, "trace")
    if values.output and not Path(values.output).absolute().parent.is_dir():
        raise UserError(f"--output {values.output}: its folder does not exist")
    # leave memory to PyTorch on the same GPU
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    output = Path(values.output) if values.output else None
    if name == "all":
        from jaxir.bench.runner import run_all

        trace = output.with_suffix(".profile") if output else Path("profile")
        run_all(output, Path(values.trace or trace), _flags_for_all(values))
        return 0
    from jaxir.bench.runner import measure_and_write
    from jaxir.progress import still_at
    from jaxir.runtime.memory import keep_freed_memory

    command_line.log_to_stderr()
    keep_freed_memory()
    with still_at(f"bench {name}"):
        measure_and_write(name, _benchmark(name, values), output)
    return 0


def _flags_for_all(values: flags.FlagValues) -> list[str]:
    """Flags that every benchmark of `all` gets."""
    if values.directory:
        raise UserError("--directory: not with all (train and encode read different folders)")
    names = ("shape", "pairs", "grad_cache_chunk", "dropout", "dtype", "model", "passages", "width")
    given = [f"--{name}={values[name].value}" for name in names if values[name].present]
    return [*given, f"--rounds={values.rounds if values['rounds'].present else 2}"]


def _define(values: flags.FlagValues) -> None:
    text, number = flags.DEFINE_string, flags.DEFINE_integer
    text("output", None, "also write the results to this JSON file", flag_values=values)
    number("rounds", 5, "number of times that each candidate is measured", 1, flag_values=values)
    text("against", "", "another library that does the same, in turn", flag_values=values)
    text("shape", None, "small or xlm-r-base (default: by device)", flag_values=values)
    number("pairs", None, "pairs in a batch (default: by device)", 1, flag_values=values)
    number(
        "grad_cache_chunk",
        0,
        "texts in a chunk of gradient caching; 0: none",
        0,
        flag_values=values,
    )
    flags.DEFINE_float("dropout", 0.1, "of the model", 0, 0.99, flag_values=values)
    text("dtype", None, "float32 or bfloat16 (default: by device)", flag_values=values)
    text("directory", None, "folder of the texts", flag_values=values)
    flags.DEFINE_list("languages", ["en", "ar", "zh"], "of XQuAD-R", flag_values=values)
    text("model", "", "workdir, folder or hub name", flag_values=values)
    number("passages", None, "in the index (default: by device)", 100, flag_values=values)
    number("width", None, "of an embedding (default: by device)", 1, flag_values=values)
    text("trace", "", "folder for a profile", flag_values=values)


def _benchmark(name: str, values: flags.FlagValues) -> Callable[[], dict[str, Any]]:
    """The call that runs a benchmark."""
    import jax

    from jaxir.bench import (
        encoding_speed,
        load_time,
        pipeline_speed,
        search_speed,
        step_parts,
        training_step,
        workloads,
    )

    large = jax.default_backend() != "cpu"
    dtype = values.dtype or ("bfloat16" if large else "float32")
    if dtype not in ("float32", "bfloat16"):
        raise UserError(f"--dtype {dtype}: must be float32 or bfloat16")
    shape = values.shape or ("xlm-r-base" if large or name == "embedding_table" else "small")
    if shape not in workloads.SHAPES:
        raise UserError(f"--shape {shape}: must be one of {', '.join(workloads.SHAPES)}")
    pairs = values.pairs or (2_048 if large else 64)
    grad_cache_chunk = values.grad_cache_chunk or (64 if large else 0)
    config = workloads.run_config(shape, pairs, dtype, grad_cache_chunk, values.dropout)
    directory = Path(values.directory) if values.directory else None
    against, rounds = values.against, values.rounds
    passages = values.passages or (10_000_000 if large else 500_000)
    width = values.width or (768 if large else 384)

    def measure_albef() -> dict[str, Any]:
        from jaxir.bench import albef_step  # none of the others needs vision

        images = values.pairs or 64 * jax.device_count()
        albef = albef_step.run_config(shape, images, dtype, values.dropout)
        return albef_step.measure(albef, rounds)

    benchmarks: dict[str, Callable[[], dict[str, Any]]] = {
        "train": lambda: training_step.measure(config, rounds, against, directory),
        "memory": lambda: training_step.measure_memory(config, 16),
        "encode": lambda: encoding_speed.measure(
            config, rounds, values.model, directory, values.languages, against
        ),
        "search": lambda: search_speed.measure(rounds, passages, width, dtype, against),
        "search_disk": lambda: search_speed.measure_disk(rounds),
        "pipeline": lambda: pipeline_speed.measure(rounds, directory),
        "embedding_table": lambda: step_parts.measure_embedding_table(config, rounds),
        "albef": measure_albef,
        "load": lambda: load_time.measure(rounds, values.model),
        "profile": lambda: training_step.profile(config, Path(values.trace)),
    }
    return benchmarks[name]


def command() -> None:
    """The console script."""
    command_line.run(main)


if __name__ == "__main__":
    command()
