"""Mined hard negatives: against brute force in float64, what they never are, and mistakes."""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxir import Retriever, mine
from jaxir.config import DataConfig, Source
from jaxir.data.collection import read_collection
from jaxir.errors import UserError
from jaxir.retrieval import mining
from jaxir.retrieval.mining import Clusters, Mining

MODEL = Path(__file__).parent / "fixtures" / "labse"
LANGUAGES = ("de", "en", "fr")
GROUPS = 30


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A training file of parallel rows and an index of its passages and of others like them."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    rows, passages, languages = [], [], []
    for group in range(GROUPS):
        for language in LANGUAGES:
            text = " ".join(rng.choice(list("abcd"), 6)) + f" {group} {language}"
            row = {"id": f"g{group}", "query": text[:7] + f"{group}{language}", "passage": text}
            row |= {"query_lang": language, "passage_lang": language, "note": "é"}
            rows.append(row)
            passages.append(text)
            languages.append(language)
    rows.append(rows[0] | {"query": rows[0]["query"], "passage": rows[1]["passage"]})
    rows[-1] |= {"query_lang": "de", "passage_lang": "en"}
    rows[3] |= {"hard_negatives": [passages[30], "not in the index"]}
    passages += [f" {passages[0]}  ", "a b c x", "a b c x"]
    languages += ["de", "de", "de"]
    write(folder / "rows.jsonl", rows)
    retriever = Retriever.load(MODEL)
    retriever.index(passages, languages=languages).save(folder / "index")
    retriever.index(passages).save(folder / "no_languages")
    return folder, rows, passages, languages, retriever


