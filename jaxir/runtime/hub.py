"""Models and datasets of the Hugging Face hub, by name, in its cache on this machine."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxir.errors import UserError
from jaxir.progress import still_at

logger = logging.getLogger(__name__)

_read: dict[str, str] = {}


def fetch(name: str, kind: str, patterns: Sequence[str], ignored: Sequence[str] = ()) -> Path:
    """The folder that the hub's files of that name are kept in; those it lacks are downloaded.

    Args:
        name: OWNER/NAME, or OWNER/NAME@REVISION: a branch, tag or commit.
        kind: model or dataset.
        patterns: which files are needed.
        ignored: which of those are not.

    Raises:
        UserError: they cannot be had.
    """
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    wanted: dict[str, Any] = {"allow_patterns": list(patterns), "ignore_patterns": list(ignored)}
    if revision:
        wanted["revision"] = revision
    logger.info("%s: looked up on the hub; what is not in the cache here is downloaded", name)
    try:
        if "@" in name and not revision:
            raise ValueError("no revision after @")
        with still_at(f"{name}: downloading"):
            folder = Path(snapshot_download(repository, repo_type=kind, **wanted))
    except Exception as error:
        raise UserError(
            f"{name}: neither a folder here nor a {kind} that the hub gives out "
            f"({_reason(error, repository, revision, kind)})"
        ) from error
    _read[name] = folder.name  # the cache keeps them in snapshots/COMMIT
    return folder


def revisions() -> dict[str, str]:
    """The commit of each model and dataset that this process has read of the hub, by its name.

    Names are as they were given, with @REVISION if there was one.
    """
    return dict(_read)


def _reason(error: Exception, name: str, revision: str, kind: str) -> str:
    from huggingface_hub import constants, errors

    if isinstance(error, errors.GatedRepoError):
        return "its page there says whom to ask; then run: hf auth login"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"it has no revision {revision!r}; its page there lists branches, tags and commits"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "it has none of that name; for a private one run: hf auth login"
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    not_here = isinstance(error, errors.LocalEntryNotFoundError)
    broken = isinstance(error, ConnectionError | TimeoutError)
    if not_here or broken or type(error).__module__.startswith("httpx"):
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "it cannot be reached"
        why = why if not_here else said
        options = "" if kind == "model" else f" --repo-type {kind}"
        at = f" --revision {revision}" if revision else ""
        return (
            f"{why}, and the cache here has not all of its files; where there is a network run: "
            f"hf download {name}{at}{options} --local-dir FOLDER, and name that folder"
        )
    return said
