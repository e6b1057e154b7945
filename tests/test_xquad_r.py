"""Reading XQuAD-R and MLQA-R: the real files where they are, made-up and broken ones."""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxir.benchmarks.xquad_r import (
    MLQA_R,
    XQUAD_R,
    join_languages,
    read_language,
    read_mlqa_r,
    read_xquad_r,
)
from jaxir.errors import UserError

FOLDER = Path(__file__).parents[1].parent / "shared/data/xquad-r"
real_files = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"XQuAD-R is not at {FOLDER}")

FIRST, SECOND = "Ada wrote it.", "Babbage 🙂 did not."


@pytest.fixture(scope="module")
def xquad_r():
    return read_xquad_r(FOLDER)


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


def error(read, *arguments) -> str:
    with pytest.raises(UserError) as raised:
        read(*arguments)
    assert "\n" not in str(raised.value)
    return str(raised.value)


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
    assert joined.question.tolist() == [0, 1, 2, 1, 0]


@real_files
def test_published_counts_and_parallel_answers(xquad_r):
    assert xquad_r.name == "XQuAD-R"
    assert (len(xquad_r.queries), len(xquad_r.passages)) == (13_090, 13_014)
    assert xquad_r.languages == tuple(XQUAD_R)
    questions, candidates = np.transpose(list(XQUAD_R.values()))
    np.testing.assert_array_equal(np.bincount(xquad_r.query_language), questions)
    np.testing.assert_array_equal(np.bincount(xquad_r.passage_language), candidates)
    # eleven right answers a question, one in each language
    languages = np.sort(xquad_r.passage_language[xquad_r.relevant], axis=1)
    np.testing.assert_array_equal(languages, np.tile(np.arange(11), (13_090, 1)))


@real_files
def test_a_question_is_the_eleven_queries_of_one_id(xquad_r):
    ids: dict[int, set[str]] = {}
    for query_id, question in zip(xquad_r.query_ids, xquad_r.question.tolist()):
        ids.setdefault(question, set()).add(query_id)
    assert len(ids) == 1190
    for group in ids.values():
        (name,) = {query_id.split("-", 1)[1] for query_id in group}
        assert group == {f"{language}-{name}" for language in XQUAD_R}


@real_files
def test_right_answers_hold_the_answer_where_the_file_has_its_text(xquad_r):
    articles = json.loads((FOLDER / "el.json").read_text(encoding="utf-8"))["data"]
    text = {
        f"el-{question['id']}": question["answers"][0]["text"]
        for article in articles
        for part in article["paragraphs"]
        for question in part["qas"]
    }
    greek = xquad_r.languages.index("el")
    whole = 0
    for query in np.flatnonzero(xquad_r.query_language == greek):
        answer = xquad_r.relevant[query][greek]
        assert xquad_r.passage_ids[answer].startswith("el-")
        whole += text[xquad_r.query_ids[query]] in xquad_r.passages[answer]
    assert whole > 0.98 * len(text)  # an answer may run over the end of its sentence


@pytest.fixture
def mlqa_r(tmp_path):
    """A part of MLQA-R as it might be: no language has every question, and most have no file."""
    write(tmp_path / "en.json", paragraph({"four": 0, "two": 1}), paragraph({"three": 20}))
    write(tmp_path / "de.json", paragraph({"four": 20}), paragraph({"three": 2}))
    write(tmp_path / "hi.json", paragraph({"three": 3, "four": 21}))
    write(tmp_path / "zh.json", paragraph({"two": 22, "four": 4}))
    return tmp_path


def test_mlqa_r_has_two_to_four_answers_a_question(mlqa_r):
    task = read_mlqa_r(mlqa_r, "sentence", whole=False)
    assert task.name == "MLQA-R (partial)"
    assert task.languages == ("de", "en", "hi", "zh")
    sentences = {  # of each question, in the order of languages
        "four": ["de-000-01", "en-000-00", "hi-000-01", "zh-000-00"],
        "two": ["en-000-00", "zh-000-01"],
        "three": ["de-001-00", "en-001-01", "hi-000-00"],
    }
    assert sorted(task.query_ids) == sorted(
        f"{sentence[:2]}-{question}" for question in sentences for sentence in sentences[question]
    )
    numbers: dict[str, set[int]] = {}
    for row, query_id in enumerate(task.query_ids):
        name = query_id.split("-")[1]
        right = [task.passage_ids[place] for place in task.relevant[row] if place >= 0]
        assert right == sentences[name]
        assert task.gains[row].tolist() == [1] * len(right) + [0] * (4 - len(right))
        assert task.queries[row] == f"Who {name}?"
        numbers.setdefault(name, set()).add(int(task.question[row]))
    assert sorted(map(sorted, numbers.values())) == [[0], [1], [2]]


def test_mlqa_r_in_part_is_refused_unless_asked_for(mlqa_r):
    message = error(read_mlqa_r, mlqa_r)
    assert "not an MLQA-R folder, it lacks ar.json, es.json, vi.json (--allow_partial" in message
    for language in set(MLQA_R) - {"de", "en", "hi", "zh"}:
        write(mlqa_r / f"{language}.json", paragraph({"a": 0}))
    message = error(read_mlqa_r, mlqa_r)
    assert "ar.json: 1 questions and 2 candidates, but MLQA-R has 517 and 2545" in message
    assert "--allow_partial" in message
    assert len(read_mlqa_r(mlqa_r, whole=False).languages) == 7


def test_a_folder_that_is_not_xquad_r_is_refused(tmp_path):
    every = ", ".join(f"{language}.json" for language in XQUAD_R)
    for whole in (True, False):
        message = error(read_xquad_r, tmp_path, "sentence", whole)
        assert message == f"{tmp_path}: not an XQuAD-R folder, it lacks {every}"
    for language in XQUAD_R:
        write(tmp_path / f"{language}.json", paragraph({"a": 0}))
    message = error(read_xquad_r, tmp_path)
    assert "ar.json: 1 questions and 2 candidates, but XQuAD-R has 1190 and 1222" in message
    assert "passage = 'paragraph': must be one of sentence, sentence_with_paragraph" in error(
        read_xquad_r, tmp_path, "paragraph"
    )


def test_a_part_without_questions_is_refused(tmp_path):
    write(tmp_path / "en.json", paragraph({}))
    message = error(read_xquad_r, tmp_path, "sentence", False)
    assert message == "dataset 'XQuAD-R (partial)': there are no queries"


def without(*keys: str) -> dict:
    whole = paragraph({"a": 0})
    return {key: value for key, value in whole.items() if key not in keys}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        # plain XQuAD
        ([paragraph({"z": 0}), without("sentence_breaks")], "1: 'sentence_breaks' is missing; LA"),
        ([without("context")], "paragraph 0: 'context' is missing; LAReQA's repository"),
        ([paragraph({"a": len(FIRST)})], "paragraph 0: the answer of a starts in no sentence"),
        (
            [paragraph({}) | {"qas": [{"id": "a", "question": "Who?", "answers": []}]}],
            "paragraph 0: a field is malformed (list index out of range)",
        ),
        ('{"data": [\n{"paragraphs": [', "en.json, line 2: invalid JSON"),
        ("[]", "en.json: not SQuAD's format"),
        (b'{"data": "\xff"}', "en.json: byte 10 is not UTF-8"),
    ],
)
def test_broken_files_are_named(tmp_path, content, message):
    file = tmp_path / "en.json"
    if isinstance(content, list):
        write(file, *content)
    else:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    said = error(read_language, file, "en", "sentence")
    assert said.startswith(str(file))
    assert message in said
