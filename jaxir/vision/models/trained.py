"""A trained ALBEF, read back from its run or from its export."""

import dataclasses
from pathlib import Path

from jaxir.config import AlbefConfig
from jaxir.errors import UserError
from jaxir.runtime.files import as_local, path_of
from jaxir.training.trained import is_workdir, newest_params
from jaxir.training.workdir import read_config
from jaxir.vision.models.aligned_folder import (
    AlignedModel,
    aligned_model_of_run,
    read_aligned_folder,
)
from jaxir.vision.models.initial_weights import load_initial_weights


def read_aligned(name: str) -> AlignedModel:
    """Read an export, or the workdir of a run: its export or its best checkpoint so far.

    Raises:
        UserError: there is no such model, or it is damaged.
    """
    if not is_workdir(name):
        return read_aligned_folder(Path(name))
    workdir = path_of(name)
    if (workdir / "export" / "config.json").exists():
        with as_local(workdir / "export") as folder:
            return read_aligned_folder(folder)
    config = read_config(workdir)
    if not isinstance(config, AlbefConfig):
        raise UserError(f"{workdir}: a run of {config.task}; one that aligns images is needed here")
    model, _, tokenizer = load_initial_weights(config, None, workdir)
    params = newest_params(config, workdir)
    return aligned_model_of_run(dataclasses.replace(config, model=model), params, tokenizer)