def write(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def run_command(*arguments: object) -> int:
    return mine.main(["mine", *map(str, arguments)])


def normal(text: str) -> str:
    return " ".join(text.split())


def brute_force(files, policy, first, last, margin, count):
    """Every score in float64, one row at a time."""
    _, rows, passages, languages, retriever = files
    encode = (retriever.encode_queries, retriever.encode_passages)
    index = encode[1](passages).astype(np.float64)
    expected = []
    for row in rows:
        query = encode[0]([row["query"]])[0].astype(np.float64)
        own = query @ encode[1]([row["passage"]])[0]
        wanted = {"same": {row["passage_lang"]}, "any": {*languages}}.get(
            policy, {*languages} - {row["passage_lang"]}
        )
        allowed = [n for n, language in enumerate(languages) if language in wanted]
        scores = index @ query
        ranked = sorted(allowed, key=lambda n: -scores[n])[first - 1 : last]
        answers = {normal(other["passage"]) for other in rows if other["id"] == row["id"]}
        taken: list[str] = list(row.get("hard_negatives", []))
        before = len(taken)
        for n in ranked:
            known = {normal(text) for text in taken} | answers
            if scores[n] <= own - margin and normal(passages[n]) not in known:
                taken.append(passages[n])
        by_text = {normal(text): score for text, score in zip(passages, scores)}
        kept = [normal(text) for text in taken[: before + count]]
        expected.append({text: by_text.get(text, np.nan) for text in kept})
    return expected


@pytest.mark.parametrize("policy", ["same", "other", "any"])
@pytest.mark.parametrize(
    ("first", "last", "margin", "count", "rows_at_once"),
    [(2, 20, 0.0, 5, 1_024), (3, 15, 0.002, 4, 7), (1, 93, -9.0, 99, 1_024)],
)
def test_negatives_are_those_of_brute_force(
    files, tmp_path, monkeypatch, policy, first, last, margin, count, rows_at_once
):
    monkeypatch.setattr(mining, "ROW_BATCH", rows_at_once)
    folder, rows, passages, languages, _ = files
    arguments = ("--index", folder / "index", "--input", folder / "rows.jsonl")
    chosen = ("--ranks", f"{first},{last}", "--margin", margin, "--negatives", count)
    out = tmp_path / "out.jsonl"
    assert run_command(*arguments, *chosen, "--language", policy, "--output", out) == 0
    expected = brute_force(files, policy, first, last, margin, count)
    found = read(out)
    assert len(found) == len(rows)
    assert [{**row, "hard_negatives": 0} for row in found] == [
        {**row, "hard_negatives": 0} for row in rows
    ]
    language_of = {normal(text): language for text, language in zip(passages, languages)}
    for row, before, wanted in zip(found, rows, expected):
        negatives = [normal(text) for text in row["hard_negatives"]]
        assert sorted(negatives) == sorted(wanted)
        # in the order of their scores, but for what float32 does not tell apart
        np.testing.assert_allclose(
            [wanted[text] for text in negatives], list(wanted.values()), atol=1e-6
        )
        new = negatives[len(before.get("hard_negatives", [])) :]
        own = {normal(other["passage"]) for other in rows if other["id"] == row["id"]}
        assert not own & set(new)
        assert len(set(negatives)) == len(negatives)
        if policy != "any":
            same = {language_of[text] == row["passage_lang"] for text in new}
            assert same <= {policy == "same"}
    assert sum(len(row["hard_negatives"]) for row in found) > 20
    config = DataConfig(directory=str(tmp_path), sources=(Source(path="out.jsonl"),))
    collection = read_collection(config)
    offered = collection.hard_negatives_of(1, LANGUAGES.index("de"))
    assert [normal(collection.texts[n]) for n in offered] == [
        normal(text) for text in found[3]["hard_negatives"]
    ]
    # nothing that the loss would mask
    for group in range(GROUPS):
        for language in range(3):
            clusters = collection.text_cluster[collection.hard_negatives_of(group, language)]
            mined = clusters[clusters >= 0]
            assert not (mined == collection.cluster[group]).any()


def test_texts_that_rows_share_join_their_answers():
    from jaxir.data.rows import Row

    rows = [
        Row("q1", "p1", "en", "en", "a"),
        Row("f1", "p1 fr", "fr", "fr", "a"),
        Row("q2", "p1", "en", "en", "b"),
        Row("q2", "p2", "en", "en", "c"),
        Row("q4", "p4", "en", "en", "d"),
    ]
    clusters = Clusters()
    for row in reversed(rows):
        clusters.add(row)
    for row in rows[:4]:
        assert all(clusters.holds(row, text) for text in ("p1", " p1  fr", "p2", "q2"))
        assert not clusters.holds(row, "p4")
    assert clusters.holds(rows[4], "p4")
    assert not clusters.holds(rows[4], "p1")
    assert not clusters.holds(rows[4], "in no row")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"--index": None}, "--index is missing"),
        ({"--index": "."}, "no index, or not finished"),
        ({"--input": "nowhere.jsonl"}, "nowhere.jsonl: no such file"),
        ({"--output": "rows.jsonl"}, "is the input"),
        ({"--output": "nowhere/out.jsonl"}, "must be a file in an existing folder"),
        ({"--output": "out.jsonl.gz"}, "leave .gz off"),
        ({"--ranks": "10"}, "--ranks 10: must be two whole numbers"),
        ({"--ranks": "0,10"}, "--ranks 0,10: must be FIRST,LAST"),
        ({"--ranks": "9,8"}, "--ranks 9,8: must be FIRST,LAST"),
        ({"--ranks": "1000,2000"}, "the index has 93 passages"),
        ({"--margin": "nan"}, "--margin nan"),
        ({"--language": "german"}, "--language german: must be one of same, other, any"),
        ({"--negatives": "0"}, "negatives"),
        ({"--index": "no_languages"}, "the passages of the index have no language"),
        ({"--input": "other.jsonl"}, "other.jsonl:1: no passage of the index is in 'sw'"),
        ({"--input": "broken.jsonl"}, "broken.jsonl:2: invalid JSON"),
        ({"--input": "bare.jsonl"}, "bare.jsonl:1: no passage"),
        ({"--input": "empty.jsonl"}, "holds no rows"),
        ({"--input": "half.jsonl"}, "half.jsonl:2: a field holds half a surrogate pair"),
    ],
)
def test_mistakes_are_one_line(files, tmp_path, monkeypatch, changed, message):
    folder, rows, *_ = files
    monkeypatch.chdir(folder)
    write(Path("other.jsonl"), [rows[0] | {"passage_lang": "sw"}])
    write(Path("bare.jsonl"), [{"query": "a", "query_lang": "de", "passage_lang": "de", "id": 1}])
    Path("broken.jsonl").write_text(json.dumps(rows[0]) + "\n{\n")
    Path("empty.jsonl").write_text("\n")
    write(Path("half.jsonl"), [rows[0], rows[1] | {"note": "\ud800"}])
    before = sorted(Path().iterdir())
    flags = {"--index": "index", "--input": "rows.jsonl", "--output": tmp_path / "out"} | changed
    arguments = [word for flag, value in flags.items() if value for word in (flag, value)]
    with pytest.raises(UserError, match=message) as error:
        run_command(*arguments)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
    assert sorted(Path().iterdir()) == before


def test_another_model_than_the_indexs_is_refused(files, tmp_path):
    folder = files[0]
    arguments = ("--index", folder / "index", "--input", folder / "rows.jsonl")
    with pytest.raises(UserError, match="built by another model"):
        run_command(*arguments, "--output", tmp_path / "out", "--passage_prefix", "a ")


def test_a_window_has_to_be_possible():
    with pytest.raises(UserError, match="--negatives 0"):
        Mining(negatives=0)
