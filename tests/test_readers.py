"""Readers: what a row becomes, and which line of which file is at fault when it cannot."""

import errno
import json
from collections import Counter
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from jaxir.config import Fields, Source
from jaxir.data.checks import MAX_TEXT
from jaxir.data.readers import read_rows
from jaxir.errors import UserError

PARAGRAPH = " First things. 😀 The sky is blue. Last things."  # the leading space shifts offsets


def squad(question="What is blue?", paragraph=PARAGRAPH, answers=None, row_id="a", **more):
    if answers is None:
        answers = [{"text": "sky", "answer_start": PARAGRAPH.index("sky")}]
    question = {"question": question, "id": row_id, "answers": answers, **more}
    return {"data": [{"paragraphs": [{"context": paragraph, "qas": [question]}]}]}


def write(path: Path, content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(line) + "\n" for line in content))
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content, indent=1))
    return path


def rows(source: Source, directory: Path, unit="paragraph", counts=None):
    return list(read_rows(source, directory, unit, Counter() if counts is None else counts))


def error(source: Source, directory: Path, unit="paragraph") -> str:
    with pytest.raises(UserError) as raised:
        rows(source, directory, unit)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    ("unit", "passage"),
    [
        ("paragraph", PARAGRAPH.strip()),
        ("sentence", "😀 The sky is blue."),
        ("sentence_with_paragraph", "😀 The sky is blue. " + PARAGRAPH.strip()),
    ],
)
def test_squad(tmp_path, unit, passage):
    write(tmp_path / "x.json", squad(row_id=7))
    source = Source("squad", "x.json", ("de", "en"))
    (row,) = rows(source, tmp_path, unit)
    assert (row.query, row.passage, row.id) == ("What is blue?", passage, "7")
    assert (row.query_language, row.passage_language) == ("de", "en")


@pytest.mark.parametrize("answers", [[], [{"text": "", "answer_start": 0}]])
def test_squad_without_answer_takes_the_paragraph(tmp_path, answers):
    write(tmp_path / "x.json", squad(answers=answers))
    for unit, count in [("paragraph", 0), ("sentence", 1), ("sentence_with_paragraph", 1)]:
        counts = Counter()
        (row,) = rows(Source("squad", "x.json", ("en",)), tmp_path, unit, counts)
        assert row.passage == PARAGRAPH.strip()
        assert counts["without_answer"] == count


def test_squad_folder_glob_and_numbered_ids(tmp_path):
    for name in ("b/x.json", "a/x.json"):
        write(tmp_path / name, squad())
    write(tmp_path / "a/readme.txt", "not data")
    assert len(rows(Source("squad", "a", ("en",)), tmp_path)) == 1
    numbered = rows(Source("squad", "*/x.json", ("en",), fields=Fields(id="")), tmp_path)
    assert [row.id for row in numbered] == ["a/x.json:1", "b/x.json:1"]
    assert [Path(row.where.split(":")[0]).parent.name for row in numbered] == ["a", "b"]
    skipped = rows(Source("squad", "*/x.json", ("en",), skip=1), tmp_path)
    assert "b/x.json" in skipped[0].where


def test_squad_unanswerable_question_is_left_out(tmp_path):
    counts = Counter()
    write(tmp_path / "x.json", squad(is_impossible=True, answers=[]))
    assert rows(Source("squad", "x.json", ("en",)), tmp_path, counts=counts) == []
    assert counts == {"unanswerable": 1}


@pytest.mark.parametrize("unit", ["paragraph", "sentence"])
def test_answers_are_repaired_or_dropped_on_request(tmp_path, unit):
    source = Source("squad", "x.json", ("en",))
    repairing = Source("squad", "x.json", ("en",), repair_answers=True)
    for text, start, count in [("things", 2, "repaired"), ("nowhere", 2, "dropped")]:
        write(tmp_path / "x.json", squad(answers=[{"text": text, "answer_start": start}]))
        message = error(source, tmp_path, unit)
        assert "x.json" in message
        assert "id a" in message
        assert "repair_answers=True" in message
        counts = Counter()
        passages = [row.passage for row in rows(repairing, tmp_path, unit, counts)]
        assert counts == {count: 1}
        first = {"paragraph": PARAGRAPH.strip(), "sentence": "First things."}[unit]
        assert passages == ([first] if count == "repaired" else [])


