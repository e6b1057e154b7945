"""MIRACL's folders, a language at a time: a small one of the same structure, and broken ones."""

import gzip
import json
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest

from jaxir.benchmarks.miracl import MIRACL, read_miracl
from jaxir.errors import UserError

DOCS = [
    {"docid": "7#0", "title": "Ziwa", "text": "Ziwa kubwa."},
    {"docid": "7#1", "title": "Ziwa", "text": "Samaki 🐟 wengi."},
    {"docid": "12#0", "title": "Mlima", "text": "Mlima mrefu."},
]


def file(folder: Path, language: str, what: str) -> Path:
    corpus = f"miracl-corpus-v1.0-{language}"
    if what.startswith("docs"):
        return folder / corpus / what
    split = what.partition(" ")[2] or "dev"
    what = what.partition(" ")[0]
    return folder / f"miracl-v1.0-{language}/{what}/{what}.miracl-v1.0-{language}-{split}.tsv"


def zipped(docs) -> bytes:
    text = "".join(json.dumps(doc, ensure_ascii=False) + "\n" for doc in docs)
    return gzip.compress(text.encode(), mtime=0)  # the bytes are in test names: no time in them


def write(folder: Path, language: str) -> None:
    """Three passages in two shards, three questions of which two are judged."""
    for what, content in [
        ("docs-0.jsonl.gz", zipped(DOCS[:2])),
        ("docs-1.jsonl.gz", zipped(DOCS[2:])),
        ("topics", b"1\tZiwa gani?\n2\tMlima gani?\n3\tNani?\n"),
        ("qrels", b"1\tQ0\t7#0\t0\n1\tQ0\t7#1\t1\n2\tQ0\t12#0\t1\n2\tQ0\t7#1\t1\n"),
        ("topics train", b"3\tNani?\n"),
        ("qrels train", b"3\tQ0\t12#0\t1\n"),
    ]:
        path = file(folder, language, what)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, "sw")
    return tmp_path


def read(folder: Path, *languages: str, **options):
    return list(read_miracl(str(folder), languages, **{"whole": False, **options}))


