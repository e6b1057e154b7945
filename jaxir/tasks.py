"""The kinds of runs there are, by the name that `config.task` has."""

from jaxir.config import Config, RunConfig
from jaxir.vision.config import AlbefConfig

CONFIGS: dict[str, type[RunConfig]] = {"retrieval": Config, "albef": AlbefConfig}