def test_any_answer_that_stands_where_it_says_will_do(tmp_path):
    off = {"text": "First", "answer_start": 9}
    right = {"text": "Last", "answer_start": PARAGRAPH.index("Last")}
    write(tmp_path / "x.json", squad(answers=[off, right]))
    (row,) = rows(Source("squad", "x.json", ("en",)), tmp_path, "sentence")
    assert row.passage == "Last things."


RECORDS = [
    {"id": "1", "query": "q", "passage": "p", "query_lang": "en", "passage_lang": "de"},
    {"id": 2, "query": "r", "passage": "s", "hard_negatives": ["t", "u"]},
]


@pytest.mark.parametrize("reader", ["jsonl", "parquet"])
def test_records(tmp_path, reader):
    write(tmp_path / "x.jsonl", RECORDS)
    table = pyarrow.Table.from_pylist(
        [{**RECORDS[0], "hard_negatives": None, "n": 1}, {**RECORDS[1], "id": "2"}]
    )
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet", row_group_size=1)
    first, second = rows(Source(reader, f"x.{reader}", ("fr", "it")), tmp_path, "sentence")
    assert (first.query, first.passage, first.id) == ("q", "p", "1")
    assert (first.query_language, first.passage_language) == ("en", "de")  # the row's own
    assert (second.query_language, second.passage_language) == ("fr", "it")
    assert (second.id, second.hard_negatives) == ("2", ("t", "u"))


def test_jsonl_answers_as_an_object_of_lists(tmp_path):
    answers = {"text": ["sky"], "answer_start": [PARAGRAPH.index("sky")], "answer_end": [9]}
    write(tmp_path / "x.jsonl", [{"q": "?", "context": PARAGRAPH, "answers": answers, "n": 1}])
    fields = Fields(id="n", query="q", passage="context", answers="answers")
    (row,) = rows(Source("jsonl", "x.jsonl", ("en",), fields=fields), tmp_path, "sentence")
    assert row.passage == "😀 The sky is blue."


def test_parallel_questions(tmp_path):
    for code, text in [("zh_cn", "你好"), ("en", "hello")]:
        write(tmp_path / f"m-{code}.jsonl", [{"id": f"4_{code}", "lang": code, "question": text}])
    source = Source(
        "jsonl",
        "m-{language}.jsonl",
        ("en", "zh_cn"),
        fields=Fields(text="question", query_language="lang"),
        language_codes={"zh_cn": "zh"},
        id_suffix="_{language}",
    )
    english, chinese = rows(source, tmp_path)
    assert english.id == chinese.id == "4"
    assert chinese.query == chinese.passage == "你好"
    assert chinese.query_language == chinese.passage_language == "zh"


def test_parallel_text(tmp_path):
    write(tmp_path / "t.en", "one\ntwo\n")
    write(tmp_path / "t.de", "\ufeffeins\r\nzwei")
    write(tmp_path / "t.tsv", "eins\tone\nzwei\ttwo\n")
    files = rows(Source("parallel_text", "t.{language}", ("de", "en")), tmp_path)
    assert [(row.id, row.query) for row in files] == [
        ("1", "eins"),
        ("1", "one"),
        ("2", "zwei"),
        ("2", "two"),
    ]
    columns = rows(Source("parallel_tsv", "t.tsv", ("de", "en")), tmp_path)
    assert [(row.id, row.passage, row.passage_language) for row in columns] == [
        (row.id, row.passage, row.passage_language) for row in files
    ]


def test_line_aligned_queries_and_passages(tmp_path):
    write(tmp_path / "d/q.txt", "q1\nq2\n")
    write(tmp_path / "d/p.txt", "p1\np2\n")
    source = Source("line_aligned", "d", ("en",), fields=Fields(query="q.txt", passage="p.txt"))
    assert [(row.query, row.passage) for row in rows(source, tmp_path)] == [
        ("q1", "p1"),
        ("q2", "p2"),
    ]
    write(tmp_path / "d/p.txt", "p1\n")
    assert "p.txt ends at line 1" in error(source, tmp_path)


