"""Train a multilingual retriever with hybrid batches.

    python -m jaxir.train --config NAME.py [--workdir DIR] [--config.FIELD=VALUE ...]

The same command goes on with a run that was stopped or killed. It ends with a table of mAP in the
three settings and the rank distance, `results.json`, heat maps, and the best checkpoint as a
sentence-transformers folder, all in the workdir (by default a folder under runs/ named after the
config), which may be in a bucket (gs://...). A config with mixtures in `sweep` trains all of them,
and the table compares them; see jaxir.sweep.

With --distributed several processes, one a host, train together; their workdir is one that all of
them see. On a TPU slice they find each other; elsewhere --coordinator, --processes and --process
tell them how.

Exit status: 0 finished; 2 a mistake in flags, config or input; 143 stopped by SIGTERM, and saved; 1
otherwise.
"""

from absl import flags

from jaxir import command_line
from jaxir.sweep.mixtures import is_sweep, mixtures


def main(argv: list[str]) -> int | None:
    """Read the command line, then train."""
    values = flags.FlagValues()
    command_line.define_config(values)
    command_line.define_workdir(values)
    config = command_line.parse_config(argv, values, __doc__)
    if config is None:
        return 0
    if is_sweep(config):
        mixtures(config.sweep)  # a mistake in them is found before anything is imported or written
    with command_line.started(argv, values) as workdir:
        # these take seconds to import, and some of what they import looks for devices
        from jaxir.sweep.workers import sweep
        from jaxir.tasks import task_of
        from jaxir.training.run import run

        start = sweep if is_sweep(config) else run
        start(config, task_of(config), workdir)
    return 0


def command() -> None:
    """The console script."""
    command_line.run(main)


if __name__ == "__main__":
    command()
