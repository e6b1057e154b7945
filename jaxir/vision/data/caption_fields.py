"""What a JSON object says of an image's captions.

They come in one of these forms, in a JSON line (which names the image as `image`) or in the JSON
file of a webdataset sample:

    {"captions": {"de": "ein Hund", "en": ["a dog", "a dog in the grass"]}}
    {"caption": "a dog", "language": "en"}       several lines of an image add up
    {"caption": ["a dog", "a small dog"]}        in the one language of the source

An optional `group` says what is depicted, where other images show the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxir.config import ImageSource
from jaxir.errors import UserError


@dataclass
class FoundCaptions:
    """What is known of an image before it is looked at."""

    where: str
    captions: dict[str, list[str]] = field(default_factory=dict)
    group: str = ""
    whole: bool = False  # one record has all of its captions

    def add(self, captions: Mapping[str, list[str]]) -> None:
        """Put captions after those that are there."""
        for language, texts in captions.items():
            self.captions.setdefault(language, []).extend(texts)


def _texts(value: object, where: str) -> list[str]:
    texts: list[str] = []
    for text in value if isinstance(value, list) else [value]:
        if not isinstance(text, str):
            raise UserError(f"{where}: a caption is a {type(text).__name__}; it must be a text")
        texts.append(text)
    return texts


def only_language(source: ImageSource, where: str) -> str:
    """The language of captions that name none.

    Raises:
        UserError: the source does not name exactly one.
    """
    if len(source.languages) != 1:
        raise UserError(
            f"{where}: no language; add it to the captions, or name one in `languages` "
            f"of the source, which has {len(source.languages)}"
        )
    return source.languages[0]


def read_fields(record: Mapping[str, Any], source: ImageSource, where: str) -> FoundCaptions:
    """Captions and group of a record in one of the forms above.

    Raises:
        UserError: it is in none of them.
    """
    group = record.get("group")
    group = "" if group is None else group
    if isinstance(group, bool) or not isinstance(group, str | int):
        raise UserError(f"{where}: group is a {type(group).__name__}; it must be a text")
    by_language = record.get("captions")
    found = FoundCaptions(where, group=str(group), whole=by_language is not None)
    if isinstance(by_language, dict):
        found.add({language: _texts(value, where) for language, value in by_language.items()})
    elif by_language is not None:
        raise UserError(f'{where}: `captions` must be an object, e.g. {{"en": "a dog"}}')
    elif "caption" in record:
        language = record.get("language") or only_language(source, where)
        found.add({str(language): _texts(record["caption"], where)})
    else:
        raise UserError(f"{where}: neither `captions` nor `caption`; add one of them")
    return found
