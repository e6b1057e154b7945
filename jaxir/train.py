"""Train a multilingual retriever with hybrid batches.

    python -m jaxir.train --config NAME.py [--workdir DIR] [--config.FIELD=VALUE ...]

The same command goes on with a run that was stopped or killed. It ends with a table of mAP in the
three settings and the rank distance, `results.json`, heat maps, and the best checkpoint as a
sentence-transformers folder, all in the workdir (by default a folder under runs/ named after the
config), which may be in a bucket (gs://...).

With --distributed several processes, one a host, train together; their workdir is one that all of
them see. On a TPU slice they find each other; elsewhere --coordinator, --processes and --process
tell them how.

Exit status: 0 finished; 2 a mistake in what it was told; 143 stopped by SIGTERM, and saved; 1
otherwise.
"""

import os
from contextlib import nullcontext
from pathlib import Path

from absl import flags

from jaxir import command_line


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
    flags.DEFINE_string(
        "coordinator", None, "host:port of the first process, not on TPU", flag_values=values
    )
    for name, text in (("processes", "how many there are"), ("process", "the number of this one")):
        flags.DEFINE_integer(name, None, f"{text}, not on TPU", 0, flag_values=values)
    flags.DEFINE_integer(
        "dead_after",
        100,
        "seconds after which a process that gives no sign of life ends the others",
        1,
        flag_values=values,
    )
    flags.DEFINE_string(
        "compilation_cache",
        None,
        "where compiled programs are kept (default: the workdir, on accelerators)",
        flag_values=values,
    )
    config = command_line.parse_config(argv, values, __doc__)
    if config is None:
        return 0
    # these take seconds to import, and neither help nor a misspelt field should wait for them
    from jaxir.host_memory import keep_freed_memory
    from jaxir.training.processes import Join, joined
    from jaxir.whole_files import path_of

    workdir = path_of(values.workdir or Path("runs") / command_line.config_name(argv))
    command_line.log_to_stderr()
    keep_freed_memory()
    join = Join(values.coordinator, values.processes, values.process, values.dead_after)
    with joined(join) if values.distributed else nullcontext():
        from jaxir.training.run import run  # some of what it imports looks for devices

        _keep_compiled(values.compilation_cache, os.fspath(workdir / "compiled"))
        run(config, workdir)
    return 0


def _keep_compiled(chosen: str | None, default: str) -> None:
    """Keep compiled programs, so that a run that goes on after a preemption starts at once."""
    import jax

    if chosen is None and jax.default_backend() != "cpu":
        chosen = os.environ.get("JAX_COMPILATION_CACHE_DIR", default)
    if chosen is not None:
        jax.config.update("jax_compilation_cache_dir", chosen)


def command() -> None:
    """The console script."""
    command_line.run(main)


if __name__ == "__main__":
    command()
