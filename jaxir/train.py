"""Train a multilingual retriever with hybrid batches.

    python -m jaxir.train --config NAME.py [--workdir DIR] [--config.FIELD=VALUE ...]

The same command goes on with a run that was stopped or killed. It ends with a table of mAP in the
three settings and the rank distance, `results.json`, heat maps, and the best checkpoint as a
sentence-transformers folder, all in the workdir (by default a folder under runs/ named after the
config).

Exit status: 0 finished; 2 a mistake in what it was told; 143 stopped by SIGTERM, and saved; 1
otherwise.
"""

from pathlib import Path

from absl import flags

from jaxir import command_line
from jaxir.config import Config, validate
from jaxir.errors import UserError


def main(argv: list[str]) -> int | None:
    """Read the command line, then train."""
    values = flags.FlagValues()
    command_line.define_config(values)
    flags.DEFINE_string(
        "workdir", None, "where everything is written (default: runs/CONFIG)", flag_values=values
    )
    flags.DEFINE_bool(
        "distributed", False, "start on several hosts (a TPU slice)", flag_values=values
    )
    fields = "\n".join(command_line.field_help(Config()))
    usage = f"{__doc__}\nFields and their defaults:\n{fields}"
    if command_line.parse(argv, values, usage) is None:
        return 0
    config = command_line.config_of(values)
    validate(config)
    if values.workdir and "://" in values.workdir:
        raise UserError(
            f"--workdir {values.workdir}: must be local; "
            f"--config.checkpoint.directory={values.workdir} keeps the checkpoints there"
        )
    # these take seconds to import, and neither help nor a misspelt field should wait for them
    import jax

    from jaxir.training.run import run

    command_line.log_to_stderr()
    if values.distributed:
        jax.distributed.initialize()
    run(config, Path(values.workdir or Path("runs") / command_line.config_name(argv)))
    return 0


if __name__ == "__main__":
    command_line.run(main)