LINES = {
    "not an object": (b"[1]\n", ":1: a list"),
    "invalid JSON": (b'{"id": 1}\n{"id" 2}\n', None),
    "no text": (b'{"id": 1, "passage": "p"}\n', ":1: no query"),
    "blank text": (b'{"id": 1, "query": " ", "passage": "p"}\n', ":1: no query"),
    "text of another type": (b'{"id": 1, "query": 3, "passage": "p"}\n', ":1: the query is a int"),
    "no id": (b'{"query": "q", "passage": "p"}\n', ":1: no id"),
    "half a surrogate": (b'{"id": 1, "query": "\\ud83d", "passage": "p"}\n', ":1: query holds"),
    "negatives": (
        b'{"id": 1, "query": "q", "passage": "p", "hard_negatives": "n"}\n',
        ":1: hard_negatives must be a list",
    ),
    "unknown language": (
        b'{"id": 1, "query": "q", "passage": "p", "query_lang": "qq"}\n',
        ":1: unknown language 'qq'",
    ),
    "deep nesting": (b"[" * 100_000 + b"\n", ":1: "),
    "long text": (
        b'{"id": 1, "query": "q", "passage": "' + b"p" * (MAX_TEXT + 1) + b'"}\n',
        ":1: passage of 1,000,001",
    ),
    "long line": (b"\n" + b"x" * (2**24 + 1), ":2: line of over"),
}


@pytest.mark.parametrize("name", LINES)
def test_bad_json_line(tmp_path, name):
    content, expected = LINES[name]
    write(tmp_path / "x.jsonl", content)
    source = Source("jsonl", "x.jsonl", ("en",))
    if name == "invalid JSON":
        write(tmp_path / "x.jsonl", [RECORDS[0], RECORDS[1]])
        with (tmp_path / "x.jsonl").open("ab") as lines:
            lines.write(content.splitlines()[1])
        expected = ":3: invalid JSON"
    assert str(tmp_path / "x.jsonl") + expected in error(source, tmp_path)


def test_bad_utf8_names_file_and_line(tmp_path):
    write(tmp_path / "x.jsonl", json.dumps(RECORDS[1]).encode() + b"\n\xff\xfe\n")
    write(tmp_path / "x.json", b'{"data":\n"\xff"}')
    assert "x.jsonl:2: not UTF-8" in error(Source("jsonl", "x.jsonl", ("en",)), tmp_path)
    assert "x.json:2: not UTF-8" in error(Source("squad", "x.json", ("en",)), tmp_path)


def test_row_without_language(tmp_path):
    write(tmp_path / "x.jsonl", RECORDS)
    assert "x.jsonl:2: no language" in error(Source("jsonl", "x.jsonl"), tmp_path)


def test_empty_rows_are_left_out_on_request(tmp_path):
    write(tmp_path / "x.jsonl", [{"id": 1, "query": "", "passage": "p"}, RECORDS[1]])
    counts = Counter()
    source = Source("jsonl", "x.jsonl", ("en",), drop_empty=True)
    assert [row.id for row in rows(source, tmp_path, counts=counts)] == ["2"]
    assert counts == {"empty": 1}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("[", "x.json: invalid JSON"),
        ('{\n"data": nil}', "x.json:2: invalid JSON"),
        ("[]", "not in SQuAD format"),
        ('{"data": [{"paragraphs": [{"qas": [{}]}]}]}', "article 1 is not in SQuAD format"),
        ('{"data": [3]}', "article 1 is not in SQuAD format"),
        (json.dumps(squad(answers=[{"text": "x"}])), "question 1, id a: an answer needs"),
        (json.dumps(squad(answers="sky")), "question 1, id a: an answer needs"),
        (json.dumps(squad(row_id=None)), "question 1, id None: no id"),
        (json.dumps(squad(paragraph=None)), "question 1, id a: no passage"),
    ],
)
def test_bad_squad(tmp_path, document, expected):
    write(tmp_path / "x.json", document)
    assert expected in error(Source("squad", "x.json", ("en",)), tmp_path)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (Source("squad", "none.json", ("en",)), "none.json: no such file"),
        (Source("squad", "no*.json", ("en",)), "no*.json: no such file"),
        (Source("squad", "folder", ("en",)), "folder: no *.json file"),
        (Source("jsonl", "empty.jsonl", ("en",)), "empty.jsonl: empty file"),
        (Source("parquet", "t.de", ("en",)), "t.de: not readable as Parquet"),
        (Source("parallel_text", "t.{language}", ("de", "en")), "t.de ends at line 1"),
        (Source("parallel_text", "t.{language}", ("de",)), "2 languages"),
        (Source("parallel_tsv", "t.de", ("de", "en")), "t.de:1: 1 columns for the 2 languages"),
        (Source("squad", "t.de", ("a", "b", "c")), "3 languages"),
        (Source("squad", "{language}.json"), "set `languages`"),
        (Source("jason", "t.de"), "reader = 'jason': must be one of squad"),
    ],
)
def test_bad_source(tmp_path, source, expected):
    write(tmp_path / "empty.jsonl", b"")
    write(tmp_path / "t.de", "eins\n")
    write(tmp_path / "t.en", "one\ntwo\n")
    (tmp_path / "folder").mkdir()
    assert expected in error(source, tmp_path)


