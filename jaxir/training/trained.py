"""What a run has trained, read back from its workdir."""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
from etils import epath

from jaxir.config import Config, RunConfig
from jaxir.errors import UserError
from jaxir.models.hf import write_model
from jaxir.models.trained import TrainedModel, read_folder
from jaxir.runtime.files import as_local, path_of
from jaxir.training.model_card import model_card
from jaxir.training.workdir import CONFIG_FILE, RESULTS_FILE, read_config

if TYPE_CHECKING:
    from jaxir.training.family import Objective


def is_workdir(name: str) -> bool:
    """Whether a folder is that of a run: it says by which config."""
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
    from jaxir.training.contrastive import CONTRASTIVE
    from jaxir.training.inputs import load_initial_weights

    model, params, tokenizer = load_initial_weights(config, None, workdir)
    config.model = model
    params = newest_params(config, workdir, params, CONTRASTIVE)
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
        path = path_of(name) / RESULTS_FILE
        results = json.loads(path.read_text()) if path.exists() else None
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


def newest_params(
    config: RunConfig, workdir: epath.Path, start: Any, objective: "Objective"
) -> Any:
    """Parameters of the best checkpoint, or of the newest where none has been evaluated.

    Args:
        config: of the run, with its model's true shape.
        workdir: the run's.
        start: weights that it started from; None: random.
        objective: of its family.

    Raises:
        UserError: there is no checkpoint, or it is damaged.
    """
    from jaxir.training.checkpoint import CHECKPOINTS, Checkpoints
    from jaxir.training.step import init_state

    checkpoints = Checkpoints(workdir / CHECKPOINTS, config.checkpoint.keep, config.evaluation.best)
    abstract = jax.eval_shape(lambda: init_state(config, start, objective))
    try:
        best = checkpoints.best_step()
        if best is not None:
            return checkpoints.restore(best, abstract)["params"]["model"]
        newest = checkpoints.restore_latest(abstract)
    finally:
        checkpoints.close()
    if newest is None:
        raise UserError(f"{workdir}: this run has saved no checkpoint yet")
    return newest[1]["params"]["model"]
