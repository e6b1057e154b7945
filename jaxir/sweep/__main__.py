"""Train one config at many points: shares of the kinds of batches, and seeds.

    python -m jaxir.sweep --config NAME.py --workdir DIR [--config.FIELD=VALUE ...]
    python -m jaxir.sweep report DIR [--quality_weight 0.5] [--against uniform]

The points are those of `config.sweep`. The same command goes on with a sweep that was stopped or
killed, and takes part in one that is under way, on this host or another that sees the workdir: each
takes the next run that nobody is at. A finished run is never run again, one that failed only with
--retry_failed. `report` may be asked for at any time: DIR/report gets a page with pictures, and its
figures as CSV and JSON.

Exit status: 0 finished; 2 a mistake in what it was told; 143 stopped by SIGTERM, and saved; 1
otherwise, also where runs failed.
"""

from absl import flags

from jaxir import command_line
from jaxir.errors import UserError
from jaxir.sweep.points import UNIFORM, points


def main(argv: list[str]) -> int | None:
    """Read the command line, then run the sweep or report on it."""
    if argv[1:2] == ["report"]:
        return _report([argv[0], *argv[2:]])
    values = flags.FlagValues()
    command_line.define_config(values)
    command_line.define_workdir(values)
    flags.DEFINE_bool("retry_failed", False, "also run what has failed before", flag_values=values)
    config = command_line.parse_config(argv, values, __doc__)
    if config is None:
        return 0
    points(config.sweep)  # a mistake in them is found before anything is imported or written
    with command_line.started(argv, values) as workdir:
        # some of what they import looks for devices
        from jaxir.sweep.workers import sweep
        from jaxir.tasks import task_of

        sweep(config, task_of(config), workdir, values.retry_failed)
    return 0


def _report(argv: list[str]) -> int:
    values = flags.FlagValues()
    flags.DEFINE_float(
        "quality_weight",
        0.5,
        "of mAP (images: R@1) in the pool, in the score whose best shares are predicted; the rest "
        "is of the rank distance",
        0,
        1,
        flag_values=values,
    )
    flags.DEFINE_string(
        "against", None, f"point the others are tested against ({UNIFORM})", flag_values=values
    )
    flags.DEFINE_string(
        "task",
        None,
        "which of the tasks that the runs measure (default: the last)",
        flag_values=values,
    )
    flags.DEFINE_string("output", None, "folder to write (default: DIR/report)", flag_values=values)
    words = command_line.parse(argv, values, str(__doc__), words=1)
    if words is None:
        return 0
    if not words:
        raise UserError("report: name the workdir of a sweep, python -m jaxir.sweep report DIR")
    from jaxir.runtime.files import path_of
    from jaxir.sweep.report import report

    workdir = path_of(words[0])
    output = path_of(values.output) if values.output else workdir / "report"
    report(workdir, output, values.quality_weight, values.against, values.task)
    return 0


def command() -> None:
    """The console script."""
    command_line.run(main)


if __name__ == "__main__":
    command()
