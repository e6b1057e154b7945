"""Sentences of a text, and the training passage for an answer.

All offsets count code points, as Python's do. (ICU counts UTF-16 units, so an emoji would shift
every later offset; here ICU's sentences are measured in Python instead.)
"""

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache

from icu4py.breakers import SentenceBreaker

from jaxir.config import PASSAGE_UNITS
from jaxir.errors import UserError

# Thai and Lao have no full stop: ICU then finds one sentence, or breaks at abbreviations.
UNMARKED_LANGUAGES = ("th", "lo")
UNMARKED_SENTENCE = 200  # characters; 907 sentences in XQuAD-R Thai, which has 852 candidates


@lru_cache(maxsize=256)  # the questions about one paragraph follow each other
def sentence_spans(text: str, language: str) -> tuple[tuple[int, int], ...]:
    """Split a text into sentences that together cover it.

    ICU's rules decide (Unicode Standard Annex 29). Thai and Lao have no sentence mark: there a
    space separates clauses, and a sentence is cut at a line break or at the first space after
    `UNMARKED_SENTENCE` characters.

    Args:
        text: any text.
        language: its code; ICU falls back to the rules common to all languages.

    Returns:
        [start, end) of each sentence in code points, with the white space that follows it.
    """
    if language in UNMARKED_LANGUAGES:
        pieces = _unmarked_sentences(text)
    else:
        pieces = list(SentenceBreaker(text, language))
    spans, start = [], 0
    for piece in pieces:
        if piece:  # ICU ends a text that holds characters beyond 16 bits with empty pieces
            spans.append((start, start + len(piece)))
            start += len(piece)
    return tuple(spans)


def _unmarked_sentences(text: str) -> list[str]:
    pieces, start = [], 0
    for index, character in enumerate(text):
        long_enough = index - start >= UNMARKED_SENTENCE and character == " "
        if character == "\n" or long_enough:
            pieces.append(text[start : index + 1])
            start = index + 1
    pieces.append(text[start:])
    return pieces


def sentence_at(text: str, language: str, offset: int) -> str:
    """The sentence of `text` that holds the character at `offset`, without outer white space."""
    spans = sentence_spans(text, language)
    start, end = spans[bisect_right(spans, (offset, len(text))) - 1]
    return text[start:end].strip()


def passage_text(sentence: str, paragraph: str, unit: str) -> str:
    """The text to encode for a sentence of a paragraph.

    Args:
        sentence: the sentence.
        paragraph: the paragraph around it.
        unit: one of `jaxir.config.PASSAGE_UNITS`; "sentence_with_paragraph" puts the sentence
            before its whole paragraph (LAReQA, arXiv 2004.05484, encodes both; it does not say how
            they are joined).

    Raises:
        UserError: unknown unit.
    """
    if unit == "paragraph":
        return paragraph
    if unit == "sentence":
        return sentence
    if unit == "sentence_with_paragraph":
        return f"{sentence} {paragraph}"
    raise UserError(f"passage = {unit!r}: must be one of {', '.join(PASSAGE_UNITS)}")


def find_answer(paragraph: str, answers: Sequence[tuple[str, int]]) -> int | None:
    """Start of the first answer (text, start) that is in the paragraph at its start, or None."""
    for text, start in answers:
        if start >= 0 and paragraph.startswith(text, start):
            return start
    return None


def find_nearest_answer(paragraph: str, answers: Sequence[tuple[str, int]]) -> int | None:
    """Start of the occurrence nearest to an answer's given start; None if there is none.

    The first (text, start) whose text occurs at all is taken.
    """
    for text, start in answers:
        start = min(max(start, 0), len(paragraph))
        before = paragraph.rfind(text, 0, start + len(text))
        after = paragraph.find(text, start)
        occurrences = [offset for offset in (before, after) if offset >= 0]
        if occurrences:
            return min(occurrences, key=lambda offset: abs(offset - start))
    return None
