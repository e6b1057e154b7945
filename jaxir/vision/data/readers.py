"""Readers: image folders, webdataset tars and TFDS in, one `CaptionedImage` at a time out.

A reader is a generator function `(source, directory, checks)`. It checks what only it can see
(files, rows, names); captions, languages and the images themselves are checked for all readers by
`jaxir.vision.data.rows`, names by `jaxir.vision.data.collection`.

A new reader is a function and one line in `READERS`.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from jaxir.config import ImageSource
from jaxir.data.checks import InputChecks
from jaxir.data.files import find_files, json_records
from jaxir.data.tfds import is_text, tfds_examples
from jaxir.errors import UserError
from jaxir.vision.data.caption_fields import CaptionRecord, parse_captions, single_language
from jaxir.vision.data.drawn import read_drawn
from jaxir.vision.data.emoji import read_emoji
from jaxir.vision.data.images import IMAGE_SUFFIXES, StoredImage
from jaxir.vision.data.rows import CaptionedImage
from jaxir.vision.data.webdataset import read_webdataset

Reader = Callable[[ImageSource, Path, InputChecks], Iterator[CaptionedImage]]

# TFDS has no random access, so its images stay in memory, encoded.
MAX_TFDS_BYTES = 2**33


def _image_name(record: Mapping[str, Any], where: str) -> str:
    name = record.get("image")
    if not isinstance(name, str) or not name:
        raise UserError(f"{where}: `image` must be the name of a file in the folder of images")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise UserError(f"{where}: image {name!r} lies outside the folder of images")
    return str(path)


def _add_line(
    records: dict[str, CaptionRecord], line: Mapping[str, Any], source: ImageSource, where: str
) -> str:
    """Add a line's captions to its image's; returns a message if they contradict earlier ones."""
    name, new = _image_name(line, where), parse_captions(line, source, where)
    old = records.setdefault(name, new)
    if old is not new:
        if old.complete or new.complete:
            return f"{where}: image {name!r} has its captions at {old.where}; remove one of them"
        if old.group != new.group:
            return f"{where}: image {name!r} has another group at {old.where}; mend one of them"
        old.add(new.captions)
    return ""


def read_folder(
    source: ImageSource, directory: Path, checks: InputChecks
) -> Iterator[CaptionedImage]:
    """A folder of images, and JSON lines that name them by their paths in it.

    Raises:
        UserError: names file and line.
    """
    folder = directory / source.images
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; mend `images` of the source")
    records: dict[str, CaptionRecord] = {}
    for file in find_files(directory, source.captions, ".jsonl"):
        for _, where, line in json_records(file):
            try:
                problem, reason = _add_line(records, line, source, where), "duplicate_image"
            except UserError as error:
                problem, reason = str(error), "unreadable_captions"
            if problem:
                checks.reject(reason, problem)
    for name, record in records.items():
        if (folder / name).is_file():
            where, stored = f"{record.where}: image {name}", StoredImage(folder / name)
            yield CaptionedImage(name, where, stored, record.captions, record.group)
        else:
            message = f"{record.where}: there is no image {folder / name}"
            checks.reject("captions_without_image", message)
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix.lower() in IMAGE_SUFFIXES and name not in records:
            message = f"{path}: no captions in {directory / source.captions}"
            checks.reject("image_without_captions", message)


def _has_captions(features: Mapping[str, Any]) -> bool:
    captions = features.get("caption", features.get("captions"))
    shape = getattr(captions, "shape", None)
    if isinstance(shape, Mapping):
        texts = "text" in shape
    else:
        texts = is_text(captions) or is_text(captions, (None,))
    return len(getattr(features.get("image"), "shape", ())) == 3 and texts


def _tfds_texts(example: Mapping[str, Any], where: str) -> list[str]:
    """Captions of a TFDS example, which are a text, several, or objects with a `text`."""
    value = example.get("caption", example.get("captions"))
    if isinstance(value, Mapping):
        value = value["text"]
    try:
        return [text.decode() for text in ([value] if isinstance(value, bytes) else value)]
    except UnicodeDecodeError:
        raise UserError(f"{where}: a caption is not UTF-8") from None


def read_tfds(
    source: ImageSource, directory: Path, checks: InputChecks
) -> Iterator[CaptionedImage]:
    """A TFDS dataset with the features `image` and `caption` or `captions`, in one language.

    It is looked up in `directory`, then in TFDS's own data folder; TFDS fetches what is missing.

    Raises:
        UserError: names the dataset and the example.
    """
    dataset = f"TFDS {source.images}, split {source.split}"
    language, total_bytes = single_language(source, dataset), 0
    needed = "image, and caption or captions: texts, or objects with a text"
    examples = tfds_examples(
        source.images, source.split, directory, _has_captions, needed, encoded=("image",)
    )
    for number, example in enumerate(examples, start=1):
        where = f"{dataset}: example {number}"
        total_bytes += len(example["image"])
        if total_bytes > MAX_TFDS_BYTES:
            raise UserError(
                f"{where}: over {MAX_TFDS_BYTES:,} bytes of images, which stay in memory; "
                "write them as webdataset tars, or set limit"
            )
        try:
            captions = {language: _tfds_texts(example, where)}
        except UserError as error:
            checks.reject("unreadable_captions", str(error))
            continue
        yield CaptionedImage(str(number), where, example["image"], captions)


READERS: dict[str, Reader] = {
    "folder": read_folder,
    "webdataset": read_webdataset,
    "tfds": read_tfds,
    "drawn": read_drawn,
    "emoji": read_emoji,
}
