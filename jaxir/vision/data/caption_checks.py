"""Checks that a captioned image alone can pass or fail, whatever its reader."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from jaxir.config import CaptionsConfig, ImageSource
from jaxir.data.rows import check_text, known_language
from jaxir.errors import UserError
from jaxir.vision.data.captioned import CaptionedImage, Checks, decoded

DECODED_AT_ONCE = 256

# an image, and its captions by their real language
Kept = tuple[CaptionedImage, dict[str, list[str]]]


def checked_captions(
    image: CaptionedImage, source: ImageSource, checks: Checks
) -> dict[str, list[str]]:
    """The captions that are to be kept, each once, by their real language."""
    kept: dict[str, list[str]] = {}
    blank = True
    for code, texts in image.captions.items():
        language = source.language_codes.get(code, code)
        for text in [texts] if isinstance(texts, str) else texts:
            blank = False
            problem = _caption_problem(text, code, language, image.where)
            if problem:
                checks.bad(*problem)
            elif not source.languages or language in source.languages:
                own = kept.setdefault(language, [])
                if (text := text.strip()) not in own:
                    own.append(text)
    if blank:
        checks.bad("image_without_captions", f"{image.where}: no captions; add some")
    elif not kept:
        checks.counts["no_caption_kept"] += 1
    return kept


def _caption_problem(text: str, code: str, language: str, where: str) -> tuple[str, str] | None:
    """Reason and message, if something is wrong."""
    if not known_language(language):
        return "unknown_language", (
            f"{where}: unknown language {code!r}; use an ISO 639 code or map it with "
            "`language_codes` of the source"
        )
    if not text.strip():
        return "empty_caption", f"{where}: empty caption in {code}; remove it"
    try:
        check_text(text, "caption", where)
    except UserError as error:
        return "unreadable_captions", str(error)
    return None


def that_decode(
    found: Sequence[Kept],
    config: CaptionsConfig,
    checks: Checks,
) -> list[Kept]:
    """Those whose image can be decoded, or drawn; Pillow lets threads decode side by side."""

    def problem(image: CaptionedImage) -> str:
        if callable(image.image):
            return ""
        try:
            decoded(image.image, image.where, config.background)
        except UserError as error:
            return str(error)
        return ""

    kept = []
    with ThreadPoolExecutor() as threads:
        for start in range(0, len(found), DECODED_AT_ONCE):
            part = found[start : start + DECODED_AT_ONCE]
            for row, message in zip(part, threads.map(problem, (image for image, _ in part))):
                if message:
                    checks.bad("bad_image", message)
                else:
                    kept.append(row)
    return kept
