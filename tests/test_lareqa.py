"""Reading XQuAD-R: the real files where they are, and broken ones made here."""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxir.benchmarks.xquad_r import (
    CANDIDATES,
    QUESTIONS,
    join_languages,
    read_language,
    read_xquad_r,
)
from jaxir.errors import UserError

FOLDER = Path(__file__).parents[1].parent / "shared/data/xquad-r"
real_files = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"XQuAD-R is not at {FOLDER}")

FIRST, SECOND = "Ada wrote it.", "Babbage 🙂 did not."


def paragraph(question_ids: dict[str, int]) -> dict:
    """Two sentences, and questions answered at some character."""
    return {
        "context": f"{FIRST} {SECOND}",
        "sentence_breaks": [[0, len(FIRST)], [len(FIRST) + 1, len(FIRST) + 1 + len(SECOND)]],
        "qas": [
            {"id": key, "question": f"Who {key}?", "answers": [{"answer_start": start}]}
            for key, start in question_ids.items()
        ],
    }


def write(file: Path, *paragraphs: dict) -> Path:
    file.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}), encoding="utf-8")
    return file


def test_answer_start_decides_the_sentence(tmp_path):
    last, first = len(FIRST) - 1, len(FIRST) + 1
    file = write(tmp_path / "en.json", paragraph({"a": 0, "b": last, "c": first}))
    content = read_language(file, "en", "sentence")
    assert content.passages == [FIRST, SECOND]
    assert content.answers == [0, 0, 1]
    assert read_language(file, "en", "sentence_with_paragraph").passages[1] == (
        f"{SECOND} {FIRST} {SECOND}"
    )


def test_languages_are_joined_by_question_id(tmp_path):
    english = write(tmp_path / "en.json", paragraph({"a": 0}), paragraph({"b": 20, "only": 0}))
    thai = write(tmp_path / "th.json", paragraph({"b": 1, "a": 15}))
    joined = join_languages(
        "two",
        {
            "en": read_language(english, "en", "sentence"),
            "th": read_language(thai, "th", "sentence"),
        },
    )
    assert joined.query_ids == ["en-a", "en-b", "en-only", "th-b", "th-a"]
    assert joined.query_language.tolist() == [0, 0, 0, 1, 1]
    assert joined.passage_language.tolist() == [0, 0, 0, 0, 1, 1]
    assert joined.relevant.tolist() == [[0, 5], [3, 4], [2, -1], [3, 4], [0, 5]]


@real_files
def test_published_counts_and_parallel_answers():
    task = read_xquad_r(FOLDER)
    assert (len(task.queries), len(task.passages)) == (13_090, 13_014)
    assert dict(zip(task.languages, np.bincount(task.passage_language).tolist())) == CANDIDATES
    assert np.bincount(task.query_language).tolist() == [QUESTIONS] * 11
    # eleven right answers a question, one in each language
    languages = np.sort(task.passage_language[task.relevant], axis=1)
    np.testing.assert_array_equal(languages, np.tile(np.arange(11), (13_090, 1)))


@real_files
def test_right_answers_hold_the_answer_where_the_file_has_its_text():
    task = read_xquad_r(FOLDER)
    articles = json.loads((FOLDER / "el.json").read_text(encoding="utf-8"))["data"]
    text = {
        f"el-{question['id']}": question["answers"][0]["text"]
        for article in articles
        for part in article["paragraphs"]
        for question in part["qas"]
    }
    greek = task.languages.index("el")
    whole = 0
    for query in np.flatnonzero(task.query_language == greek):
        answer = task.relevant[query][greek]
        assert task.passage_ids[answer].startswith("el-")
        whole += text[task.query_ids[query]] in task.passages[answer]
    assert whole > 0.98 * QUESTIONS  # an answer may run over the end of its sentence


def test_a_folder_that_is_not_xquad_r_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"lacks ar\.json, de\.json.* zh\.json"):
        read_xquad_r(tmp_path)
    for language in CANDIDATES:
        write(tmp_path / f"{language}.json", paragraph({"a": 0}))
    with pytest.raises(UserError, match=r"ar\.json: 1 questions and 2 candidates.* 1190 and 1222"):
        read_xquad_r(tmp_path)
    with pytest.raises(UserError, match="passage = 'paragraph': must be one of sentence"):
        read_xquad_r(tmp_path, "paragraph")


def test_broken_files_are_named(tmp_path):
    file = tmp_path / "en.json"
    plain_xquad = paragraph({"a": 0})
    del plain_xquad["sentence_breaks"]
    write(file, paragraph({"z": 0}), plain_xquad)
    with pytest.raises(UserError, match=r"en\.json, paragraph 1: 'sentence_breaks' is missing"):
        read_language(file, "en", "sentence")
    write(file, paragraph({"a": len(FIRST)}))
    with pytest.raises(UserError, match="the answer of a starts in no sentence"):
        read_language(file, "en", "sentence")
    file.write_text('{"data": [\n{"paragraphs": [', encoding="utf-8")
    with pytest.raises(UserError, match=r"en\.json, line 2: invalid JSON"):
        read_language(file, "en", "sentence")
    file.write_text("[]", encoding="utf-8")
    with pytest.raises(UserError, match="not SQuAD's format"):
        read_language(file, "en", "sentence")
    file.write_bytes(b'{"data": "\xff"}')
    with pytest.raises(UserError, match="byte 10 is not UTF-8"):
        read_language(file, "en", "sentence")
