"""Flags, logging and exit status of all commands.

Bare absl exits with 1 on `--help` and shows a traceback for a misspelt config field; here help
exits with 0, and a user's mistake is one line and status 2.
"""

import dataclasses
import difflib
import errno
import importlib.util
import logging
import os
import runpy
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags
from ml_collections import config_flags

from jaxir.config import CONFIGS, RunConfig
from jaxir.errors import NO_SPACE, RunError, UserError

if TYPE_CHECKING:
    from etils import epath

NO_PATH = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS)


def run(main: Callable[[list[str]], int | None]) -> None:
    """Call `main` with the arguments and exit with 0, or with one line and an error's status."""
    warnings.showwarning = _show_warning
    try:
        status = main(sys.argv)
        sys.stdout.flush()
    except (UserError, RunError) as error:
        _exit(str(error), error.exit_status)
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:
        # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    except OSError as error:
        if error.errno in NO_SPACE:
            where, mend = error.filename or "a file", "free some space, then start it again"
        elif error.errno in NO_PATH and error.filename:
            where, mend = error.filename, "mend the path, or who may use it"
        else:
            raise
        _exit(f"{where}: {error.strerror}; {mend}", 2)
    sys.exit(status or 0)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)


def _exit(message: str, status: int) -> None:
    print(f"error: {message}", file=sys.stderr, flush=True)
    # threads and event loops of libraries that broke off have nothing to add to that
    os._exit(status)


def log_to_stderr() -> None:
    """Log jaxir's messages as plain lines, and only warnings of the libraries."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("jaxir")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    # if a save fails, orbax and its event loops log tracebacks of what our one line says
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    sys.unraisablehook = _ignore_closed_loops


def _ignore_closed_loops(unraisable: Any) -> None:
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def parse(
    argv: list[str], values: flags.FlagValues, usage: str, words: int = 0
) -> list[str] | None:
    """Read the flags; prints the help and returns None where that was asked for.

    Args:
        argv: the command line, the program's name first.
        values: defined flags, which get their values.
        usage: printed before the flags as help.
        words: how many arguments that are no flags are allowed; they are returned.

    Raises:
        UserError: an unknown flag or field, or a value of the wrong type.
    """
    if any(argument.lstrip("-") in ("help", "helpfull", "h") for argument in argv[1:]):
        print(usage.strip())
        print("\nFlags:")
        for name in sorted(set(values) - {"only_check_args", "flagfile", "undefok"}):
            if not name.startswith("no"):
                print(f"  --{name}: {values[name].help}")
        return None
    _resolve_config(argv)
    try:
        rest = values(argv)
    except flags.UnrecognizedFlagError as error:
        near = difflib.get_close_matches(error.flagname, list(values), 1)
        hint = f"; did you mean --{near[0]}?" if near else "; see --help"
        raise UserError(f"--{error.flagname}: no such flag{hint}") from error
    except flags.Error as error:
        raise UserError(str(error).splitlines()[0]) from error
    except (KeyError, AttributeError, IndexError, TypeError, ValueError) as error:
        raise UserError(_misspelt(argv, error)) from error
    if len(rest) > 1 + words:
        raise UserError(f"{rest[1 + words]!r}: not a flag; see --help")
    return rest[1:]


def require(values: flags.FlagValues, *names: str) -> None:
    """Raise a `UserError` for a flag that has to be given and is not."""
    for name in names:
        if not values[name].value:
            raise UserError(f"--{name} is missing; see --help")


def define_config(values: flags.FlagValues) -> None:
    """Define `--config FILE` and the overrides `--config.field=value`."""
    config_flags.DEFINE_config_file(
        "config",
        None,
        "a file that defines get_config(), looked for here, in configs/ and among those installed; "
        "--config.FIELD=VALUE sets a field",
        flag_values=values,
    )


def define_workdir(values: flags.FlagValues) -> None:
    """Define the flags that say where runs are written and which processes take part in one."""
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


@contextmanager
def started(argv: list[str], values: flags.FlagValues) -> "Iterator[epath.Path]":
    """The workdir of the flags of `define_workdir`, with all processes of the run joined."""
    from jaxir.runtime.files import path_of
    from jaxir.runtime.memory import keep_freed_memory
    from jaxir.runtime.processes import Join, joined

    workdir = path_of(values.workdir or Path("runs") / config_name(argv))
    log_to_stderr()
    keep_freed_memory()
    join = Join(values.coordinator, values.processes, values.process, values.dead_after)
    with joined(join) if values.distributed else nullcontext():
        _keep_compiled(values.compilation_cache, os.fspath(workdir / "compiled"))
        yield workdir


def _keep_compiled(chosen: str | None, default: str) -> None:
    """Keep compiled programs on disk, so that a resumed run does not compile again."""
    import jax

    if chosen is None and jax.default_backend() != "cpu":
        chosen = os.environ.get("JAX_COMPILATION_CACHE_DIR", default)
    if chosen is not None:
        jax.config.update("jax_compilation_cache_dir", chosen)


def parse_config(argv: list[str], values: flags.FlagValues, doc: str | None) -> RunConfig | None:
    """Read the flags of a command that takes a config; None where help was asked for and printed.

    Args:
        argv: the command line, the program's name first.
        values: defined flags, `define_config` among them, which get their values.
        doc: printed as help, before the config's fields.

    Raises:
        UserError: a mistake in a flag or in the config, or no config.
    """
    fields = "\n\n".join(
        f"Fields of {task} configs and their defaults:\n" + "\n".join(field_help(kind()))
        for task, kind in CONFIGS.items()
    )
    if parse(argv, values, f"{doc}\n{fields}") is None:
        return None
    config = _config_of(values)
    config.validate()
    return config


def _config_of(values: flags.FlagValues) -> RunConfig:
    """The config after all overrides.

    Raises:
        UserError: none was given, or get_config() returns something else.
    """
    if values.config is None:
        raise UserError("--config is missing: name a config, e.g. --config demo.py")
    config = values.config
    if not isinstance(config, RunConfig):
        raise UserError("--config: get_config() must return a Config of jaxir")
    return config


def field_help(config: object, prefix: str = "config") -> Iterator[str]:
    """`--config.field=default` of every field, for the help."""
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from field_help(value, f"{prefix}.{field.name}")
        else:
            yield f"  --{prefix}.{field.name}={value!r}"


def config_name(argv: list[str]) -> str:
    """Stem of the config's file name, "" where there is none."""
    return next((Path(value).stem for _, value in _config_arguments(argv)), "")


