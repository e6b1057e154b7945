"""Every measure of every query as a file, for comparisons that come later."""

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from zipfile import BadZipFile

import numpy as np
from etils import epath

from jaxir.errors import UserError
from jaxir.evaluation.settings import MetricSums, PerQueryMetrics
from jaxir.runtime.files import writing


def write_values(path: os.PathLike, values: PerQueryMetrics) -> None:
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


def read_values(path: os.PathLike) -> PerQueryMetrics:
    """What `write_values` has written.

    Raises:
        UserError: there is no such file, or it is damaged.
    """
    with _arrays(path) as arrays:
        fields: dict[str, dict[str, np.ndarray]] = {"by_language": {}, "in_pool": {}}
        for name, values in arrays.items():
            kind, _, measure = name.partition("/")
            if measure:
                fields[kind][measure] = values
        return PerQueryMetrics(
            languages=tuple(arrays["languages"].tolist()),
            settings=tuple(arrays["settings"].tolist()),
            query_language=arrays["query_language"],
            question=arrays["question"],
            **fields,
        )


def write_totals(
    path: os.PathLike, languages: tuple[str, ...], totals: dict[str, MetricSums]
) -> None:
    """Measures that were summed over the queries of each question, as NumPy arrays."""
    arrays: dict[str, Any] = {"languages": np.array(languages)}
    arrays |= {f"sums/{name}": one.sums for name, one in totals.items()}
    arrays |= {f"counts/{name}": one.counts for name, one in totals.items()}
    with writing(path, "wb") as file:
        np.savez_compressed(file, **arrays)


def read_totals(path: os.PathLike) -> tuple[tuple[str, ...], dict[str, MetricSums]]:
    """Languages and measures, as `write_totals` has written them.

    Raises:
        UserError: there is no such file, or it is damaged.
    """
    with _arrays(path) as arrays:
        names = [name.removeprefix("sums/") for name in arrays if name.startswith("sums/")]
        totals = {
            name: MetricSums(arrays[f"sums/{name}"], arrays[f"counts/{name}"]) for name in names
        }
        return tuple(arrays["languages"].tolist()), totals


@contextmanager
def _arrays(path: os.PathLike) -> Iterator[dict[str, np.ndarray]]:
    """A file's arrays; what they lack is told as a `UserError` too."""
    try:
        with epath.Path(path).open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        yield arrays
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}); evaluate again") from error
