"""A row of training data, and the checks that one row alone can pass or fail.

`where` is always the place to name in a message: "file:line" or "file: question 3, id X".
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from babel import Locale

from jaxir.config import Source
from jaxir.data.sentences import find_answer, find_nearest_answer, passage_text, sentence_at
from jaxir.data.unicode import check_unicode
from jaxir.errors import UserError

MAX_TEXT = 1_000_000  # characters of a text


@dataclass(frozen=True, slots=True)
class Row:
    """A query and a passage that answers it, or (parallel text) one text standing on both sides."""

    query: str
    passage: str
    query_language: str
    passage_language: str
    id: str  # rows of one id are parallel
    where: str = ""
    hard_negatives: tuple[str, ...] = ()  # in the passage's language


@dataclass
class RowMaker:
    """Makes checked rows of a source and counts what was repaired or left out.

    The counts: "repaired" and "dropped" (answers that were not where they should be), "empty" (rows
    without a text that `drop_empty` left out), "without_answer" (the whole paragraph stands for
    want of an answer), "unanswerable" (left out: SQuAD 2.0 says that the passage has no answer).
    """

    source: Source
    unit: str  # one of `jaxir.config.PASSAGE_UNITS`
    counts: Counter[str] = field(default_factory=Counter)

    def row(
        self,
        where: str,
        texts: tuple[object, object],
        codes: tuple[object, object],
        row_id: object,
        answers: list[tuple[str, int]] | None = None,
        hard_negatives: Sequence[object] = (),
    ) -> Row | None:
        """Check the parts of a row.

        Args:
            where: its place, for messages.
            texts: query, and passage or the paragraph that holds the answers.
            codes: the file's codes for their languages.
            row_id: text or number.
            answers: (text, start); None where passages are not cut by answers.
            hard_negatives: texts in the passage's language.

        Returns:
            The row; None if it is to be left out.

        Raises:
            UserError: names the place, what is wrong with it and how to mend it.
        """
        languages = (self._language(codes[0], where), self._language(codes[1], where))
        if self.source.drop_empty and any(_is_blank(text) for text in texts):
            self.counts["empty"] += 1
            return None
        query, passage = (
            check_text(text, name, where)
            for text, name in zip(texts, ("query", "passage"), strict=True)
        )
        if answers is not None:
            cut = self._answer_passage(where, passage, languages[1], answers)
            if cut is None:
                return None
            passage = cut
        return Row(
            query.strip(),
            passage.strip(),
            *languages,
            id=self._id(row_id, codes[0], where),
            where=where,
            hard_negatives=tuple(
                check_text(text, "hard negative", where).strip() for text in hard_negatives
            ),
        )

    def _language(self, code: object, where: str) -> str:
        if not isinstance(code, str) or not code:
            raise UserError(f"{where}: no language; add its field or `languages` of the source")
        code = self.source.language_codes.get(code, code)
        if not known_language(code):
            raise UserError(
                f"{where}: unknown language {code!r}; use an ISO 639 code "
                "or map it with `language_codes` of the source"
            )
        return code

    def _id(self, value: object, code: object, where: str) -> str:
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            raise UserError(f"{where}: no id; add it, or set fields.id='' to number the rows")
        suffix = self.source.id_suffix.replace("{language}", str(code))
        return str(value).removesuffix(suffix)

    def _answer_passage(
        self, where: str, paragraph: str, language: str, answers: list[tuple[str, int]]
    ) -> str | None:
        """The training passage for an answer; None if the answer is lost and the row must go."""
        if not answers:
            if self.unit != "paragraph":
                self.counts["without_answer"] += 1
            return paragraph
        start = find_answer(paragraph, answers)
        if start is None and not self.source.repair_answers:
            text, offset = answers[0]
            raise UserError(
                f"{where}: answer {text[:40]!r} does not stand in its passage at {offset}; "
                "mend it or set repair_answers=True of the source"
            )
        if start is None:
            start = find_nearest_answer(paragraph, answers)
            self.counts["dropped" if start is None else "repaired"] += 1
        if start is None:
            return None
        if self.unit == "paragraph":
            return paragraph
        sentence = sentence_at(paragraph, language, start)
        return passage_text(sentence, paragraph.strip(), self.unit)


@lru_cache(maxsize=1024)
def known_language(code: str) -> bool:
    """Whether CLDR knows the language code (ISO 639, with a script or region where needed)."""
    return code.replace("-", "_") in Locale("en").languages


def _is_blank(text: object) -> bool:
    return text is None or (isinstance(text, str) and not text.strip())


def check_text(value: object, name: str, where: str) -> str:
    """The value, if it is a text that can be encoded.

    Raises:
        UserError: it is none, blank, over `MAX_TEXT` characters or not valid Unicode.
    """
    if _is_blank(value):
        raise UserError(
            f"{where}: no {name}; name its field in `fields`, remove the row, "
            "or set drop_empty=True of the source"
        )
    if not isinstance(value, str):
        raise UserError(f"{where}: the {name} is a {type(value).__name__}; it must be a text")
    if len(value) > MAX_TEXT:
        raise UserError(f"{where}: {name} of {len(value):,} characters; at most {MAX_TEXT:,}")
    return check_unicode(value, f"{where}: {name}")


def read_answers(value: object, where: str) -> list[tuple[str, int]]:
    """(text, start) of SQuAD's answers, given as a list of objects or an object of lists.

    Blank answers, as hidden test sets have them, are left out.

    Raises:
        UserError: they are something else.
    """
    pairs: list[tuple[Any, Any]] = [] if value is None else [(None, None)]
    if isinstance(value, Mapping):
        texts, starts = value.get("text"), value.get("answer_start")
        if isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts):
            pairs = list(zip(texts, starts))
    elif isinstance(value, list) and all(isinstance(answer, Mapping) for answer in value):
        pairs = [(answer.get("text"), answer.get("answer_start")) for answer in value]
    for text, start in pairs:
        if not isinstance(text, str) or isinstance(start, bool) or not isinstance(start, int):
            raise UserError(f"{where}: an answer needs a `text` and a whole number `answer_start`")
    return [(text, start) for text, start in pairs if text.strip()]
