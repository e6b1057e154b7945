"""Overlap with XQuAD-R: hashed runs of words against sets of tuples."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jaxir.config import DataConfig, Source
from jaxir.data.collection import Collection, read_collection
from jaxir.data.contamination import drop_overlap, split_words
from jaxir.errors import UserError

DATA = Path(__file__).parents[1].parent / "shared/data"


def write_xquad_r(folder: Path, sentences: dict[str, list[str]]) -> None:
    for language, texts in sentences.items():
        ends = np.cumsum([len(text) + 1 for text in texts]).tolist()
        breaks = [[end - len(text) - 1, end] for text, end in zip(texts, ends)]
        paragraph = {"context": " ".join(texts) + " ", "sentence_breaks": breaks, "qas": []}
        document = {"data": [{"paragraphs": [paragraph]}]}
        (folder / f"{language}.json").write_text(json.dumps(document))


def read(folder: Path, rows, reader="jsonl", **options) -> Collection:
    if reader == "jsonl":
        (folder / "rows").write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        (folder / "rows").write_text("".join("\t".join(row) + "\n" for row in rows))
    return read_collection(DataConfig(str(folder), (Source(reader, "rows", **options),)))


def runs(text, n):
    words = split_words(text, "en")
    return {tuple(words[x : x + n]) for x in range(len(words) - n + 1)}


@pytest.mark.parametrize("n", [3, 10])
def test_against_sets_of_tuples(tmp_path, n):
    rng = np.random.default_rng(n)
    vocabulary = np.array([f"w{x}" for x in range(40 if n == 3 else 3)])
    chances = np.full(40, 1 / 40) if n == 3 else [0.47, 0.47, 0.06]
    lengths = rng.integers(1, 60, 400)
    texts = [" ".join(rng.choice(vocabulary, length, p=chances)) for length in lengths]
    sentences = [" ".join(rng.choice(vocabulary[:-1], 14)) for _ in range(60)]
    write_xquad_r(tmp_path, {"en": sentences})
    rows = [{"id": x, "query": f"q{x}", "passage": text} for x, text in enumerate(texts)]
    collection = read(tmp_path, rows, languages=("en",))
    wanted = set().union(*(runs(sentence, n) for sentence in sentences))
    kept = [f"rows:{x}" for x, text in enumerate(texts) if not runs(text, n) & wanted]
    assert 40 < len(kept) < 360
    rest, dropped = drop_overlap(collection, tmp_path, n)
    assert rest.ids == kept
    assert dropped == rest.report["overlapping"] == {"en": 400 - len(kept)}


TEN = "The quick brown fox jumps over the lazy old dog"


def test_case_and_punctuation_do_not_hide_an_overlap(tmp_path):
    write_xquad_r(tmp_path, {"en": [TEN + "."]})
    passages = [
        f"so: {TEN.upper().replace(' ', ' - ')}!",
        TEN.removesuffix("dog"),
        TEN.replace("fox", "foxy"),
    ]
    rows = [{"id": x, "query": "q", "passage": text} for x, text in enumerate(passages)]
    rest, dropped = drop_overlap(read(tmp_path, rows, languages=("en",)), tmp_path)
    assert rest.ids == ["rows:1", "rows:2"]
    assert dropped == {"en": 1}


def test_a_run_does_not_go_on_from_one_text_into_the_next(tmp_path):
    write_xquad_r(tmp_path, {"en": [TEN]})
    halves = [TEN[:19], TEN[20:]]
    rows = [{"id": x, "query": "q", "passage": text} for x, text in enumerate(halves)]
    assert len(drop_overlap(read(tmp_path, rows, languages=("en",)), tmp_path)[0].ids) == 2


@pytest.mark.parametrize(
    ("language", "text", "count"),
    [
        ("th", "ประเทศไทยมีภาษาและวัฒนธรรมที่เก่าแก่มาก", 9),
        ("zh", "我们今天在北京大学学习中国历史", 7),
        ("hi", "यह किताब बहुत अच्छी है", 5),
    ],
)
def test_words_of_scripts_that_a_pattern_would_cut_wrongly(language, text, count):
    words = split_words(text, language)
    assert "".join(words) == text.replace(" ", "")
    assert abs(len(words) - count) <= 2


def test_a_text_is_taken_out_of_its_language_alone(tmp_path):
    write_xquad_r(tmp_path, {"en": [TEN], "de": ["nichts davon"]})
    rows = [("ganz anders", "هذا", TEN), ("rein", "نظيف", "clean"), (TEN, "نعم", "yes")]
    collection = read(tmp_path, rows, "parallel_tsv", languages=("de", "ar", "en"))
    rest, dropped = drop_overlap(collection, tmp_path)
    assert dropped == {"de": 0, "en": 1}  # no file for ar; TEN as German overlaps with nothing
    assert rest.languages == ("ar", "de", "en")
    present = [[True, True, False], [True] * 3, [True] * 3]
    np.testing.assert_array_equal(rest.passage >= 0, present)
    np.testing.assert_array_equal(rest.query >= 0, present)


def test_hard_negatives_go_too_and_queries_with_a_passage_stay(tmp_path):
    write_xquad_r(tmp_path, {"en": [TEN]})
    rows = [
        {"id": 1, "query": "q", "passage": "p", "hard_negatives": ["a", TEN, "b"]},
        {"id": 2, "query": TEN, "passage": "r", "hard_negatives": [TEN]},
        {"id": 3, "query": "s", "passage": TEN, "hard_negatives": ["c"]},
    ]
    rest, _ = drop_overlap(read(tmp_path, rows, languages=("en",)), tmp_path)
    assert rest.ids == ["rows:1", "rows:2"]
    assert [rest.texts[text] for text in rest.hard_negatives_of(0, 0)] == ["a", "b"]
    assert rest.hard_negatives_of(1, 0).size == 0


def test_bad_folder(tmp_path):
    collection = read(tmp_path, [{"id": 1, "query": "q", "passage": "p"}], languages=("en",))
    with pytest.raises(UserError, match=r"no <language>\.json for en; mend data\.drop_overlap"):
        drop_overlap(collection, tmp_path)
    (tmp_path / "en.json").write_text('{"data": [{"paragraphs": [{"context": "x"}]}]}')
    with pytest.raises(UserError, match=r"en\.json: not a file of XQuAD-R"):
        drop_overlap(collection, tmp_path)


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no data in {DATA}")
def test_the_one_english_paragraph_that_is_known_to_overlap():
    """../shared/data/README.md: one English TyDi paragraph, nothing in ARCD."""
    sources = (
        Source("squad", "tydiqa-goldp/tydiqa.goldp.en.train.json", ("en",)),
        Source("squad", "tydiqa-goldp/tydiqa.goldp.en.dev.json", ("en",)),
        Source("squad", "arcd", ("ar",), repair_answers=True),
    )
    sources[0].fields = replace(sources[0].fields, id="")
    collection = read_collection(DataConfig(str(DATA), sources))
    _, dropped = drop_overlap(collection, DATA / "xquad-r")
    assert dropped == {"ar": 0, "en": 1}
