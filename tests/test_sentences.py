"""Sentences: they cover the text, count code points, and agree with XQuAD-R's human-made ones."""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxir.data.sentences import (
    UNMARKED_SENTENCE,
    find_answer,
    find_nearest_answer,
    passage_text,
    sentence_at,
    sentence_spans,
)
from jaxir.errors import UserError

XQUAD_R = Path(__file__).parents[1].parent / "shared/data/xquad-r"
ALPHABET = list("ab. ?!\n😀é。ก្ ّ")


@pytest.mark.parametrize("language", ["en", "ar", "th", "zh", "xx"])
def test_spans_cover_any_text(language):
    rng = np.random.default_rng(0)
    for length in (0, 1, 7, 60, 900):
        text = "".join(rng.choice(ALPHABET, length))
        spans = sentence_spans(text, language)
        assert "".join(text[start:end] for start, end in spans) == text
        assert all(start < end for start, end in spans)
        for offset in range(0, length, 13):
            inside = next(span for span in spans if span[0] <= offset < span[1])
            assert sentence_at(text, language, offset) == text[slice(*inside)].strip()


def test_offsets_count_code_points_after_an_emoji():
    text = "😀😀 is one. The answer is two. Then 🎉 three."
    assert sentence_at(text, "en", text.index("two")) == "The answer is two."
    assert sentence_at(text, "en", text.index("three")) == "Then 🎉 three."


def test_thai_sentences_end_at_spaces():
    text = " ".join(["ภาษาไทยไม่มีเครื่องหมาย"] * 40)
    spans = sentence_spans(text, "th")
    assert len(spans) > 3
    for start, end in spans[:-1]:
        assert text[end - 1] == " "
        assert UNMARKED_SENTENCE < end - start <= UNMARKED_SENTENCE + 30


@pytest.mark.skipif(not XQUAD_R.is_dir(), reason=f"no XQuAD-R in {XQUAD_R}")
@pytest.mark.parametrize("language", ["ar", "de", "el", "en", "es", "hi", "ru", "tr", "vi", "zh"])
def test_breaks_agree_with_xquad_r(language):
    document = json.loads((XQUAD_R / f"{language}.json").read_text())
    found = wanted = common = 0
    for article in document["data"]:
        for paragraph in article["paragraphs"]:
            text = paragraph["context"]
            ours = {len(text[start:].lstrip()) for start, _ in sentence_spans(text, language)[1:]}
            theirs = {len(text[start:].lstrip()) for start, _ in paragraph["sentence_breaks"][1:]}
            found, wanted, common = (
                found + len(ours),
                wanted + len(theirs),
                common + len(ours & theirs),
            )
    assert common / found > 0.88
    assert common / wanted > 0.95


def test_answer_is_found_where_it_says_and_only_there():
    paragraph = "one two one three one"
    assert find_answer(paragraph, [("one", 8)]) == 8
    assert find_answer(paragraph, [("one", 7), ("three", 12)]) == 12
    assert find_answer(paragraph, [("one", -3), ("one", 99)]) is None


def test_nearest_answer_against_every_occurrence():
    rng = np.random.default_rng(1)
    for _ in range(300):
        paragraph = "".join(rng.choice(list("ab"), 12))
        text = "".join(rng.choice(list("ab"), 3))
        start = int(rng.integers(-3, 15))
        places = [at for at in range(10) if paragraph.startswith(text, at)]
        found = find_nearest_answer(paragraph, [("c", 0), (text, start)])
        if not places:
            assert found is None
        else:
            clipped = min(max(start, 0), 12)
            assert found in places
            assert abs(found - clipped) == min(abs(at - clipped) for at in places)


def test_passage_text():
    assert passage_text("s.", "s. t.", "paragraph") == "s. t."
    assert passage_text("s.", "s. t.", "sentence") == "s."
    assert passage_text("s.", "s. t.", "sentence_with_paragraph") == "s. s. t."
    with pytest.raises(UserError, match="passage = 'word'"):
        passage_text("s.", "s. t.", "word")
