"""jaxir: multilingual retrieval on TPUs, in pure JAX.

from jaxir import Retriever

Retriever.load("DIR").index(passages).search(queries)
"""

import importlib
from importlib.metadata import version
from typing import Any

__version__ = version("jaxir")

# imported when first used: commands that only print their help wait for none of it
_HOMES = {
    "Index": "jaxir.retrieval.index",
    "ModelSettings": "jaxir.models.trained",
    "Result": "jaxir.retrieval.index",
    "Retriever": "jaxir.retriever",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
