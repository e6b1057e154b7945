"""Captions to be scored, their references, and where their images lie.

Three kinds of file, told by how the name ends:

* `.jsonl`: rows `{"image": NAME, "caption": TEXT, "language": CODE, "id": ID}`, the last two
  optional (English; the row's number); references have `"references": [TEXT, ...]` or `"caption"`.
* `.json`: one object, `{NAME: TEXT}` or `{NAME: [TEXT, ...]}`, as CLIPScore's own code has it.
* `.txt`: `NAME#NUMBER`, a tab, and the text, as Flickr8k.token.txt has it.

A NAME is a path below the folder of images, with its suffix or without.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from jaxir.data.files import json_records, lines_of, read_json
from jaxir.data.rows import known_language
from jaxir.data.unicode import check_unicode
from jaxir.errors import UserError

_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
_MOST = 10_000  # characters of a caption


@dataclass(frozen=True, slots=True)
class Caption:
    """What a row says of an image."""

    image: str
    text: str
    language: str
    id: str
    where: str  # file and row, for messages


@dataclass
class Mistakes:
    """Rows and images that cannot be used: all are counted before the first is complained of."""

    skip: bool  # leave them out
    found: list[str] = field(default_factory=list)
    images: set[str] = field(default_factory=set)  # that such rows name

    def check(self) -> None:
        """Raise a `UserError` that names the first, unless they are to be left out."""
        if self.found and not self.skip:
            count = len(self.found)
            which = "the only mistake" if count == 1 else f"the first of {count:,} mistakes"
            raise UserError(f"{self.found[0]} ({which}; mend, or --skip_bad leaves out)")


def read_captions(file: Path, mistakes: Mistakes) -> list[Caption]:
    """The captions of a file; rows that cannot be used become mistakes.

    Raises:
        UserError: there is no such file, or it is of another kind.
    """
    captions, seen = [], set()
    for where, image, texts, language, name in _rows(file, ("caption",)):
        try:
            for text in _texts(texts, "caption", where):
                caption = Caption(
                    image_name(image, where), text, _language(language, where), name, where
                )
                if name in seen:
                    raise UserError(f"{where}: the id {name!r} stands twice")
                seen.add(name)
                captions.append(caption)
        except UserError as error:
            mistakes.found.append(str(error))
            if isinstance(image, str):
                mistakes.images.add(image)
    return captions


def read_references(file: Path, mistakes: Mistakes) -> dict[str, list[tuple[str, str]]]:
    """(Language, text) of the references of each image; rows of one image add up.

    Raises:
        UserError: there is no such file, or it is of another kind.
    """
    references: dict[str, list[tuple[str, str]]] = {}
    for where, image, texts, language, _ in _rows(file, ("references", "caption")):
        try:
            code, found = _language(language, where), _texts(texts, "reference", where)
            references.setdefault(image_name(image, where), []).extend((code, x) for x in found)
        except UserError as error:
            mistakes.found.append(str(error))
    return references


def _rows(file: Path, fields: tuple[str, ...]) -> Iterator[tuple[str, Any, Any, Any, str]]:
    """Place, image, texts, language and id of each row."""
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    name = file.name.removesuffix(".gz")
    if name.endswith(".jsonl"):
        for number, where, row in json_records(file):
            texts = next((row[field] for field in fields if field in row), None)
            yield (
                where,
                row.get("image"),
                texts,
                row.get("language", "en"),
                str(row.get("id", number)),
            )
    elif name.endswith(".json"):
        values = read_json(file)
        if not isinstance(values, dict):
            raise UserError(f"{file}: must hold one object, from images to captions")
        for image, texts in values.items():
            yield f"{file}: {image!r}", image, texts, "en", image
    elif name.endswith(".txt"):
        for where, line in lines_of(file):
            if line.strip():
                identity, _, text = line.strip().partition("\t")
                image = identity.partition("#")[0] if "#" in identity else None
                yield where, image, text, "en", identity
    else:
        raise UserError(f"{file}: the name must end in .jsonl, .json or .txt; see --help")


def _texts(value: Any, name: str, where: str) -> list[str]:
    """One text or several, with single spaces."""
    values = value if isinstance(value, list) and name == "reference" else [value]
    texts = []
    for one in values:
        if not isinstance(one, str) or not one.strip():
            raise UserError(f"{where}: an image without {name}")
        if len(one) > _MOST:
            raise UserError(f"{where}: {name} of {len(one):,} characters; at most {_MOST:,}")
        texts.append(check_unicode(" ".join(one.split()), f"{where}: {name}"))
    if not texts:
        raise UserError(f"{where}: an image without {name}")
    return texts


def _language(code: Any, where: str) -> str:
    if not isinstance(code, str) or not known_language(code):
        raise UserError(f"{where}: unknown language {code!r}; use an ISO 639 code")
    return code


def image_name(value: Any, where: str) -> str:
    """The name of an image, if it can be one that lies in a folder.

    Raises:
        UserError: it is no text, or leads out of the folder.
    """
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise UserError(f"{where}: a caption without image")
    parts = PurePosixPath(value).parts
    if not parts or parts[0].startswith("/") or ".." in parts:
        raise UserError(f"{where}: the image {value!r} leads out of the folder of images")
    return value


class ImageFolder:
    """The images of a folder and the folders in it, by name with or without suffix.

    Raises:
        UserError: there is no such folder, or it holds no image.
    """

    def __init__(self, folder: Path):
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder of images")
        self.folder = folder
        self.names: list[str] = []
        for base, folders, files in os.walk(folder):
            folders.sort()
            inner = Path(base).relative_to(folder)
            names = (name for name in sorted(files) if name.lower().endswith(_SUFFIXES))
            self.names += [(inner / name).as_posix() for name in names]
        if not self.names:
            raise UserError(f"{folder}: holds no image ({', '.join(_SUFFIXES)})")
        self._by_name = {name: [name] for name in self.names}
        for name in self.names:
            self._by_name.setdefault(os.path.splitext(name)[0], []).append(name)

    def find(self, name: str, where: str) -> str:
        """The name with its suffix.

        Raises:
            UserError: there is no such image, or more than one.
        """
        found = self._by_name.get(PurePosixPath(name).as_posix(), [])
        if not found:
            raise UserError(f"{where}: a caption without image: {self.folder} has no {name!r}")
        if len(found) > 1 and found[0] != name:
            raise UserError(f"{where}: the image {name!r} may be any of {', '.join(found)}")
        return found[0]

    def without_caption(self, named: Iterable[str]) -> list[str]:
        """A message for each image that no row names, with suffix or without."""
        known = {found for name in named for found in self._by_name.get(name, [])}
        paths = (self.folder / name for name in self.names if name not in known)
        return [f"{path}: an image without caption" for path in paths]
