"""Plan the memory and the time of a config on a TPU slice before paying for one.

    python -m jaxir.plan --config tpu_v4.py --topology v4:2x2x2 [--largest_batch]
        [--output FILE.json]

Compiles the real training step, and a search step, for the slice with the TPU compiler (libtpu,
from PyPI; no TPU is needed) and shows the memory of each chip, FLOPs, HBM traffic, bytes between
chips, the least time by the chip's peaks, and pairs per second at a given MFU (--mfu). The topology
may also be a slice's name in the cloud, e.g. v4-16. With packing (config.model.packed_length)
--tokens_per_pair is the mean number of tokens of a pair. --largest_batch finds the largest batch
that fits, and which memory savings it needs. The model's shape is that of config.model.encoder;
nothing is downloaded.

Exit status: 0 planned; 2 a mistake in flags or config; 1 otherwise.
"""

import os
from pathlib import Path

from absl import flags

from jaxir import command_line
from jaxir.config import Config, validate_shape
from jaxir.errors import UserError


def main(argv: list[str]) -> int | None:
    """Plan what the command line asks for."""
    values = flags.FlagValues()
    command_line.define_config(values)
    flags.DEFINE_string("topology", None, "e.g. v4:2x2x2 or v4-16", flag_values=values)
    flags.DEFINE_bool(
        "largest_batch", False, "find the largest batch that fits", flag_values=values
    )
    flags.DEFINE_float(
        "mfu", 0.4, "model FLOPs utilization that the step reaches", 0, 1, flag_values=values
    )
    flags.DEFINE_float(
        "tokens_per_pair",
        0.0,
        "mean of the data, for packed rows (default: as many as the limits allow)",
        0,
        flag_values=values,
    )
    flags.DEFINE_string("output", None, "also write the plan to this JSON file", flag_values=values)
    config = command_line.parse_config(argv, values, __doc__)
    if config is None:
        return 0
    if not isinstance(config, Config):
        raise UserError(f"--config: a run of {config.task}; only retrieval runs can be planned")
    validate_shape(config.model, config.loss.matryoshka)
    if values.topology is None:
        raise UserError("--topology is missing: e.g. --topology v4:2x2x2")
    if not values.mfu:
        raise UserError("--mfu 0: must be above 0")
    # the TPU compiler needs no TPU, and JAX must not look for one
    os.environ["JAX_PLATFORMS"] = "cpu"
    from jaxir.benchmarks.download import cache_folder
    from jaxir.plan.report import report_plan

    command_line.log_to_stderr()
    output = Path(values.output) if values.output else None
    cache = cache_folder() / "plans"
    report_plan(
        config,
        values.topology,
        values.largest_batch,
        values.mfu,
        cache,
        output,
        values.tokens_per_pair,
    )
    return 0


def command() -> None:
    """The console script."""
    command_line.run(main)


if __name__ == "__main__":
    command()
