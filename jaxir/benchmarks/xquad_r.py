"""XQuAD-R and MLQA-R: retrieval of the sentences, in any language, that answer a question.

LAReQA (arXiv 2004.05484, section 3.1): all sentences of all paragraphs are passages. The relevant
ones are the sentence in which the answer span starts, and those that answer the same question in
the other languages. XQuAD-R has each question in eleven languages; MLQA-R has each in two to four
of seven.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from jaxir.data.sentences import passage_text
from jaxir.errors import UserError
from jaxir.evaluation.dataset import RetrievalDataset

# numbers of questions and candidates of each language, from the benchmarks' README
XQUAD_R = {
    "ar": (1190, 1222),
    "de": (1190, 1276),
    "el": (1190, 1234),
    "en": (1190, 1180),
    "es": (1190, 1215),
    "hi": (1190, 1244),
    "ru": (1190, 1219),
    "th": (1190, 852),
    "tr": (1190, 1167),
    "vi": (1190, 1209),
    "zh": (1190, 1196),
}
MLQA_R = {
    "ar": (517, 2545),
    "de": (512, 2362),
    "en": (1148, 6264),
    "es": (500, 1787),
    "hi": (507, 2426),
    "vi": (511, 2828),
    "zh": (504, 2322),
}
PASSAGES = ("sentence", "sentence_with_paragraph")


@dataclass
class LanguageFile:
    """The questions and passages of a language's file."""

    question_ids: list[str] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)  # each question's, as an index of passages
    passages: list[str] = field(default_factory=list)
    passage_ids: list[str] = field(default_factory=list)


def read_xquad_r(
    folder: str | Path, passage: str = "sentence", whole: bool = True
) -> RetrievalDataset:
    """Read a folder of XQuAD-R files `ar.json` ... `zh.json`.

    Args:
        folder: of the eleven files.
        passage: text of a passage: "sentence", or "sentence_with_paragraph" as in LAReQA.
        whole: require the published counts; else any languages and counts are read.

    Raises:
        UserError: the files are not XQuAD-R's, or incomplete.
    """
    return _read("XQuAD-R", XQUAD_R, Path(folder), passage, whole)


def read_mlqa_r(
    folder: str | Path, passage: str = "sentence", whole: bool = True
) -> RetrievalDataset:
    """Read a folder of MLQA-R files `ar.json` ... `zh.json`; arguments as in `read_xquad_r`."""
    return _read("MLQA-R", MLQA_R, Path(folder), passage, whole)


def _read(
    name: str, counts: Mapping[str, tuple[int, int]], folder: Path, passage: str, whole: bool
) -> RetrievalDataset:
    if passage not in PASSAGES:
        raise UserError(f"passage = {passage!r}: must be one of {', '.join(PASSAGES)}")
    files = {language: folder / f"{language}.json" for language in counts}
    missing = [file.name for file in files.values() if not file.is_file()]
    if missing and (whole or len(missing) == len(files)):
        hint = "" if len(missing) == len(files) else " (--allow_partial reads the others)"
        raise UserError(f"{folder}: not an {name} folder, it lacks {', '.join(missing)}{hint}")
    contents = {
        language: read_language(file, language, passage)
        for language, file in files.items()
        if file.is_file()
    }
    for language, content in contents.items():
        actual = (len(content.questions), len(content.passages))
        if whole and actual != counts[language]:
            raise UserError(
                f"{files[language]}: {actual[0]} questions and {actual[1]} candidates, but {name} "
                f"has {counts[language][0]} and {counts[language][1]}: the file is incomplete; "
                "--allow_partial reads it anyway"
            )
    return join_languages(name if whole else f"{name} (partial)", contents)


def read_language(file: Path, language: str, passage: str) -> LanguageFile:
    """Read one language of a LAReQA benchmark: SQuAD JSON with `sentence_breaks`.

    Raises:
        UserError: names the file, and the line or paragraph that is wrong.
    """
    try:
        articles = json.loads(file.read_text(encoding="utf-8"))["data"]
        paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
    except json.JSONDecodeError as error:
        raise UserError(f"{file}, line {error.lineno}: invalid JSON ({error.msg})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: byte {error.start} is not UTF-8") from error
    except (KeyError, TypeError) as error:
        raise UserError(f"{file}: not SQuAD's format, which has data and paragraphs") from error
    content = LanguageFile()
    for number, paragraph in enumerate(paragraphs):
        try:
            _add_paragraph(content, paragraph, f"{language}-{number:03}", passage)
        except (KeyError, IndexError, TypeError) as error:
            missing = isinstance(error, KeyError)
            problem = f"{error} is missing" if missing else f"a field is malformed ({error})"
            raise UserError(
                f"{file}, paragraph {number}: {problem}; LAReQA's repository has the files with "
                "sentence_breaks"
            ) from error
        except ValueError as error:
            raise UserError(f"{file}, paragraph {number}: {error}") from error
    return content


def _add_paragraph(content: LanguageFile, paragraph: dict, name: str, passage: str) -> None:
    context = paragraph["context"]
    first = len(content.passages)
    for number, (start, end) in enumerate(paragraph["sentence_breaks"]):
        content.passages.append(passage_text(context[start:end], context, passage))
        content.passage_ids.append(f"{name}-{number:02}")
    for question in paragraph["qas"]:
        start = question["answers"][0]["answer_start"]
        if not isinstance(question["question"], str):
            raise ValueError(f"the question of {question['id']} is not a text")
        content.question_ids.append(question["id"])
        content.questions.append(question["question"])
        content.answers.append(first + _sentence_at(start, paragraph, question["id"]))


def _sentence_at(position: int, paragraph: dict, question_id: str) -> int:
    for number, (start, end) in enumerate(paragraph["sentence_breaks"]):
        if start <= position < end:
            return number
    raise ValueError(f"the answer of {question_id} starts in no sentence")


def join_languages(name: str, contents: dict[str, LanguageFile]) -> RetrievalDataset:
    """Join languages into one dataset; queries with equal ids share their relevant passages."""
    languages = tuple(contents)
    offsets = np.cumsum([0] + [len(content.passages) for content in contents.values()])
    answers: dict[str, list[int]] = {}
    question_index: dict[str, int] = {}
    for offset, content in zip(offsets, contents.values()):
        for question_id, answer in zip(content.question_ids, content.answers):
            answers.setdefault(question_id, []).append(int(offset) + answer)
            question_index.setdefault(question_id, len(question_index))
    most = max(map(len, answers.values()), default=1)
    padded = {key: rows + [-1] * (most - len(rows)) for key, rows in answers.items()}
    files = contents.values()
    query_keys = [key for content in files for key in content.question_ids]
    return RetrievalDataset(
        name=name,
        languages=languages,
        queries=[text for content in files for text in content.questions],
        query_ids=[
            f"{language}-{question_id}"
            for language, content in contents.items()
            for question_id in content.question_ids
        ],
        query_language=np.repeat(
            np.arange(len(languages)), [len(content.questions) for content in files]
        ),
        passages=[text for content in files for text in content.passages],
        passage_ids=[passage_id for content in files for passage_id in content.passage_ids],
        passage_language=np.repeat(
            np.arange(len(languages)), [len(content.passages) for content in files]
        ),
        relevant=np.array([padded[key] for key in query_keys], np.int64),
        question=np.array([question_index[key] for key in query_keys]),
    )
