"""Collections of one's own in BEIR's layout: what is asked, what is right, and what is refused."""

import gzip
import json
import re
from pathlib import Path

import huggingface_hub
import pytest

from jaxir.benchmarks.beir import read_beir
from jaxir.errors import UserError
from jaxir.evaluation.dataset import SETTINGS, RetrievalDataset

CORPUS = [
    {"_id": "p1", "title": "Rhine", "text": "A river."},
    {"_id": "p2", "title": "", "text": "A 🙂 mountain."},
    {"_id": "q1", "text": "Called as a query is."},
    {"_id": "p4", "title": None, "text": ""},
]
QUERIES = [
    {"_id": "q1", "text": "Which river?"},
    {"_id": "q2", "text": "Which mountain?"},
    {"_id": "q3", "text": "Judged elsewhere?"},
]
QRELS = [("q1", "p1", 2), ("q1", "q1", 1), ("q1", "p2", 0), ("q2", "p2", 1), ("q2", "p4", -1)]
HEADER = "query-id\tcorpus-id\tscore\n"


def lines(rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def judgements(rows, header: str = HEADER) -> bytes:
    return (header + "".join("\t".join(map(str, row)) + "\n" for row in rows)).encode()


def write(folder: Path, corpus=CORPUS, queries=QUERIES, qrels=QRELS, split: str = "test") -> Path:
    """A collection; what is bytes already is written as it is, and what is None not at all."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    for name, content, encoded in [
        ("corpus.jsonl", corpus, lines),
        ("queries.jsonl", queries, lines),
        (f"qrels/{split}.tsv", qrels, judgements),
    ]:
        if content is not None:
            data = content if isinstance(content, bytes) else encoded(content)
            (folder / name).write_bytes(data)
    return folder


def right(task: RetrievalDataset) -> dict[str, dict[str, int]]:
    """Gain of each right answer of each query, by their ids."""
    return {
        query: {
            task.passage_ids[place]: gain
            for place, gain in zip(task.relevant[row].tolist(), task.gains[row].tolist())
            if place >= 0
        }
        for row, query in enumerate(task.query_ids)
    }


def error(folder: Path, **options) -> str:
    with pytest.raises(UserError) as raised:
        read_beir(str(folder), **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_titles_gains_and_the_queries_that_are_judged(tmp_path):
    task = read_beir(str(write(tmp_path / "mine")))
    assert task.name == "mine"
    assert task.passage_ids == ["p1", "p2", "q1", "p4"]
    assert task.passages == ["Rhine A river.", "A 🙂 mountain.", "Called as a query is.", ""]
    assert task.queries == ["Which river?", "Which mountain?"]
    # a passage may be called as a query is, and what is judged 0 or less is no answer
    assert right(task) == {"q1": {"p1": 2, "q1": 1}, "q2": {"p2": 1}}


def test_a_query_without_a_right_answer_stays(tmp_path):
    task = read_beir(str(write(tmp_path, qrels=[("q3", "p1", 0), ("q1", "p1", 3)])))
    assert right(task) == {"q1": {"p1": 3}, "q3": {}}


@pytest.mark.parametrize(
    "qrels",
    [
        judgements(QRELS),
        judgements(QRELS, header=""),
        judgements(((query, 0, passage, gain) for query, passage, gain in QRELS), header=""),
        judgements(QRELS).replace(b"\t", b" ").replace(b"\n", b"\r\n"),
    ],
    ids=["header", "no header", "TREC's columns", "Windows"],
)
def test_columns_of_judgements(tmp_path, qrels):
    assert right(read_beir(str(write(tmp_path, qrels=qrels)))) == {
        "q1": {"p1": 2, "q1": 1},
        "q2": {"p2": 1},
    }


def test_splits_are_told_apart(tmp_path):
    write(tmp_path, split="dev", qrels=[("q3", "p2", 1)])
    write(tmp_path, split="test")
    assert right(read_beir(str(tmp_path), split="dev")) == {"q3": {"p2": 1}}
    assert list(right(read_beir(str(tmp_path)))) == ["q1", "q2"]


def test_gzipped_files_and_blank_lines_read_the_same(tmp_path):
    plain = read_beir(str(write(tmp_path / "c")))
    spaced = lines(CORPUS).replace(b"\n", b"\r\n\r\n") + b"\n"
    folder = write(tmp_path / "z/c", corpus=None, queries=None)
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + spaced))
    (folder / "queries.jsonl.gz").write_bytes(gzip.compress(lines(QUERIES)))
    zipped = read_beir(str(folder))
    for name in ("name", "queries", "query_ids", "passages", "passage_ids", "languages"):
        assert getattr(zipped, name) == getattr(plain, name)
    assert right(zipped) == right(plain)


def spoken(rows, *languages: str):
    return [{**row, "language": code} for row, code in zip(rows, languages)]


def test_several_languages_are_asked_in_every_setting(tmp_path):
    corpus, queries = spoken(CORPUS, "th", "de", "th", ""), spoken(QUERIES, "de", "en", "fr")
    task = read_beir(str(write(tmp_path, corpus, queries)), language="el")
    assert task.languages == ("de", "el", "en", "th")  # nobody is asked in French
    assert [task.languages[number] for number in task.passage_language] == ["th", "de", "th", "el"]
    assert [task.languages[number] for number in task.query_language] == ["de", "en"]
    assert task.settings == SETTINGS


@pytest.mark.parametrize(("language", "code"), [("", "und"), ("sw", "sw")])
def test_one_language_is_asked_alone(tmp_path, language, code):
    task = read_beir(str(write(tmp_path)), language=language)
    assert task.languages == (code,)
    assert task.settings == ("monolingual",)


def test_queries_of_one_question(tmp_path):
    # the last one has no question, though its id is that of another's question
    names = ["first", 7, "first", "7", None, "", "first", 0, 0]
    queries = [
        {"_id": f"q{number}", "text": "?", "question": name} for number, name in enumerate(names)
    ]
    queries.append({"_id": "first", "text": "?"})
    qrels = [(query["_id"], "p1", 1) for query in queries]
    task = read_beir(str(write(tmp_path, queries=queries, qrels=qrels)))
    groups: dict[int, list[str]] = {}
    for query_id, question in zip(task.query_ids, task.question.tolist()):
        groups.setdefault(question, []).append(query_id)
    assert list(groups.values()) == [
        ["q0", "q2", "q6"],
        ["q1", "q3"],
        ["q4"],
        ["q5"],
        ["q7", "q8"],
        ["first"],
    ]


def test_names(tmp_path, monkeypatch):
    folder = write(tmp_path / "mine")
    monkeypatch.chdir(folder)
    assert read_beir(".").name == "mine"
    assert read_beir("../mine/").name == "mine"
    # the hub's folders are called by their commits
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(folder))
    assert read_beir("owner/name").name == "name"


def test_files_that_are_missing(tmp_path):
    write(tmp_path / "a", corpus=None)
    assert error(tmp_path / "a") == f"{tmp_path}/a: corpus.jsonl is missing; a collection needs it"
    write(tmp_path / "b", queries=None)
    assert error(tmp_path / "b") == f"{tmp_path}/b: queries.jsonl is missing; a collection needs it"
    write(tmp_path / "c", qrels=None)
    assert error(tmp_path / "c").endswith("test.tsv: no such file; --split takes one of: none")
    for split in ("test", "dev", "b", "a", "z"):
        write(tmp_path / "c", split=split)
    said = error(tmp_path / "c", split="train")
    assert (
        said
        == f"{tmp_path}/c/qrels/train.tsv: no such file; --split takes one of: a, b, dev, test, z"
    )
    assert "not a folder" in error(tmp_path / "d")


ONE = b'{"_id": "p1", "text": "A river."}\n'


@pytest.mark.parametrize("stem", ["corpus", "queries"])
@pytest.mark.parametrize(
    ("row", "message"),
    [
        (b'{"_id": "x", "text": "cut o', "invalid JSON ("),
        (b'["x", "text"]', "a list; each line must be an object"),
        (b'{"text": "?"}', "field '_id' is missing or not a text"),
        (b'{"_id": 5, "text": "?"}', "field '_id' is missing or not a text"),
        (b'{"_id": "x"}', "field 'text' is missing or not a text"),
        (b'{"_id": "x", "text": ["?"]}', "field 'text' is missing or not a text"),
        (b'{"_id": "x", "text": "\xff"}', "not UTF-8"),
        (b'{"_id": "x", "text": "\\ud83d"}', "field 'text' holds half a surrogate pair"),
        (b'{"_id": "x", "text": "?", "language": "de/AT"}', "language 'de/AT': must be a code"),
    ],
)
def test_rows_that_are_wrong_are_named(tmp_path, stem, row, message):
    write(tmp_path, **{stem: ONE + b"\n" + row + b"\n"})
    assert error(tmp_path).startswith(f"{tmp_path}/{stem}.jsonl:3: {message}")


def test_a_title_that_is_no_text(tmp_path):
    write(tmp_path, corpus=[*CORPUS, {"_id": "x", "title": ["Rhine"], "text": "A river."}])
    assert error(tmp_path) == f"{tmp_path}/corpus.jsonl:5: field 'title' is missing or not a text"


def test_ids_that_stand_twice(tmp_path):
    write(tmp_path / "a", corpus=[*CORPUS, CORPUS[1]])
    assert error(tmp_path / "a") == "dataset 'a': duplicate id 'p2' among the passages"
    write(tmp_path / "b", queries=[*QUERIES, QUERIES[0]])
    assert error(tmp_path / "b") == "dataset 'b': duplicate id 'q1' among the queries"


@pytest.mark.parametrize(
    ("qrels", "message"),
    [
        ([("q1", "p9", 1)], "query q1 has passage 'p9' judged, which is not in the corpus"),
        ([("q3", "p1", 0), ("q3", "p2", -1)], "no judgement is above 0, so no passage is"),
        ([("q1", "p9", 0)], "query q1 has passage 'p9' judged, which is not in the corpus"),
        ([("q1", "p1", 1), ("q9", "p1", 1)], "judges query 'q9', which is not among the queries"),
        ([("q9", "p1", 0)], "judges query 'q9', which is not among the queries"),
        *(
            ([("q1", "p1", 1), ("q1", "p2", gain), ("q1", "p2", other)], "'p2' judged twice")
            for gain, other in [(1, 1), (1, 2), (1, 0), (0, 1), (0, 0)]
        ),
        ([], "holds no judgement"),
    ],
)
def test_judgements_that_do_not_fit_are_named(tmp_path, qrels, message):
    said = error(write(tmp_path, qrels=qrels))
    assert said.startswith(f"{tmp_path}/qrels/test.tsv: ")
    assert message in said


@pytest.mark.parametrize(
    "row", [("q1", "p2", "1.5"), ("q1", "p2", "yes"), ("q1", 1), (1,), ("q1", 0, 0, "p2", 1)]
)
def test_lines_that_are_no_judgements_are_named(tmp_path, row):
    said = error(write(tmp_path, qrels=[("q1", "p1", 1), row]))
    assert said.startswith(f"{tmp_path}/qrels/test.tsv:3: not a judgement; ")


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_empty_query_is_named_if_it_is_asked(tmp_path, text):
    write(tmp_path / "mine", queries=[QUERIES[0], {"_id": "q2", "text": text}])
    assert error(tmp_path / "mine") == "mine: query 'q2' is empty"
    task = read_beir(str(write(tmp_path / "mine", queries=None, qrels=[("q1", "p1", 1)])))
    assert task.query_ids == ["q1"]


def test_a_gzipped_file_that_is_cut_off_anywhere(tmp_path):
    write(tmp_path, corpus=None)
    file = tmp_path / "corpus.jsonl.gz"
    whole = gzip.compress(lines(CORPUS), mtime=0)
    for size in range(1, len(whole)):
        file.write_bytes(whole[:size])
        said = error(tmp_path)
        assert re.match(rf"{re.escape(str(file))}: cut off or damaged after line [0-4] \(", said)
        assert said.endswith("fetch it again")
    file.write_bytes(whole)
    assert len(read_beir(str(tmp_path)).passages) == len(CORPUS)


def test_lines_before_the_cut_are_counted(tmp_path):
    write(tmp_path, corpus=None)
    corpus = [{"_id": f"p{number}", "text": f"{number:064}"} for number in range(20_000)]
    zipped = gzip.compress(lines(corpus))
    (tmp_path / "corpus.jsonl.gz").write_bytes(zipped[: len(zipped) // 2])
    count = int(re.search(r"after line (\d+) ", error(tmp_path))[1])
    assert 5_000 < count < 15_000


def test_gz_files_that_are_damaged_or_no_gzip(tmp_path):
    write(tmp_path, corpus=None)
    whole = gzip.compress(lines(CORPUS))
    for content, reason in [
        (lines(CORPUS), "Not a gzipped file"),
        (whole[:-8] + b"\0\0\0\0" + whole[-4:], "CRC check failed"),
        (whole[:10] + b"\xff" + whole[11:], "invalid block type"),
    ]:
        (tmp_path / "corpus.jsonl.gz").write_bytes(content)
        said = error(tmp_path)
        assert said.startswith(f"{tmp_path}/corpus.jsonl.gz: cut off or damaged after line ")
        assert reason in said
