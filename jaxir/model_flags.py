"""Flags that name a model or an index, and loading what they name."""

from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from jaxir.errors import UserError

if TYPE_CHECKING:
    from jaxir.models.trained import ModelSettings
    from jaxir.retrieval.index import Index
    from jaxir.retriever import Retriever

# Inside the functions stand imports that take seconds: neither help nor a misspelt flag should wait
# for them.


def define_model(values: flags.FlagValues) -> None:
    """Define `--model` and the flags of its settings; `load_retriever` reads them."""

    def define(name: str, text: str) -> None:
        flags.DEFINE_string(name, None, text, flag_values=values)

    kinds = "workdir of a run, transformers or sentence-transformers folder, or hub name"
    define("model", f"{kinds} (OWNER/NAME or OWNER/NAME@REVISION)")
    define("query_prefix", "prepended to queries (default: the model's)")
    define("passage_prefix", "prepended to passages (default: the model's)")
    for side, texts in (("query", "queries"), ("passage", "passages")):
        flags.DEFINE_integer(
            f"max_{side}_tokens",
            None,
            f"longer {texts} are cut (default: the model's)",
            3,
            flag_values=values,
        )
    flags.DEFINE_integer(
        "batch_tokens",
        0,
        "tokens of a batch, padding included (default: what suits the devices)",
        0,
        flag_values=values,
    )
    flags.DEFINE_string(
        "compute_dtype", "float32", "of matrix products: float32 or bfloat16", flag_values=values
    )


def model_settings(values: flags.FlagValues) -> "ModelSettings":
    """The settings that the flags of `define_model` give.

    Raises:
        UserError: a value is impossible.
    """
    from jaxir.models.trained import ModelSettings

    return ModelSettings(
        query_prefix=values.query_prefix,
        passage_prefix=values.passage_prefix,
        max_query_tokens=values.max_query_tokens,
        max_passage_tokens=values.max_passage_tokens,
        compute_dtype=values.compute_dtype,
        batch_tokens=values.batch_tokens,
    )


def load_retriever(values: flags.FlagValues) -> "Retriever":
    """Load the model that the flags of `define_model` name.

    Raises:
        UserError: there is no such model, it is damaged, or a setting is impossible.
    """
    from jaxir.retriever import Retriever

    return Retriever.load(values.model, model_settings(values))


def define_index(values: flags.FlagValues) -> None:
    """Define `--index` and the flags of its model; `load_index` reads them."""
    define_model(values)
    flags.DEFINE_string("index", None, "folder that jaxir.encode wrote", flag_values=values)


def load_index(values: flags.FlagValues) -> "tuple[Retriever, Index]":
    """Load the index that `--index` names, and its model.

    The model is the one that made the index, unless `--model` names another path of it.

    Raises:
        UserError: there is no such index or model, one is damaged, or they do not fit.
    """
    from jaxir.retrieval.index import Index, read_index_file

    header = read_index_file(Path(values.index))
    if values.model is not None:
        retriever = load_retriever(values)
    else:
        values.model = header["model"]
        try:
            retriever = load_retriever(values)
        except UserError as error:
            raise UserError(
                f"{values.index}: made by the model {values.model!r}, which cannot be loaded; "
                f"name its present path with --model ({error})"
            ) from None
    return retriever, Index.load(values.index, retriever)
