"""Versions of everything that a result depends on."""

import platform
from importlib import metadata
from typing import Any

import jax

from jaxir.runtime.hub import revisions

VERSION = metadata.version("jaxir")
PACKAGES = ("jax", "jaxlib", "numpy", "scipy", "transformers", "bm25s")


def made_with() -> dict[str, Any]:
    """Versions of jaxir, Python and the packages that compute, the hub's files, and the devices."""
    return {
        "jaxir": VERSION,
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "hub": revisions(),
        "python": platform.python_version(),
        "devices": [str(device.device_kind) for device in jax.devices()],
    }
