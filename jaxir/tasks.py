"""Which family a config's runs belong to."""

from jaxir.config import RunConfig
from jaxir.training.family import Family


def family_of(config: RunConfig) -> Family:
    """By its task; what another family needs is not imported."""
    if config.task == "albef":
        from jaxir.vision.training.albef import ALBEF

        return ALBEF
    from jaxir.training.retriever import RETRIEVER

    return RETRIEVER
