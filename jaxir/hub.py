"""Models and datasets of the Hugging Face hub, by name, in its cache on this machine."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxir.errors import UserError


def fetch(name: str, kind: str, patterns: Sequence[str], ignored: Sequence[str] = ()) -> Path:
    """The folder that the hub's files of that name are kept in; those it lacks are downloaded.

    Args:
        name: OWNER/NAME.
        kind: model or dataset.
        patterns: which files are needed.
        ignored: which of those are not.

    Raises:
        UserError: they cannot be had.
    """
    from huggingface_hub import snapshot_download

    wanted: dict[str, Any] = {"allow_patterns": list(patterns), "ignore_patterns": list(ignored)}
    try:
        return Path(snapshot_download(name, repo_type=kind, **wanted))
    except Exception as error:
        raise UserError(
            f"{name}: neither a folder here nor a {kind} that the hub gives out ({_reason(error)})"
        ) from error


def _reason(error: Exception) -> str:
    from huggingface_hub import constants, errors

    if isinstance(error, errors.GatedRepoError):
        return "its page there says whom to ask; then run: hf auth login"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "it has none of that name; for a private one run: hf auth login"
    if isinstance(error, errors.LocalEntryNotFoundError):
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "it cannot be reached"
        return f"{why}, and the cache here has not all of its files"
    return (str(error).strip() or type(error).__name__).splitlines()[0]
