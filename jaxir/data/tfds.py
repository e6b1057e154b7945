"""TFDS datasets: downloaded and prepared by TFDS's own builders, read example by example.

TFDS keeps what it has downloaded and prepared in $TFDS_DATA_DIR (a folder or gs://; by default
`tensorflow_datasets` in the home directory), so a download is made once. Of several processes that
share such a folder one prepares a dataset, and the others wait for it.
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


def tfds_examples(
    path: str,
    split: str,
    directory: Path,
    like: Callable[[Mapping[str, Any]], bool],
    wanted: str,
    encoded: Sequence[str] = (),
) -> Iterable[Any]:
    """Examples of a TFDS dataset, in the order of its files.

    Args:
        path: name of the dataset and its config, e.g. "xquad/ar".
        split: of the dataset.
        directory: looked in before TFDS's own data folder; TFDS fetches what neither has.
        like: whether a dataset of such features will do; asked before any download.
        wanted: what will do, in words.
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
        if not like(features):
            raise UserError(f"{where}: its features are {', '.join(features)}; needed are {wanted}")
        if _prepared_now(builder, path):  # the builder knew nothing of it yet
            builder = tensorflow_datasets.builder(path, data_dir=data_dir)
        decoders = {feature: tensorflow_datasets.decode.SkipDecoding() for feature in encoded}
        return tensorflow_datasets.as_numpy(
            builder.as_dataset(split=split, shuffle_files=False, decoders=decoders or None)
        )
    except UserError:
        raise
    except Exception as error:  # TFDS raises its own, TensorFlow's and the network's
        raise UserError(f"{where}: {_cause(error, path, directory / name)}") from error


def _prepared_now(builder: Any, path: str) -> bool:
    """Have a dataset downloaded and prepared, by this process or another; False: it was before."""
    folder = path_of(builder.data_path.parent)
    version = builder.data_path.name
    # TFDS moves the finished folder into place, which in a bucket is copying file by file
    whole = folder / (f"{version}.prepared" if is_remote(folder) else version)
    if whole.exists():
        return False

    def make(_: str) -> None:
        builder.download_and_prepare()
        if is_remote(folder):
            create(whole, "")

    logger.info("TFDS %s: downloaded and prepared, once, in %s", path, folder)
    with Claims(folder) as claims, still_at(f"TFDS {path}"):
        make_together({version: whole}, make, claims)
    return True


def is_text(feature: Any, shape: tuple[None, ...] = ()) -> bool:
    """Whether a feature of TFDS is a text, or texts of that shape; None, an absent one, is not."""
    return feature is not None and feature.shape == shape and feature.np_dtype == np.dtype(object)


def _cause(error: Exception, path: str, prepared: Path) -> str:
    """What went wrong and how to mend it, in one line."""
    import tensorflow_datasets
    from tensorflow_datasets.core.registered import DatasetNotFoundError

    chain = list(_chain(error))
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    missing = [one for one in chain if isinstance(one, ImportError)]
    if missing:
        names = [one.name.partition(".")[0] for one in missing if one.name]
        package = names[-1] if names else str(missing[-1]).splitlines()[0]
        return f"its builder needs the package {package}; run: pip install {package}"
    if any(getattr(one, "errno", None) in NO_SPACE for one in chain) or any(
        said in str(one)
        for one in chain
        for said in ("No space left", "Not enough disk space", "Disk quota exceeded")
    ):
        return f"the disk is full ({reason}); free some space, or set TFDS_DATA_DIR to another one"
    if any(type(one).__name__ == "NonMatchingChecksumError" for one in chain):
        return f"its server gave other bytes than TFDS has a sum of ({reason}); try again later"
    if any(_is_of_network(one) for one in chain):
        asked = [getattr(one, "request", None) for one in chain]  # of requests
        source = next((f" from {one.url}" for one in asked if one is not None), "")
        why = next(iter(str(chain[-1]).splitlines()), reason)
        return (
            f"cannot be downloaded{source} ({why}); where there is a network the same command "
            f"fetches it, or put the prepared dataset into {prepared}"
        )
    if any(getattr(one, "errno", None) in _NOT_ALLOWED for one in chain):
        return f"its folder cannot be written ({reason}); set TFDS_DATA_DIR to another one"
    if isinstance(error, DatasetNotFoundError):
        known = set(tensorflow_datasets.list_builders(with_community_datasets=False))
        near = get_close_matches(path.split("/")[0], sorted(known), 3)
        meant = f" (did you mean {' or '.join(near)}?)" if near else ""
        return f"there is no such dataset{meant}; mend `path` of the source"
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
    """An error and those that it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_of_network(error: BaseException) -> bool:
    """Whether the network, or a server's answer, is what failed."""
    return type(error).__module__.partition(".")[0] in ("requests", "urllib3", "urllib") or (
        type(error).__name__ in ("DownloadError", "gaierror")
    )
