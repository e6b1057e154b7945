"""What a figure was made with, for those who want to make it again."""

import platform
from importlib import metadata
from typing import Any

import jax

import jaxir
from jaxir.runtime.hub import revisions

PACKAGES = ("jax", "jaxlib", "numpy", "scipy", "transformers", "bm25s")


def made_with() -> dict[str, Any]:
    """Versions of jaxir, Python and the packages that compute, the hub's files, and the devices."""
    return {
        "jaxir": jaxir.__version__,
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "hub": revisions(),
        "python": platform.python_version(),
        "devices": [str(device.device_kind) for device in jax.devices()],
    }
