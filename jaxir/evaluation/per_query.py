"""Files with every metric of every query, for later comparisons."""

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
    """Write every metric of every query, as NumPy arrays."""
    arrays: dict[str, Any] = {
        "query_language": values.query_language,
        "question": values.question,
        "languages": np.array(values.languages),
        "settings": np.array(values.settings),
    }
    arrays |= {f"by_language/{name}": metric for name, metric in values.by_language.items()}
    arrays |= {f"in_pool/{name}": metric for name, metric in values.in_pool.items()}
    with writing(path, "wb") as file:
        np.savez_compressed(file, **arrays)


def read_values(path: os.PathLike) -> PerQueryMetrics:
    """Read a file of `write_values`.

    Raises:
        UserError: there is no such file, or it is damaged.
    """
    with _arrays(path) as arrays:
        fields: dict[str, dict[str, np.ndarray]] = {"by_language": {}, "in_pool": {}}
        for name, values in arrays.items():
            field, _, metric = name.partition("/")
            if metric:
                fields[field][metric] = values
        return PerQueryMetrics(
            languages=tuple(arrays["languages"].tolist()),
            settings=tuple(arrays["settings"].tolist()),
            query_language=arrays["query_language"],
            question=arrays["question"],
            **fields,
        )


def write_metric_sums(
    path: os.PathLike, languages: tuple[str, ...], metrics: dict[str, MetricSums]
) -> None:
    """Write metrics that are summed over the queries of each question, as NumPy arrays."""
    arrays: dict[str, Any] = {"languages": np.array(languages)}
    arrays |= {f"sums/{name}": metric.sums for name, metric in metrics.items()}
    arrays |= {f"counts/{name}": metric.counts for name, metric in metrics.items()}
    with writing(path, "wb") as file:
        np.savez_compressed(file, **arrays)


def read_metric_sums(path: os.PathLike) -> tuple[tuple[str, ...], dict[str, MetricSums]]:
    """Read the languages and metrics of a file of `write_metric_sums`.

    Raises:
        UserError: there is no such file, or it is damaged.
    """
    with _arrays(path) as arrays:
        names = [name.removeprefix("sums/") for name in arrays if name.startswith("sums/")]
        metrics = {
            name: MetricSums(arrays[f"sums/{name}"], arrays[f"counts/{name}"]) for name in names
        }
        return tuple(arrays["languages"].tolist()), metrics


@contextmanager
def _arrays(path: os.PathLike) -> Iterator[dict[str, np.ndarray]]:
    """Read a file's arrays; a key that the caller misses is a `UserError` too."""
    try:
        with epath.Path(path).open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        yield arrays
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}); evaluate again") from error
