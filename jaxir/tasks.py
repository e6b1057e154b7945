"""The task of a config, by the name that `config.task` has."""

from jaxir.config import RunConfig
from jaxir.training.task import Task


def task_of(config: RunConfig) -> Task:
    """The task of a config; packages that only another task needs are not imported."""
    if config.task == "albef":
        from jaxir.vision.training.albef import ALBEF

        return ALBEF
    from jaxir.training.retrieval import RETRIEVAL

    return RETRIEVAL
