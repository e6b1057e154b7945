"""Captions of an image in a JSON object.

It has one of these forms, in a JSON line (which names the image as `image`) or in the JSON file of
a webdataset sample:

    {"captions": {"de": "ein Hund", "en": ["a dog", "a dog in the grass"]}}
    {"caption": "a dog", "language": "en"}       several lines of an image add up
    {"caption": ["a dog", "a small dog"]}        in the one language of the source

An optional `group` names what is depicted, if other images depict it too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxir.config import ImageSource
from jaxir.errors import UserError


@dataclass
class CaptionRecord:
    """Captions and group of an image, before the image is read."""

    where: str  # location, for messages
    captions: dict[str, list[str]] = field(default_factory=dict)
    group: str = ""
    complete: bool = False  # a single JSON object has all of its captions

    def add(self, captions: Mapping[str, list[str]]) -> None:
        """Append captions."""
        for language, texts in captions.items():
            self.captions.setdefault(language, []).extend(texts)


def _texts(value: object, where: str) -> list[str]:
    texts: list[str] = []
    for text in value if isinstance(value, list) else [value]:
        if not isinstance(text, str):
            raise UserError(f"{where}: a caption is a {type(text).__name__}; it must be a text")
        texts.append(text)
    return texts


def single_language(source: ImageSource, where: str) -> str:
    """The source's language, for captions that name none.

    Raises:
        UserError: the source does not name exactly one.
    """
    if len(source.languages) != 1:
        raise UserError(
            f"{where}: no language; add it to the captions, or name one in `languages` "
            f"of the source, which has {len(source.languages)}"
        )
    return source.languages[0]


def parse_captions(json: Mapping[str, Any], source: ImageSource, where: str) -> CaptionRecord:
    """Captions and group of a JSON object in one of the forms above.

    Raises:
        UserError: it has none of them.
    """
    group = json.get("group")
    group = "" if group is None else group
    if isinstance(group, bool) or not isinstance(group, str | int):
        raise UserError(f"{where}: group is a {type(group).__name__}; it must be a text")
    by_language = json.get("captions")
    record = CaptionRecord(where, group=str(group), complete=by_language is not None)
    if isinstance(by_language, dict):
        record.add({language: _texts(value, where) for language, value in by_language.items()})
    elif by_language is not None:
        raise UserError(f'{where}: `captions` must be an object, e.g. {{"en": "a dog"}}')
    elif "caption" in json:
        language = json.get("language") or single_language(source, where)
        record.add({str(language): _texts(json["caption"], where)})
    else:
        raise UserError(f"{where}: neither `captions` nor `caption`; add one of them")
    return record
