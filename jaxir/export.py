"""Export a trained model as a folder that transformers and sentence-transformers load.

    python -m jaxir.export --model WORKDIR --output DIR

DIR gets safetensors weights, the tokenizer, `modules.json`, the prompts, and a model card with the
run's data, shares, steps, results and command. Of a run under way the best checkpoint so far is
exported. An earlier export is replaced; a folder with anything else is refused.

Exit status: 0 finished; 2 a mistake in flags or input; 1 otherwise.
"""

from absl import flags

from jaxir import command_line


def main(argv: list[str]) -> int:
    """Read the command line, then export."""
    values = flags.FlagValues()
    flags.DEFINE_string(
        "model", None, "workdir, folder or hub name (OWNER/NAME@REVISION)", flag_values=values
    )
    flags.DEFINE_string("output", None, "folder to write", flag_values=values)
    if command_line.parse(argv, values, str(__doc__)) is None:
        return 0
    command_line.require(values, "model", "output")
    # this takes seconds to import: neither help nor a misspelt flag should wait for it
    from jaxir.training.trained import export

    export(values.model, values.output)
    print(f"{values.output}: loads in sentence-transformers; README.md is its model card")
    return 0


def command() -> None:
    """The console script."""
    command_line.run(main)


if __name__ == "__main__":
    command()
