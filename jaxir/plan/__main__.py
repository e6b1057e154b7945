"""Learn what a config needs of a TPU slice before paying for one.

    python -m jaxir.plan --config tpu_v4.py --topology v4:2x2x2 [--search] [--output FILE.json]

Compiles the real train step, and a search step, for the slice with the TPU's own compiler (libtpu,
from PyPI; no TPU is needed) and shows memory on each chip, FLOPs, bytes through HBM and between
chips, the least time by the chip's peaks, and pairs/s at a given share of them (--mfu). The
topology may also be a slice's name in the cloud, e.g. v4-16. Where texts share rows
(config.model.packed_length), --tokens_a_pair says how long those of a pair are on average. --search
finds the largest batch on a chip that fits, and what made it fit. The model's shape is that of
config.model.encoder; nothing is downloaded.

Exit status: 0 planned; 2 a mistake in what it was told; 1 otherwise.
"""

import os
from pathlib import Path

from absl import flags

from jaxir import command_line
from jaxir.config import Config, validate_shape
from jaxir.errors import UserError


def main(argv: list[str]) -> int | None:
    """Read the command line, then plan."""
    values = flags.FlagValues()
    command_line.define_config(values)
    flags.DEFINE_string("topology", None, "e.g. v4:2x2x2 or v4-16", flag_values=values)
    flags.DEFINE_bool("search", False, "find the largest batch that fits", flag_values=values)
    flags.DEFINE_float(
        "mfu", 0.4, "share of the chips' peak that is reached", 0, 1, flag_values=values
    )
    flags.DEFINE_float(
        "tokens_a_pair",
        0.0,
        "mean of the data, where texts share rows (default: as many as the limits allow)",
        0,
        flag_values=values,
    )
    flags.DEFINE_string("output", None, "also write the plan to this file", flag_values=values)
    config = command_line.parse_config(argv, values, __doc__)
    if config is None:
        return 0
    if not isinstance(config, Config):
        raise UserError(f"--config: a run of {config.task}; plans are made of retrieval runs")
    validate_shape(config.model, config.loss.matryoshka)
    if values.topology is None:
        raise UserError("--topology is missing: e.g. --topology v4:2x2x2")
    if not values.mfu:
        raise UserError("--mfu 0: must be more than 0")
    # the compiler for TPUs needs none, and JAX must not look for one
    os.environ["JAX_PLATFORMS"] = "cpu"
    from jaxir.benchmarks.download import cache_folder
    from jaxir.plan.report import report_plan

    command_line.log_to_stderr()
    output = Path(values.output) if values.output else None
    cache = cache_folder() / "plans"
    tokens = values.tokens_a_pair
    report_plan(config, values.topology, values.search, values.mfu, cache, output, tokens)
    return 0


def command() -> None:
    """The console script."""
    command_line.run(main)


if __name__ == "__main__":
    command()
