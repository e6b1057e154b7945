"""Checks of one piece of input: its text, its language, and what to do if it is bad.

`where` names the input in every message: "file:line" or "file: question 3, id X".
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeVar

from babel import Locale

from jaxir.errors import UserError

logger = logging.getLogger(__name__)

T = TypeVar("T")
MAX_TEXT = 1_000_000  # characters of a text
MAX_WARNINGS = 20  # for each reason


@dataclass
class InputChecks:
    """Policy for bad input: raise an error, or warn, count it and leave it out."""

    skip_bad: bool = False
    counts: Counter[str] = field(default_factory=Counter)  # of what was left out, by reason
    remedy: str = "skip_bad=True leaves it out"  # the option that avoids the error

    def reject(self, reason: str, message: str) -> None:
        """Leave something out.

        Args:
            reason: key of its count, e.g. "broken_image".
            message: where it is, what is wrong with it and how to mend it.

        Raises:
            UserError: the message, unless bad input is to be skipped.
        """
        if not self.skip_bad:
            raise UserError(f"{message} ({self.remedy})")
        self.counts[reason] += 1
        if self.counts[reason] <= MAX_WARNINGS:
            logger.warning("left out: %s", message)


def find_reader(readers: Mapping[str, T], name: str) -> T:
    """Reader of that name.

    Raises:
        UserError: there is none; the message lists those that there are.
    """
    if name not in readers:
        raise UserError(f"reader = {name!r}: must be one of {', '.join(readers)}")
    return readers[name]


def check_unicode(text: str, what: str) -> str:
    """The text, if it can be encoded.

    JSON can spell half a surrogate pair, which neither a tokenizer nor a file takes.

    Args:
        text: from a file or a user.
        what: name of the text, for the message.

    Raises:
        UserError: it holds half a surrogate pair.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{what} holds half a surrogate pair; mend it") from None
    return text


def is_blank(text: object) -> bool:
    """True for None and for white space."""
    return text is None or (isinstance(text, str) and not text.strip())


def check_text(value: object, name: str, where: str) -> str:
    """The value, if it is a text that can be encoded.

    Raises:
        UserError: it is none, blank, over `MAX_TEXT` characters or not valid Unicode.
    """
    if is_blank(value):
        raise UserError(f"{where}: no {name}; name its field in `fields` or remove the row")
    if not isinstance(value, str):
        raise UserError(f"{where}: the {name} is a {type(value).__name__}; it must be a text")
    if len(value) > MAX_TEXT:
        raise UserError(f"{where}: {name} of {len(value):,} characters; at most {MAX_TEXT:,}")
    return check_unicode(value, f"{where}: {name}")


@lru_cache(maxsize=1024)
def known_language(code: str) -> bool:
    """True if CLDR knows the language code (ISO 639, with a script or region where needed)."""
    return code.replace("-", "_") in Locale("en").languages


def resolve_language(code: object, language_codes: Mapping[str, str], where: str) -> str:
    """Language that a file's code stands for.

    Args:
        code: as the file has it.
        language_codes: languages of codes that are the file's own.
        where: location in the file, for messages.

    Raises:
        UserError: there is no code, or CLDR does not know the language.
    """
    if not isinstance(code, str) or not code:
        raise UserError(f"{where}: no language; add its field or `languages` of the source")
    language = language_codes.get(code, code)
    if not known_language(language):
        raise UserError(
            f"{where}: unknown language {language!r}; use an ISO 639 code "
            "or map it with `language_codes` of the source"
        )
    return language


def choose_languages(
    languages: Sequence[str], available: Sequence[str], subject: str
) -> tuple[str, ...]:
    """The languages asked for, or all that are available if none is named.

    Args:
        languages: asked for.
        available: to choose from.
        subject: that is in these languages, for messages.

    Raises:
        UserError: one of the languages is not available, or one is named twice.
    """
    for language in languages:
        if language not in available:
            raise UserError(
                f"{subject}: not in language {language!r}; choose from {', '.join(available)}"
            )
    if len(set(languages)) < len(languages):
        raise UserError(f"{subject}: a language is named twice in {', '.join(languages)}")
    return tuple(languages) or tuple(available)
