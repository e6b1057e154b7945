"""Candidate captions to be scored, their references, and the folder of their images.

Three kinds of file, told apart by the end of the name:

* `.jsonl`: rows `{"image": NAME, "caption": TEXT, "language": CODE, "id": ID}`, the last two
  optional (English; the row's number); references have `"references": [TEXT, ...]` or `"caption"`.
* `.json`: one object, `{NAME: TEXT}` or `{NAME: [TEXT, ...]}`, as CLIPScore's own code has it.
* `.txt`: `NAME#NUMBER`, a tab, and the text, as Flickr8k.token.txt has it.

A NAME is a path below the folder of images, with or without its suffix.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from jaxir.data.checks import check_unicode, known_language
from jaxir.data.files import json_records, read_json, read_lines
from jaxir.errors import UserError

_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
_MAX_CHARACTERS = 10_000  # of a caption


@dataclass(frozen=True, slots=True)
class CandidateCaption:
    """A caption to be scored against an image, with references and human ratings if given."""

    image: str  # its name in a file; once resolved, its path below the folder of images
    text: str
    language: str
    id: str
    where: str  # file and row, for messages
    references: tuple[str, ...] = ()
    ratings: tuple[float, ...] = ()


@dataclass
class InputErrors:
    """Errors in rows and images, collected so that all are counted before the first is raised."""

    skip: bool  # leave the rows and images out instead
    messages: list[str] = field(default_factory=list)
    images: set[str] = field(default_factory=set)  # names in rows with an error

    def check(self) -> None:
        """Raise a `UserError` with the first message, unless errors are to be skipped."""
        if self.messages and not self.skip:
            count = len(self.messages)
            which = "the only error" if count == 1 else f"the first of {count:,} errors"
            raise UserError(
                f"{self.messages[0]} ({which}; correct the input, or pass --skip_bad to leave out "
                "what cannot be used)"
            )


def read_captions(file: Path, errors: InputErrors) -> list[CandidateCaption]:
    """Read the captions of a file; rows that cannot be used are added to `errors`.

    Raises:
        UserError: there is no such file, or it is of another kind.
    """
    captions, seen = [], set()
    for where, image, texts, language, row_id in _rows(file, ("caption",)):
        try:
            for text in _texts(texts, "caption", where):
                caption = CandidateCaption(
                    image_name(image, where), text, _language(language, where), row_id, where
                )
                if row_id in seen:
                    raise UserError(f"{where}: duplicate id {row_id!r}; ids must be unique")
                seen.add(row_id)
                captions.append(caption)
        except UserError as error:
            errors.messages.append(str(error))
            if isinstance(image, str):
                errors.images.add(image)
    return captions


def read_references(file: Path, errors: InputErrors) -> dict[str, list[tuple[str, str]]]:
    """Read (language, text) of the references of each image; rows of one image add up.

    Raises:
        UserError: there is no such file, or it is of another kind.
    """
    references: dict[str, list[tuple[str, str]]] = {}
    for where, image, texts, language, _ in _rows(file, ("references", "caption")):
        try:
            code, row_texts = _language(language, where), _texts(texts, "reference", where)
            name = image_name(image, where)
            references.setdefault(name, []).extend((code, text) for text in row_texts)
        except UserError as error:
            errors.messages.append(str(error))
    return references


def _rows(file: Path, fields: tuple[str, ...]) -> Iterator[tuple[str, Any, Any, Any, str]]:
    """Rows of a file as (place, image, texts, language, id), unchecked."""
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
        for where, line in read_lines(file):
            if line.strip():
                identity, _, text = line.strip().partition("\t")
                image = identity.partition("#")[0] if "#" in identity else None
                yield where, image, text, "en", identity
    else:
        raise UserError(f"{file}: the name must end in .jsonl, .json or .txt; see --help")


def _texts(value: Any, name: str, where: str) -> list[str]:
    """Checked texts of a row, with single spaces; only references may be several."""
    values = value if isinstance(value, list) and name == "reference" else [value]
    texts = []
    for text in values:
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{where}: an image without {name}")
        if len(text) > _MAX_CHARACTERS:
            raise UserError(
                f"{where}: {name} of {len(text):,} characters; at most {_MAX_CHARACTERS:,}"
            )
        texts.append(check_unicode(" ".join(text.split()), f"{where}: {name}"))
    if not texts:
        raise UserError(f"{where}: an image without {name}")
    return texts


def _language(code: Any, where: str) -> str:
    if not isinstance(code, str) or not known_language(code):
        raise UserError(f"{where}: unknown language {code!r}; use an ISO 639 code")
    return code


def image_name(value: Any, where: str) -> str:
    """Check that a value can be the name of an image below a folder.

    Raises:
        UserError: it is not a string, or leads out of the folder.
    """
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise UserError(f"{where}: a caption without image")
    parts = PurePosixPath(value).parts
    if not parts or parts[0].startswith("/") or ".." in parts:
        raise UserError(f"{where}: the image {value!r} leads out of the folder of images")
    return value


class ImageFolder:
    """Images of a folder and its subfolders, by name with or without suffix.

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
            subfolder = Path(base).relative_to(folder)
            names = (name for name in sorted(files) if name.lower().endswith(_SUFFIXES))
            self.names += [(subfolder / name).as_posix() for name in names]
        if not self.names:
            raise UserError(f"{folder}: holds no image ({', '.join(_SUFFIXES)})")
        self._by_name = {name: [name] for name in self.names}
        for name in self.names:
            self._by_name.setdefault(os.path.splitext(name)[0], []).append(name)

    def find(self, name: str, where: str) -> str:
        """Path of an image below the folder, with its suffix.

        Raises:
            UserError: there is no such image, or more than one.
        """
        paths = self._by_name.get(PurePosixPath(name).as_posix(), [])
        if not paths:
            raise UserError(f"{where}: a caption without image: {self.folder} has no {name!r}")
        if len(paths) > 1 and paths[0] != name:
            raise UserError(
                f"{where}: the image {name!r} may be any of {', '.join(paths)}; add the suffix"
            )
        return paths[0]

    def without_caption(self, named: Iterable[str]) -> list[str]:
        """Error messages, one for each image that no row names."""
        known = {path for name in named for path in self._by_name.get(name, [])}
        paths = (self.folder / name for name in self.names if name not in known)
        return [f"{path}: an image without caption" for path in paths]
