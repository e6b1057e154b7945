"""jaxir: multilingual retrieval on TPUs, in pure JAX.

from jaxir import Retriever

Retriever.load("DIR").index(passages).search(queries)
"""

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxir.retrieval.index import Index, Result
    from jaxir.retriever import Retriever

__version__ = version("jaxir")
__all__ = ["Index", "Result", "Retriever"]

# imported when first used: commands that only print their help wait for none of it
_HOMES = {
    "Index": "jaxir.retrieval.index",
    "Result": "jaxir.retrieval.index",
    "Retriever": "jaxir.retriever",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
