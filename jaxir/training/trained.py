"""Trained models: read back from a workdir or a folder, and exported."""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

from etils import epath

from jaxir.config import Config, RunConfig
from jaxir.errors import UserError
from jaxir.models.hf import write_model
from jaxir.models.trained import TrainedModel, read_folder
from jaxir.runtime.files import as_local, path_of
from jaxir.training.model_card import model_card
from jaxir.training.workdir import CONFIG_FILE, read_config, read_results


def is_workdir(name: str) -> bool:
    """True for the workdir of a run, which holds its config."""
    path = path_of(name) / CONFIG_FILE
    try:
        return path.exists() and {"steps", "hybrid"} <= json.loads(path.read_text()).keys()
    except ValueError:
        return False


def read_trained(name: str) -> TrainedModel:
    """Read a workdir, a transformers or sentence-transformers folder, or a model of the hub.

    A finished run's workdir gives its export; one that is under way its best checkpoint, or the
    newest where none has been evaluated.

    Raises:
        UserError: there is no such model, it is damaged, or lacks its weights or its tokenizer.
    """
    if not is_workdir(name):
        return read_folder(name)
    workdir = path_of(name)
    config = _read_retriever_config(workdir)
    limits = (config.model.max_query_tokens, config.model.max_passage_tokens)
    if (workdir / "export" / "modules.json").exists():
        with as_local(workdir / "export") as folder:
            found = read_folder(str(folder))
        return dataclasses.replace(found, max_query_tokens=limits[0], max_passage_tokens=limits[1])
    # seconds to import, which a model that is whole should not cost
    from jaxir.training.initial_weights import load_initial_weights

    model, _, tokenizer = load_initial_weights(config, None, workdir)
    params = newest_params(config, workdir)
    prefixes = model.query_prefix, model.passage_prefix
    return TrainedModel(model, params, tokenizer, *prefixes, *limits)


def _read_retriever_config(workdir: epath.Path) -> Config:
    config = read_config(workdir)
    if not isinstance(config, Config):
        raise UserError(f"{workdir}: a run of {config.task}; a retriever of texts is needed here")
    return config


def export(name: str, folder: str | os.PathLike) -> None:
    """Write a model, read as by `read_trained`, as a sentence-transformers folder with its card.

    Raises:
        UserError: as `read_trained`; or the folder holds something else, or cannot be written.
    """
    config, results = None, None
    if is_workdir(name):
        config = _read_retriever_config(path_of(name))
        results = read_results(path_of(name))
    write_export(folder, read_trained(name), config, results, name)


def write_export(
    folder: str | os.PathLike,
    model: TrainedModel,
    config: Config | None,
    results: Mapping[str, Any] | None,
    name: str = "",
) -> None:
    """Write a model that was read, from the folder or hub name `name`, or trained; see `export`."""
    write_model(
        folder,
        model.config,
        model.params,
        model.tokenizer,
        query_prefix=model.query_prefix,
        passage_prefix=model.passage_prefix,
        max_tokens=max(model.max_query_tokens, model.max_passage_tokens),
        card=model_card(model, config, results, name),
    )


def newest_params(config: RunConfig, workdir: epath.Path) -> Any:
    """The model's parameters in the best checkpoint, or the newest where none was evaluated.

    Raises:
        UserError: there is no checkpoint, or it is damaged.
    """
    from jaxir.training.checkpoint import CHECKPOINTS, Checkpoints  # orbax takes seconds to import

    checkpoints = Checkpoints(workdir / CHECKPOINTS, config.checkpoint.keep, config.evaluation.best)
    try:
        best = checkpoints.best_step()
        if best is not None:
            return checkpoints.restore(best)["params"]["model"]
        newest = checkpoints.restore_latest()
    finally:
        checkpoints.close()
    if newest is None:
        raise UserError(f"{workdir}: this run has saved no checkpoint yet")
    return newest[1]["params"]["model"]
