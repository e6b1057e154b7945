"""TFDS datasets: downloaded and prepared by TFDS's own builders, read example by example.

TFDS keeps what it has downloaded and prepared in $TFDS_DATA_DIR (a folder or gs://; by default
`tensorflow_datasets` in the home directory), so a download is made once. Of several processes that
share such a folder, one prepares a dataset and the others wait for it.
"""

import errno
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from jaxir.errors import NO_SPACE, UserError
from jaxir.progress import still_at
from jaxir.runtime.claims import Claims, make_together
from jaxir.runtime.files import create, is_remote, path_of

logger = logging.getLogger(__name__)

_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
_DISK_FULL = ("No space left", "Not enough disk space", "Disk quota exceeded")


def tfds_examples(
    path: str,
    split: str,
    directory: Path,
    has_features: Callable[[Mapping[str, Any]], bool],
    needed: str,
    encoded: Sequence[str] = (),
) -> Iterable[Any]:
    """Examples of a TFDS dataset, in the order of its files.

    Args:
        path: name of the dataset and its config, e.g. "xquad/ar".
        split: of the dataset.
        directory: searched before TFDS's own data folder; TFDS fetches what neither has.
        has_features: true for the features of a dataset that fits; called before any download.
        needed: the features that are needed, in words.
        encoded: image features that stay the bytes of their file.

    Raises:
        UserError: names the cause: no such dataset or split, other features, a package that is
            missing, no network, no space.
    """
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise UserError(
            f"TFDS {path}: tensorflow-datasets cannot be imported ({error}); run: "
            "pip install tensorflow-datasets"
        ) from error

    if not sys.stderr.isatty():
        tensorflow_datasets.disable_progress_bar()  # a line for every file and shard in a log
    name = path.split("/")[0].split(":")[0]
    where = f"TFDS {path}, split {split}"
    data_dir = directory if (directory / name).is_dir() else None
    try:
        builder = tensorflow_datasets.builder(path, data_dir=data_dir)
        features = dict(builder.info.features.items())
        if not has_features(features):
            raise UserError(f"{where}: its features are {', '.join(features)}; needed are {needed}")
        if _prepare(builder, path):  # a builder made before that does not see the files
            builder = tensorflow_datasets.builder(path, data_dir=data_dir)
        decoders = {feature: tensorflow_datasets.decode.SkipDecoding() for feature in encoded}
        return tensorflow_datasets.as_numpy(
            builder.as_dataset(split=split, shuffle_files=False, decoders=decoders or None)
        )
    except UserError:
        raise
    except Exception as error:  # TFDS raises its own, TensorFlow's and the network's
        raise UserError(f"{where}: {_cause(error, path, directory / name)}") from error


def _prepare(builder: Any, path: str) -> bool:
    """Download and prepare a dataset, in this process or another; False if it was before."""
    folder = path_of(builder.data_path.parent)
    version = builder.data_path.name
    # TFDS moves the finished folder into place, which in a bucket is copying file by file: there a
    # marker says that all files have arrived
    finished = folder / (f"{version}.prepared" if is_remote(folder) else version)
    if finished.exists():
        return False

    def make(_: str) -> None:
        builder.download_and_prepare()
        if is_remote(folder):
            create(finished, "")

    logger.info("TFDS %s: downloaded and prepared, once, in %s", path, folder)
    with Claims(folder) as claims, still_at(f"TFDS {path}"):
        make_together({version: finished}, make, claims)
    return True


def is_text(feature: Any, shape: tuple[None, ...] = ()) -> bool:
    """True for a feature of TFDS that is a text, or texts of that shape; absent (None): False."""
    return feature is not None and feature.shape == shape and feature.np_dtype == np.dtype(object)


def _cause(error: Exception, path: str, prepared: Path) -> str:
    """Cause of an error and how to mend it, in one line."""
    import tensorflow_datasets
    from tensorflow_datasets.core.registered import DatasetNotFoundError

    # TFDS, TensorFlow and requests wrap each other's errors: the cause can be anywhere in the chain
    chain = list(_chain(error))
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    missing = [link for link in chain if isinstance(link, ImportError)]
    if missing:
        names = [link.name.partition(".")[0] for link in missing if link.name]
        package = names[-1] if names else str(missing[-1]).splitlines()[0]
        return f"its builder needs the package {package}; run: pip install {package}"
    if any(getattr(link, "errno", None) in NO_SPACE for link in chain) or any(
        message in str(link) for link in chain for message in _DISK_FULL
    ):
        return f"the disk is full ({reason}); free some space, or set TFDS_DATA_DIR to another one"
    if any(type(link).__name__ == "NonMatchingChecksumError" for link in chain):
        return f"the download does not match the checksum in TFDS ({reason}); try again later"
    if any(_is_network_error(link) for link in chain):
        requests = [getattr(link, "request", None) for link in chain]
        url = next((f" from {request.url}" for request in requests if request is not None), "")
        cause = next(iter(str(chain[-1]).splitlines()), reason)
        return (
            f"cannot be downloaded{url} ({cause}); run the same command where there is a network, "
            f"or put the prepared dataset into {prepared}"
        )
    if any(getattr(link, "errno", None) in _NOT_ALLOWED for link in chain):
        return f"its folder cannot be written ({reason}); set TFDS_DATA_DIR to another one"
    if isinstance(error, DatasetNotFoundError):
        known = set(tensorflow_datasets.list_builders(with_community_datasets=False))
        near = get_close_matches(path.split("/")[0], sorted(known), 3)
        hint = f" (did you mean {' or '.join(near)}?)" if near else ""
        return f"there is no such dataset{hint}; mend `path` of the source"
    if "BuilderConfig" in reason and "not found" in reason:
        configs = tensorflow_datasets.builder_cls(path.split("/")[0]).builder_configs
        return f"there is no such config; mend `path` of the source, to one of {', '.join(configs)}"
    if reason.startswith("Unknown split"):
        return f"{reason.rstrip('.')}; mend `split` of the source"
    return (
        f"{reason} ({type(error).__name__}); mend path and split of the source, or put the "
        f"prepared dataset into {prepared}"
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, its cause, the cause of that, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_network_error(error: BaseException) -> bool:
    """True if the network failed, or a server answered with an error."""
    return type(error).__module__.partition(".")[0] in ("requests", "urllib3", "urllib") or (
        type(error).__name__ in ("DownloadError", "gaierror")
    )
