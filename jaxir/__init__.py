"""jaxir: multilingual retrieval on TPUs, in pure JAX."""

__version__ = "0.1.0"