@pytest.mark.slow  # TensorFlow's import
@pytest.mark.filterwarnings("ignore")
def test_tfds(tmp_path):
    datasets = pytest.importorskip("tensorflow_datasets")
    tensorflow = pytest.importorskip("tensorflow")
    answers = {"text": tensorflow.string, "answer_start": tensorflow.int32}

    class TinySquad(datasets.core.GeneratorBasedBuilder):
        VERSION = datasets.core.Version("1.0.0")

        def _info(self):
            texts = {name: datasets.features.Text() for name in ("id", "question", "context")}
            features = {**texts, "answers": datasets.features.Sequence(answers)}
            return self.dataset_info_from_configs(features=datasets.features.FeaturesDict(features))

        def _split_generators(self, manager):
            return {"translate-train": self._generate_examples()}

        def _generate_examples(self):
            for number in range(3):
                start = PARAGRAPH.index("sky")
                yield (
                    number,
                    {
                        "id": f"id{number}",
                        "question": f"question {number}?",
                        "context": PARAGRAPH,
                        "answers": [{"text": "sky", "answer_start": start}],
                    },
                )

    TinySquad.pkg_dir_path = tmp_path  # metadata is looked for beside the module
    TinySquad(data_dir=tmp_path).download_and_prepare()
    source = Source("tfds", "tiny_squad", ("ar",), split="translate-train")
    found = rows(source, tmp_path, "sentence")
    assert sorted(row.id for row in found) == ["id0", "id1", "id2"]
    assert {row.passage for row in found} == {"😀 The sky is blue."}
    assert {row.query_language for row in found} == {"ar"}
    source.split = "nowhere"
    assert "TFDS tiny_squad, split nowhere" in error(source, tmp_path)
    assert "Unknown split 'nowhere'" in error(source, tmp_path)
    assert "TFDS tiny_skuad" in error(Source("tfds", "tiny_skuad", ("ar",)), tmp_path)


@pytest.mark.slow  # TensorFlow's import
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full ([Errno 28] No space"),
        (
            OSError("Not enough disk space. Needed: 2 GiB"),
            "the disk is full (Not enough disk space",
        ),
        (PermissionError(errno.EACCES, "Permission denied"), "its folder cannot be written"),
        (ModuleNotFoundError("no", name="pycocotools"), "needs the package pycocotools; run: pip"),
        (
            ImportError("No module named 'cv2'\nFailed importing cv2."),
            "needs the package No module",
        ),
        (ValueError("odd\nmore"), "TFDS squad, split train: odd (ValueError); mend path and split"),
    ],
)
def test_what_stops_tfds_is_named(monkeypatch, tmp_path, raised, said):
    datasets = pytest.importorskip("tensorflow_datasets")

    def builder(*_, **__):
        raise raised

    monkeypatch.setattr(datasets, "builder", builder)
    message = error(Source("tfds", "squad", ("en",)), tmp_path)
    assert said in message
    assert "\n" not in message
