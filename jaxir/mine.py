"""Add hard negatives to a training file: irrelevant passages of an index that rank high.

    python -m jaxir.mine --index INDEX --input train.jsonl --output mined.jsonl --ranks 10,100

The input is what the reader `jsonl` takes (`query`, `passage`, `query_lang`, `passage_lang`, `id`).
Each row gets the --negatives highest ranked passages of the rank window that score at least
--margin below its positive (the row's passage), appended to those in its `hard_negatives`.
--language says which passages are ranked: those in the language of the positive (same), those in
all others (other), or any. The positive, its translations, and the texts of all rows that share an
id or a text with the row are excluded. Training uses hard negatives with
--config.data.hard_negatives=NUMBER.

The model is the one that made the index; --model names its path where that has changed.

Exit status: 0 finished; 2 a mistake in flags or input; 1 otherwise.
"""

from pathlib import Path

from absl import flags

from jaxir import command_line, model_flags
from jaxir.errors import UserError


def _define(values: flags.FlagValues) -> None:
    model_flags.define_index(values)
    flags.DEFINE_string("input", None, "training file, JSON lines", flag_values=values)
    flags.DEFINE_string("output", None, "training file to write", flag_values=values)
    flags.DEFINE_integer("negatives", 7, "most that are added to a row", 1, flag_values=values)
    flags.DEFINE_list(
        "ranks",
        ["10", "100"],
        "FIRST,LAST rank of the window; the best passage has rank 1",
        flag_values=values,
    )
    flags.DEFINE_float(
        "margin", 0.05, "least distance below the score of the row's passage", flag_values=values
    )
    flags.DEFINE_string(
        "language", "same", "ranked passages, by the row's: same, other or any", flag_values=values
    )


def main(argv: list[str]) -> int:
    """Read the command line, then mine."""
    values = flags.FlagValues()
    _define(values)
    if command_line.parse(argv, values, str(__doc__)) is None:
        return 0
    command_line.require(values, "index", "input", "output")
    first, last = _ranks(values.ranks)
    source, output = Path(values.input), Path(values.output)
    _check_files(source, output)
    # these take seconds to import: neither help nor a misspelt flag should wait for them
    from jaxir.retrieval.mining import Mining, mine

    mining = Mining(values.negatives, first, last, values.margin, values.language)
    counts = mine(*model_flags.load_index(values), source, output, mining)
    print(
        f"{output}: {counts['rows']:,} rows, {counts['negatives']:,} new hard negatives, "
        f"{counts['without']:,} rows without"
    )
    return 0


def _ranks(given: list[str]) -> tuple[int, int]:
    try:
        first, last = map(int, given)
    except ValueError:
        raise UserError(
            f"--ranks {','.join(given)}: must be two whole numbers, FIRST,LAST"
        ) from None
    return first, last


def _check_files(source: Path, output: Path) -> None:
    """Refuse impossible files before a model is loaded."""
    if not source.is_file():
        raise UserError(f"--input {source}: no such file")
    if output.suffix == ".gz":
        raise UserError(f"--output {output}: plain JSON lines are written; leave .gz off")
    if output.is_dir() or not output.absolute().parent.is_dir():
        raise UserError(f"--output {output}: must be a file in an existing folder")
    if output.exists() and output.samefile(source):
        raise UserError(f"--output {output}: is the input; name another file")


def command() -> None:
    """The console script."""
    command_line.run(main)


if __name__ == "__main__":
    command()
