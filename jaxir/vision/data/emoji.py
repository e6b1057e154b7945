"""Emoji: each drawn in several styles, and named in many languages by Unicode's CLDR.

A folder has a tar of PNG for each style, named by code points, and `captions.jsonl.xz` with a name
and keywords for each emoji and language. The set is split twice, by emoji and by style, of which
one is held out, so that there are four parts (`PARTS`).

Whole families of emoji are held out or not (`jaxir.vision.data.emoji_families`).
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from jaxir.config import EmojiConfig, ImageSource
from jaxir.data.checks import InputChecks, choose_languages
from jaxir.data.files import json_records
from jaxir.errors import UserError
from jaxir.vision.data.emoji_families import EmojiSet, held_out_emoji, read_drawings
from jaxir.vision.data.rows import CaptionedImage

CAPTIONS = "captions.jsonl.xz"
LANGUAGES = ("ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh")  # of XQuAD-R
# (the emoji is held out, the style is)
PARTS = {
    "train": (False, False),
    "held_out_style": (False, True),  # known emoji, drawn in another way
    "held_out_content": (True, False),  # other emoji
    "held_out_both": (True, True),
}


def read_emoji(
    source: ImageSource, directory: Path, checks: InputChecks
) -> Iterator[CaptionedImage]:
    """Drawings of one or more parts of the set, style by style, each with all its captions.

    The first caption in a language is the name, the second, if there is one, the keywords. Without
    languages in the source, those of XQuAD-R are read.

    Args:
        source: `images` is the folder and `split` a part, or several joined by "+".
        directory: that a relative path starts from.
        checks: policy for emoji without drawings and drawings without captions.

    Raises:
        UserError: names the file, and the line, style, part or language that is wrong.
    """
    folder = directory / source.images
    parts = _parts(source, folder)
    emoji = read_drawings(folder, checks)
    styles = _styles(emoji, source.emoji, folder)
    captions = dict(_read_captions(folder / CAPTIONS, source.languages or LANGUAGES, checks))
    _check_pairs(emoji, captions, folder, checks)
    held_out, groups = held_out_emoji(emoji, source.emoji), emoji.groups()
    for style in styles:
        for code, (where, texts) in captions.items():
            part = (code in held_out, style == source.emoji.held_out_style)
            if part in parts and code in emoji.drawings[style]:
                yield CaptionedImage(
                    name=f"{style}/{code}",
                    where=f"{where}: {style} {code}",
                    image=emoji.drawings[style][code].stored,
                    captions=texts,
                    group=groups[code],
                    source=style,
                )


def _parts(source: ImageSource, folder: Path) -> list[tuple[bool, bool]]:
    names = source.split.split("+")
    for name in names:
        if name not in PARTS:
            raise UserError(
                f"{folder}: split {name!r}; must be of {', '.join(PARTS)}, joined by + if several"
            )
        if PARTS[name][1] and not source.emoji.held_out_style:
            raise UserError(f"{folder}: split {name!r} needs emoji.held_out_style to be set")
    if not 0 <= source.emoji.held_out < 1:
        raise UserError(f"{folder}: emoji.held_out = {source.emoji.held_out}: from 0 to below 1")
    return [PARTS[name] for name in names]


def _styles(emoji: EmojiSet, options: EmojiConfig, folder: Path) -> list[str]:
    """Styles to read: those that are named, and the one that is held out; none named: all."""
    available = emoji.drawings
    held_out = [options.held_out_style] if options.held_out_style else []
    for style in (*options.styles, *held_out):
        if style not in available:
            raise UserError(f"{folder}: no style {style!r}; it has {', '.join(available)}")
    return list(dict.fromkeys([*options.styles, *held_out] if options.styles else available))


def _read_captions(
    file: Path, languages: Sequence[str], checks: InputChecks
) -> Iterator[tuple[str, tuple[str, dict[str, list[str]]]]]:
    """Code points, and (location, captions by language) of each emoji."""
    if not file.is_file():
        raise UserError(f"{file}: no such file; mend `images` of the source")
    available: set[str] = set()  # languages
    locations: dict[str, str] = {}  # by code
    for _, where, record in json_records(file):
        code, texts = record.get("code"), record.get("captions")
        if not isinstance(code, str) or not isinstance(texts, dict):
            message = f"{where}: `code` must be a text and `captions` an object"
            checks.reject("unreadable_captions", message)
            continue
        if code in locations:
            checks.reject("duplicate_image", f"{where}: {code} stands at {locations[code]} too")
            continue
        locations[code] = where
        available |= texts.keys()
        try:
            captions = {
                language: _captions_of(texts[language], f"{where}: {language}")
                for language in languages
                if language in texts
            }
        except UserError as error:
            checks.reject("unreadable_captions", str(error))
            continue
        if captions:
            yield code, (where, captions)
        else:
            checks.reject("image_without_captions", f"{where}: {code} has none in these languages")
    choose_languages(languages, sorted(available), f"captions of {file}")


def _captions_of(entry: object, where: str) -> list[str]:
    """The name, and the keywords other than the name as a single text."""
    name = entry.get("name") if isinstance(entry, dict) else None
    keywords = entry.get("keywords", []) if isinstance(entry, dict) else []
    if not isinstance(name, str) or not isinstance(keywords, list):
        raise UserError(f"{where}: `name` must be a text and `keywords` a list")
    others = [str(word) for word in keywords if word != name]
    return [name, ", ".join(others)] if others else [name]


def _check_pairs(
    emoji: EmojiSet, captions: Mapping[str, tuple[str, object]], folder: Path, checks: InputChecks
) -> None:
    for style, drawings in emoji.drawings.items():
        for code in captions.keys() - drawings.keys():
            message = f"{captions[code][0]}: no drawing {code}.png in {style}.tar"
            checks.reject("captions_without_image", message)
        for code in drawings.keys() - captions.keys():
            checks.reject("image_without_captions", f"{folder / style}.tar: no captions for {code}")
