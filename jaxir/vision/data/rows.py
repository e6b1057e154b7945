"""A row of an image set, an image with its captions, and the checks that it alone can fail."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from jaxir.config import CaptionsConfig, ImageSource
from jaxir.data.checks import InputChecks, check_text, is_blank, resolve_language
from jaxir.errors import UserError
from jaxir.vision.data.images import ImageContent, decode_image

DECODE_CHUNK = 256  # images


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    """An image and its captions."""

    name: str  # distinct within its `ImageSource`
    where: str  # location, for messages: "file:line: image NAME", "shard.tar: KEY"
    image: ImageContent
    captions: Mapping[str, Sequence[str]]  # language: one or more captions
    group: str = ""  # what it depicts; images of one group are never each other's negatives
    source: str = ""  # the part of the image set that reports and splits name; "": its source's


# an image, and its checked captions by language
CheckedRow = tuple[CaptionedImage, dict[str, list[str]]]


def check_captions(
    image: CaptionedImage, source: ImageSource, checks: InputChecks
) -> dict[str, list[str]]:
    """Distinct captions of an image by language: those that are valid and asked for."""
    kept: dict[str, list[str]] = {}
    any_text = False
    for code, texts in image.captions.items():
        for text in [texts] if isinstance(texts, str) else texts:
            any_text = True
            language = _check_caption(text, code, image.where, source, checks)
            if language and (not source.languages or language in source.languages):
                captions = kept.setdefault(language, [])
                if (text := text.strip()) not in captions:
                    captions.append(text)
    if not any_text:
        checks.reject("image_without_captions", f"{image.where}: no captions; add some")
    elif not kept:
        checks.counts["no_caption_kept"] += 1
    return kept


def _check_caption(
    text: str, code: str, where: str, source: ImageSource, checks: InputChecks
) -> str:
    """Language of a caption; "" if the caption was rejected."""
    reason = "unknown_language"
    try:
        language = resolve_language(code, source.language_codes, where)
        reason = "empty_caption"
        if is_blank(text):
            raise UserError(f"{where}: empty caption in {code}; remove it")
        reason = "unreadable_captions"
        check_text(text, "caption", where)
    except UserError as error:
        checks.reject(reason, str(error))
        return ""
    return language


def drop_undecodable(
    rows: Sequence[CheckedRow], config: CaptionsConfig, checks: InputChecks
) -> list[CheckedRow]:
    """The rows whose image can be decoded; decodes on several threads, outside Python's lock."""

    def problem(image: CaptionedImage) -> str:
        if callable(image.image):  # drawn, not decoded
            return ""
        try:
            decode_image(image.image, image.where, config.background)
        except UserError as error:
            return str(error)
        return ""

    kept = []
    with ThreadPoolExecutor() as threads:
        for start in range(0, len(rows), DECODE_CHUNK):
            chunk = rows[start : start + DECODE_CHUNK]
            for row, message in zip(chunk, threads.map(problem, (image for image, _ in chunk))):
                if message:
                    checks.reject("bad_image", message)
                else:
                    kept.append(row)
    return kept
