"""A row of training data, and how a reader makes one of what its file holds."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxir.config import Source
from jaxir.data.checks import InputChecks, check_text, is_blank, resolve_language
from jaxir.data.sentences import find_answer, find_nearest_answer, passage_text, sentence_at
from jaxir.errors import UserError


@dataclass(frozen=True, slots=True)
class Row:
    """A query and a passage that answers it, or (parallel text) one text as both."""

    query: str
    passage: str
    query_language: str
    passage_language: str
    id: str  # rows of one id are parallel
    where: str = ""  # location in the source, for messages
    hard_negatives: tuple[str, ...] = ()  # in the passage's language


@dataclass
class RowMaker:
    """Makes checked rows of a source and counts what was repaired or left out.

    The counts: "repaired" and "dropped" (answers that were not where they should be), "empty" (rows
    without a text that `drop_empty` left out), "without_answer" (the whole paragraph became the
    passage for want of an answer), "unanswerable" (left out: SQuAD 2.0 says that the passage has no
    answer).
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
            where: its location, for messages.
            texts: query, and passage or the paragraph that holds the answers.
            codes: the file's codes for their languages.
            row_id: text or number.
            answers: (text, start); None where passages are not cut by answers.
            hard_negatives: texts in the passage's language.

        Returns:
            The row; None if it is to be left out.

        Raises:
            UserError: names the location, what is wrong with it and how to mend it.
        """
        query_language, passage_language = (
            resolve_language(code, self.source.language_codes, where) for code in codes
        )
        names = ("query", "passage")
        for text, name in zip(texts, names, strict=True):
            if is_blank(text):
                remedy = "drop_empty=True of the source leaves it out"
                checks = InputChecks(self.source.drop_empty, self.counts, remedy)
                checks.reject("empty", f"{where}: no {name}; name its field in `fields`")
                return None
        query, passage = (check_text(text, name, where) for text, name in zip(texts, names))
        if answers is not None:
            answer_passage = self._answer_passage(where, passage, passage_language, answers)
            if answer_passage is None:
                return None
            passage = answer_passage
        return Row(
            query.strip(),
            passage.strip(),
            query_language,
            passage_language,
            id=self._id(row_id, codes[0], where),
            where=where,
            hard_negatives=tuple(
                check_text(text, "hard negative", where).strip() for text in hard_negatives
            ),
        )

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
        if start is None and self.source.repair_answers:
            start = find_nearest_answer(paragraph, answers)
            if start is not None:
                self.counts["repaired"] += 1
        if start is None:
            text, offset = answers[0]
            remedy = "repair_answers=True of the source looks for it elsewhere"
            checks = InputChecks(self.source.repair_answers, self.counts, remedy)
            checks.reject(
                "dropped", f"{where}: answer {text[:40]!r} is not in its passage at {offset}"
            )
            return None
        if self.unit == "paragraph":
            return paragraph
        sentence = sentence_at(paragraph, language, start)
        return passage_text(sentence, paragraph.strip(), self.unit)


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