def error(folder: Path, *languages: str, **options) -> str:
    with pytest.raises(UserError) as raised:
        read(folder, *(languages or ("sw",)), **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_language(folder):
    (task,) = read(folder, "sw")
    assert task.name == "MIRACL sw (partial)"
    assert task.languages == ("sw",)
    assert task.settings == ("monolingual",)
    assert task.passage_ids == ["7#0", "7#1", "12#0"]
    assert task.passages == ["Ziwa Ziwa kubwa.", "Ziwa Samaki 🐟 wengi.", "Mlima Mlima mrefu."]
    assert task.query_ids == ["1", "2"]
    assert task.queries == ["Ziwa gani?", "Mlima gani?"]
    assert list(map(set, task.relevant.tolist())) == [{1, -1}, {1, 2}]
    np.testing.assert_array_equal(task.gains, task.relevant >= 0)
    assert len(set(task.question.tolist())) == 2


def test_another_split(folder):
    (task,) = read(folder, "sw", split="train")
    assert task.name == "MIRACL sw train (partial)"
    assert (task.query_ids, task.relevant.tolist()) == (["3"], [[2]])


def test_the_whole_has_the_published_counts(folder, monkeypatch):
    monkeypatch.setitem(MIRACL, "sw", (2, 3))
    (task,) = read(folder, "sw", whole=True)
    assert task.name == "MIRACL sw"
    (task,) = read(folder, "sw", whole=True, split="train")  # of it only passages are counted
    assert task.name == "MIRACL sw train"


def test_plain_shards_and_more_than_ten_are_read_in_order(folder):
    corpus = file(folder, "sw", "docs-0.jsonl.gz").parent
    for number in range(12):
        shard = corpus / f"docs-{number}.jsonl"
        shard.with_name(f"{shard.name}.gz").unlink(missing_ok=True)
        docs = DOCS if number == 0 else [{"docid": f"{number}", "title": "", "text": "Ndiyo."}]
        shard.write_bytes(gzip.decompress(zipped(docs)))
    (corpus / "docs-0.jsonl.gz.part").touch()
    (corpus / "docs.json").touch()
    (task,) = read(folder, "sw")
    assert task.passage_ids[3:] == [str(number) for number in range(1, 12)]


def test_one_language_after_the_other(folder):
    write(folder, "yo")
    file(folder, "yo", "docs-1.jsonl.gz").write_bytes(b"no gzip")
    tasks = read_miracl(str(folder), ("sw", "yo"), whole=False)
    assert next(tasks).languages == ("sw",)
    with pytest.raises(UserError, match=r"corpus-v1\.0-yo/docs-1\.jsonl\.gz: cut off or damag"):
        next(tasks)


def test_no_languages_are_all_of_them(folder):
    for language in MIRACL:
        write(folder, language)
    assert [task.languages[0] for task in read(folder)] == list(MIRACL)
    assert len(MIRACL) == 18


def test_the_hub_is_asked_for_the_language_alone(folder, monkeypatch):
    asked = []

    def snapshot_download(name, repo_type, allow_patterns, ignore_patterns):
        asked.append((name, repo_type, *allow_patterns))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.chdir(folder)
    (task,) = read_miracl(languages=("sw",), whole=False)
    assert task.query_ids == ["1", "2"]
    assert asked == [
        ("miracl/miracl", "dataset", "miracl-v1.0-sw/*"),
        ("miracl/miracl-corpus", "dataset", "miracl-corpus-v1.0-sw/*"),
    ]


def test_an_unknown_language_is_refused_before_anything_is_read():
    with pytest.raises(UserError, match=r"MIRACL has no language 'sv'; it has ar, bn, .*, zh$"):
        read_miracl("nowhere", ("sw", "sv"))


def test_a_part_is_refused_with_the_counts(folder, monkeypatch):
    corpus = file(folder, "sw", "docs-0.jsonl.gz").parent
    assert error(folder, whole=True) == (
        f"{corpus}: 3 passages, but MIRACL has 131,924: it is incomplete; "
        "--allow_partial reads it anyway"
    )
    monkeypatch.setitem(MIRACL, "sw", (482, 3))
    assert error(folder, whole=True) == (
        f"{folder}/miracl-v1.0-sw: 2 judged questions, but MIRACL has 482: it is incomplete; "
        "--allow_partial reads it anyway"
    )
    # also if what is lacking is judged
    monkeypatch.setitem(MIRACL, "sw", (2, 3))
    file(folder, "sw", "docs-1.jsonl.gz").unlink()
    assert "2 passages, but MIRACL has 3" in error(folder, whole=True)


@pytest.mark.parametrize("what", ["topics", "qrels"])
def test_missing_topics_and_judgements_are_named(folder, what):
    path = file(folder, "sw", what)
    path.unlink()
    assert error(folder) == f"{path}: no such file; is 'dev' a split of MIRACL sw?"


def test_missing_folders_are_named(folder):
    said = error(folder, "te")
    assert said == f"{folder}/miracl-v1.0-te: no such folder; MIRACL has it in miracl/miracl"
    file(folder, "te", "topics").parent.mkdir(parents=True)
    assert error(folder, "te").endswith(
        "-te: no such folder; MIRACL has it in miracl/miracl-corpus"
    )


def test_shards_that_are_missing_or_there_twice_are_named(folder):
    first, second = (file(folder, "sw", f"docs-{number}.jsonl.gz") for number in (0, 1))
    second.rename(second.with_name("docs-2.jsonl.gz"))
    assert error(folder) == f"{first.parent}: docs-1 is missing"
    second.with_name("docs-2.jsonl.gz").rename(second)
    second.with_name("docs-1.jsonl").touch()  # unpacked beside it
    assert error(folder) == f"{first.parent}: remove one of docs-1.jsonl and docs-1.jsonl.gz"
    second.with_name("docs-1.jsonl").unlink()
    first.unlink()
    assert error(folder) == f"{first.parent}: docs-0 is missing"
    second.unlink()
    assert error(folder) == f"{first.parent}: holds no docs-0.jsonl.gz"


@pytest.mark.parametrize(
    ("what", "content", "message"),
    [
        ("docs-1.jsonl.gz", zipped(DOCS)[:-20], ": cut off or damaged after line "),
        ("docs-1.jsonl.gz", zipped([{"title": "", "text": ""}]), ":1: field 'docid' is missing"),
        ("docs-1.jsonl.gz", zipped([DOCS[2], {"docid": "1"}]), ":2: field 'text' is missing"),
        ("topics", b"1\tZiwa?\n2\tMlima\tgani?\n", ":2: columns: 3; an id and a question are "),
        ("topics", b"1\tZiwa?\n\n2\n", ":3: columns: 1; an id and a question are needed"),
        ("topics", b"1\tZiwa?\n2\t\xff\n", ":2: not UTF-8"),
        ("qrels", b"1\tQ0\t7#0\n", ":1: not a judgement"),
        ("qrels", b"4\tQ0\t7#0\t1\n", ": judges query '4', which is not among the queries"),
    ],
)
def test_broken_files_are_named(folder, what, content, message):
    path = file(folder, "sw", what)
    path.write_bytes(content)
    assert error(folder).startswith(f"{path}{message}")


def test_a_part_of_the_corpus_keeps_what_it_has_of_the_judgements(folder):
    file(folder, "sw", "qrels").write_bytes(b"1\tQ0\t8#0\t1\n2\tQ0\t12#0\t1\n2\tQ0\t9#9\t1\n")
    (task,) = read(folder, "sw")
    assert task.query_ids == ["1", "2"]
    assert task.gains.sum(axis=1).tolist() == [0, 1]


def test_what_stands_twice_or_is_empty_is_named(folder):
    shard = file(folder, "sw", "docs-1.jsonl.gz")
    shard.write_bytes(zipped(DOCS[1:]))
    name = "MIRACL sw (partial)"
    assert error(folder) == f"dataset '{name}': duplicate id '7#1' among the passages"
    shard.write_bytes(zipped(DOCS[2:]))
    file(folder, "sw", "topics").write_bytes(b"1\t \n2\tMlima gani?\n")
    assert error(folder) == f"{name}: query '1' is empty"