def _config_arguments(argv: list[str]) -> Iterator[tuple[int, str]]:
    """Index of the argument that names the config's file, and that name."""
    for place, argument in enumerate(argv):
        if argument in ("--config", "-config") and place + 1 < len(argv):
            yield place + 1, argv[place + 1]
        elif argument.startswith(("--config=", "-config=")):
            yield place, argument.split("=", 1)[1]


def _resolve_config(argv: list[str]) -> None:
    """Replace a config's bare name by the path of its file."""
    for place, value in list(_config_arguments(argv)):
        path = find_config(value)
        before = argv[place].split("=", 1)[0] + "=" if argv[place].startswith("-") else ""
        argv[place] = before + str(path)


def find_config(name: str) -> Path:
    """Path of a config: as given, in configs/, or among those installed with the package.

    Raises:
        UserError: there is none of that name.
    """
    spec = importlib.util.find_spec("jaxir.configs")
    shipped = list(spec.submodule_search_locations or []) if spec else []
    folders = [Path(), Path("configs"), *map(Path, shipped)]
    name = name if name.endswith(".py") else name + ".py"
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    names = sorted(path.name for folder in folders[1:] for path in folder.glob("[a-z]*.py"))
    raise UserError(f"--config {name}: no such file; there are {', '.join(dict.fromkeys(names))}")


def _misspelt(argv: list[str], error: Exception) -> str:
    """A message that names the misspelt override and the nearest field of the config."""
    config = _without_overrides(argv)
    kinds = [config] if config else [kind() for kind in CONFIGS.values()]
    of_task = f" in a config of task {config.task!r}" if config else ""
    fields = [line.split("=")[0].strip().lstrip("-") for kind in kinds for line in field_help(kind)]
    for argument in argv:
        path = argument.lstrip("-").split("=", 1)[0]
        # elements of a tuple are not fields
        if path.startswith("config.") and path.split("[")[0] not in fields:
            near = difflib.get_close_matches(path, fields, 1, cutoff=0.0)
            return f"--{path}: no such field{of_task}; the nearest is --{near[0]}"
    return f"--config: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def _without_overrides(argv: list[str]) -> RunConfig | None:
    """The config that the command line names, as its file has it; None where that cannot be had."""
    try:
        (path,) = (path for _, path in _config_arguments(argv))
        config = runpy.run_path(path)["get_config"]()
    except Exception:  # whatever its file does wrong, another error is being reported
        return None
    return config if isinstance(config, RunConfig) else None
