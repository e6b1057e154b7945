"""Every measure of every query as a file, for comparisons that come later."""

import os
import zlib
from typing import Any
from zipfile import BadZipFile

import numpy as np
from etils import epath

from jaxir.errors import UserError
from jaxir.retrieval.evaluation import QueryValues
from jaxir.whole_files import writing


def write_values(path: os.PathLike, values: QueryValues) -> None:
    """Every measure of every query, as NumPy arrays."""
    arrays: dict[str, Any] = {
        "query_language": values.query_language,
        "question": values.question,
        "languages": np.array(values.languages),
        "settings": np.array(values.settings),
    }
    arrays |= {f"by_language/{name}": one for name, one in values.by_language.items()}
    arrays |= {f"in_pool/{name}": one for name, one in values.in_pool.items()}
    with writing(path, "wb") as file:
        np.savez_compressed(file, **arrays)


def read_values(path: os.PathLike) -> QueryValues:
    """What `write_values` has written.

    Raises:
        UserError: there is no such file, or it is damaged.
    """
    try:
        with epath.Path(path).open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        fields: dict[str, dict[str, np.ndarray]] = {"by_language": {}, "in_pool": {}}
        for name, values in arrays.items():
            kind, _, measure = name.partition("/")
            if measure:
                fields[kind][measure] = values
        return QueryValues(
            languages=tuple(arrays["languages"].tolist()),
            settings=tuple(arrays["settings"].tolist()),
            query_language=arrays["query_language"],
            question=arrays["question"],
            **fields,
        )
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}); evaluate again") from error
