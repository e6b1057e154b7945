"""Encode passages into an index on disk, which `jaxir.search` and `jaxir.serve` search.

    python -m jaxir.encode --model MODEL --input passages.jsonl --output INDEX

The input is JSON lines (`_id` or `id`, `text`, optionally `title` and `language`), Parquet with
such columns, or plain text, one passage a line; several files are separated by commas and read in
that order. The input may be larger than memory. The index grows shard by shard: killed at any
moment, the same command resumes where it was and ends with the same bytes.

Exit status: 0 finished; 2 a mistake in flags or input; 1 otherwise.
"""

from pathlib import Path

from absl import flags

from jaxir import command_line, model_flags
from jaxir.errors import UserError


def _define(values: flags.FlagValues) -> None:
    model_flags.define_model(values)
    flags.DEFINE_list("input", [], "files of passages", flag_values=values)
    flags.DEFINE_string("output", None, "folder of the index", flag_values=values)
    flags.DEFINE_string("id_field", "", "field of the ids (default: _id, id)", flag_values=values)
    flags.DEFINE_string(
        "text_field", "", "field of the texts (default: title and text)", flag_values=values
    )
    flags.DEFINE_string(
        "language_field", "", "field of the languages (default: language)", flag_values=values
    )
    flags.DEFINE_string("language", "", "code for passages without a language", flag_values=values)
    flags.DEFINE_bool("drop_empty", False, "leave out empty passages", flag_values=values)
    flags.DEFINE_string(
        "dtype", "float32", "of the index: float32, bfloat16 or int8", flag_values=values
    )
    flags.DEFINE_integer("shard_rows", 10_000, "passages of a shard", 1, flag_values=values)


def main(argv: list[str]) -> int:
    """Read the command line, then encode."""
    values = flags.FlagValues()
    _define(values)
    if command_line.parse(argv, values, str(__doc__)) is None:
        return 0
    command_line.require(values, "model", "input", "output")
    # these take seconds to import: neither help nor a misspelt flag should wait for them
    from jaxir.data.texts import TextFields, read_texts
    from jaxir.retrieval.building import build_index

    command_line.log_to_stderr()
    fields = TextFields(values.id_field, values.text_field, values.language_field)
    files = [Path(name) for name in values.input]
    for file in files:  # before a model is loaded
        if not file.is_file():
            raise UserError(f"--input {file}: no such file")
    texts = read_texts(files, fields, language=values.language, drop_empty=values.drop_empty)
    retriever = model_flags.load_retriever(values)
    count = build_index(retriever, texts, Path(values.output), values.dtype, values.shard_rows)
    print(f"{values.output}: {count:,} passages")
    return 0


def command() -> None:
    """The console script."""
    command_line.run(main)


if __name__ == "__main__":
    command()
