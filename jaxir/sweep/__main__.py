"""Train one config with many mixtures of batch kinds and several seeds, and compare the runs.

    python -m jaxir.sweep --config NAME.py --workdir DIR [--config.FIELD=VALUE ...]
    python -m jaxir.sweep report DIR [--quality_weight 0.5] [--against uniform]

`config.sweep` lists the mixtures. The same command continues a sweep that was stopped or killed,
and joins one that is running, on this host or on another one that sees the workdir: each worker
takes the next run that no other worker has claimed. A finished run is never repeated, a failed one
only with --retry_failed. `report` works at any time: it writes a page with plots, and the values
as CSV and JSON, to DIR/report.

Exit status: 0 finished; 2 a mistake in the command line or the config; 143 stopped by SIGTERM, and
saved; 1 otherwise, also if runs failed.
"""

from absl import flags

from jaxir import command_line
from jaxir.errors import UserError
from jaxir.sweep.mixtures import UNIFORM, mixtures


def main(argv: list[str]) -> int | None:
    """Read the command line, then run the sweep or write its report."""
    if argv[1:2] == ["report"]:
        return _report([argv[0], *argv[2:]])
    values = flags.FlagValues()
    command_line.define_config(values)
    command_line.define_workdir(values)
    flags.DEFINE_bool("retry_failed", False, "also repeat runs that failed", flag_values=values)
    config = command_line.parse_config(argv, values, __doc__)
    if config is None:
        return 0
    mixtures(config.sweep)  # reports a mistake in them before anything is imported or written
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
        "weight of multilingual mAP (images: R@1) in the score that the best shares maximize; the "
        "rest is the weight of rank distance",
        0,
        1,
        flag_values=values,
    )
    flags.DEFINE_string(
        "against",
        None,
        f"mixture that the others are tested against (default: {UNIFORM})",
        flag_values=values,
    )
    flags.DEFINE_string(
        "dataset",
        None,
        "evaluation dataset to report on (default: the last one of the runs)",
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
    report(workdir, output, values.quality_weight, values.against, values.dataset)
    return 0


def command() -> None:
    """Run the console script."""
    command_line.run(main)


if __name__ == "__main__":
    command()
