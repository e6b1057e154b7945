"""Readers: image folders, webdataset tars and TFDS in, one `CaptionedImage` at a time out.

A new reader is a function and one line in `READERS`.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from jaxir.config import ImageSource
from jaxir.data.files import json_records, resolve
from jaxir.data.tfds import is_text, tfds_examples
from jaxir.errors import UserError
from jaxir.vision.data.caption_fields import FoundCaptions, only_language, read_fields
from jaxir.vision.data.captioned import IMAGE_SUFFIXES, CaptionedImage, Checks, Reader, StoredImage
from jaxir.vision.data.drawn import read_drawn
from jaxir.vision.data.emoji import read_emoji
from jaxir.vision.data.webdataset import read_webdataset

# TFDS cannot be read by place, so its images stay in memory, encoded.
MAX_HELD_BYTES = 2**33


def _image_name(record: Mapping[str, Any], where: str) -> str:
    name = record.get("image")
    if not isinstance(name, str) or not name:
        raise UserError(f"{where}: `image` must be the name of a file in the folder of images")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise UserError(f"{where}: image {name!r} lies outside the folder of images")
    return str(path)


def _add_line(
    found: dict[str, FoundCaptions], record: Mapping[str, Any], source: ImageSource, where: str
) -> str:
    """Join a line with those before it; returns what is wrong with it, as images can repeat."""
    name, new = _image_name(record, where), read_fields(record, source, where)
    old = found.setdefault(name, new)
    if old is not new:
        if old.whole or new.whole:
            return f"{where}: image {name!r} has its captions at {old.where}; remove one of them"
        if old.group != new.group:
            return f"{where}: image {name!r} has another group at {old.where}; mend one of them"
        old.add(new.captions)
    return ""


def read_folder(source: ImageSource, directory: Path, checks: Checks) -> Iterator[CaptionedImage]:
    """A folder of images, and JSON lines that name them by their paths in it.

    Raises:
        UserError: names file and line.
    """
    folder = directory / source.images
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; mend `images` of the source")
    found: dict[str, FoundCaptions] = {}
    for file in resolve(directory, source.captions, ".jsonl"):
        for _, where, record in json_records(file):
            try:
                problem, reason = _add_line(found, record, source, where), "duplicate_image"
            except UserError as error:
                problem, reason = str(error), "unreadable_captions"
            if problem:
                checks.bad(reason, problem)
    for name, own in found.items():
        if (folder / name).is_file():
            where, stored = f"{own.where}: image {name}", StoredImage(folder / name)
            yield CaptionedImage(name, where, stored, own.captions, own.group)
        else:
            checks.bad("captions_without_image", f"{own.where}: there is no image {folder / name}")
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix.lower() in IMAGE_SUFFIXES and name not in found:
            what = f"{path}: no captions in {directory / source.captions}"
            checks.bad("image_without_captions", what)


def _like_captions(features: Mapping[str, Any]) -> bool:
    captions = features.get("caption", features.get("captions"))
    shape = getattr(captions, "shape", None)
    if isinstance(shape, Mapping):
        texts = "text" in shape
    else:
        texts = is_text(captions) or is_text(captions, (None,))
    return len(getattr(features.get("image"), "shape", ())) == 3 and texts


def _tfds_texts(example: Mapping[str, Any], where: str) -> list[str]:
    """Captions as TFDS's datasets have them: one text, several, or objects with a `text`."""
    value = example.get("caption", example.get("captions"))
    if isinstance(value, Mapping):
        value = value["text"]
    try:
        return [text.decode() for text in ([value] if isinstance(value, bytes) else value)]
    except UnicodeDecodeError:
        raise UserError(f"{where}: a caption is not UTF-8") from None


def read_tfds(source: ImageSource, directory: Path, checks: Checks) -> Iterator[CaptionedImage]:
    """A TFDS dataset with the features `image` and `caption` or `captions`, in one language.

    It is looked for in `directory`, then in TFDS's own data folder; TFDS fetches what is missing.

    Raises:
        UserError: names the dataset and the example.
    """
    place = f"TFDS {source.images}, split {source.split}"
    language, held = only_language(source, place), 0
    wanted = "image, and caption or captions: texts, or objects with a text"
    examples = tfds_examples(
        source.images, source.split, directory, _like_captions, wanted, encoded=("image",)
    )
    for number, example in enumerate(examples, start=1):
        where = f"{place}: example {number}"
        held += len(example["image"])
        if held > MAX_HELD_BYTES:
            raise UserError(
                f"{where}: over {MAX_HELD_BYTES:,} bytes of images, which stay in memory; "
                "write them as webdataset tars, or set limit"
            )
        try:
            captions = {language: _tfds_texts(example, where)}
        except UserError as error:
            checks.bad("unreadable_captions", str(error))
            continue
        yield CaptionedImage(str(number), where, example["image"], captions)


READERS: dict[str, Reader] = {
    "folder": read_folder,
    "webdataset": read_webdataset,
    "tfds": read_tfds,
    "drawn": read_drawn,
    "emoji": read_emoji,
}
