"""Drawn images and their sentences: nothing ambiguous, nothing that training should not see."""

import itertools

import numpy as np
import pytest
import scipy.ndimage
from PIL import Image, ImageDraw

from jaxir.config import DrawnConfig, ImageSource
from jaxir.data.checks import InputChecks
from jaxir.errors import UserError
from jaxir.vision.data.drawn import (
    CENTRES,
    LANGUAGES,
    OUTLINES,
    SHADES,
    Combination,
    all_combinations,
    caption,
    draw,
    held_out_combinations,
    read_drawn,
)
from jaxir.vision.data.drawn_wordings import COLOURS, NOUNS, NUMBERS, POSITIONS, SENTENCES

SMALL = DrawnConfig(drawings=2, size=32)


def read(**options) -> list:
    source = ImageSource(reader="drawn", **{"drawn": SMALL, **options})
    return list(read_drawn(source, None, InputChecks()))


def forms(entry: str) -> set[str]:
    return {form for part in entry.split("|") for form in part.split()} - set("mfn-")


def named(text: str, table: dict[str, str], language: str) -> str:
    """The one entry of a table of which a form stands in a sentence."""
    words = {text} if language == "zh" else set(text.split())

    def stands(form: str) -> bool:
        return any(form in word if language == "zh" else form == word for word in words)

    found = [name for name, entry in table.items() if any(map(stands, forms(entry)))]
    assert len(found) == 1, (text, found)
    return found[0]


def decode(text: str, language: str) -> Combination:
    positions = dict(zip(CENTRES, POSITIONS[language].split("|")))
    place = [name for name, phrase in positions.items() if phrase in text]
    assert len(place) == 1, text
    rest = text.replace(positions[place[0]], "")
    shape = named(rest, NOUNS[language], language)
    for form in forms(NOUNS[language][shape]) if language == "zh" else ():
        rest = rest.replace(form, "")  # a triangle has three corners there too
    numbers: dict[str, str] = {"1": "", "2": "", "3": ""}
    for part in NUMBERS[language].split("|"):
        words = [word for word in part.split() if word not in "mfn"]
        for number, word in enumerate(words, start=1):
            numbers[str(number)] += f" {word}"
    if language == "ar" and NOUNS["ar"][shape].split()[2] in rest:  # the dual needs no number
        count = "2"
    else:
        count = named(rest, numbers, language)
    return Combination(shape, named(rest, COLOURS[language], language), int(count), place[0])


@pytest.mark.parametrize("language", LANGUAGES)
def test_sentences_decode_to_their_combination(language):
    for combination in all_combinations():
        assert decode(caption(combination, language), language) == combination


@pytest.mark.parametrize(
    ("combination", "expected"),
    [
        (
            Combination("circle", "red", 1, "top left"),
            {
                "ar": "دائرة حمراء واحدة في أعلى اليسار",
                "de": "ein roter Kreis oben links",
                "en": "one red circle at the top left",
                "es": "un círculo rojo arriba a la izquierda",
                "hi": "ऊपर बाईं ओर एक लाल वृत्त",
                "ru": "один красный круг слева вверху",
                "tr": "sol üstte bir kırmızı daire",
                "zh": "左上角有一个红色的圆形",
            },
        ),
        (
            Combination("star", "black", 2, "bottom right"),
            {
                "ar": "نجمتان سوداوان في أسفل اليمين",
                "de": "zwei schwarze Sterne unten rechts",
                "es": "dos estrellas negras abajo a la derecha",
                "hi": "नीचे दाईं ओर दो काले तारे",
                "ru": "две чёрные звезды справа внизу",
            },
        ),
        (
            Combination("square", "blue", 3, "centre"),
            {
                "ar": "ثلاثة مربعات زرقاء في الوسط",
                "de": "drei blaue Quadrate in der Mitte",
                "es": "tres cuadrados azules en el centro",
                "hi": "बीच में तीन नीले वर्ग",
                "ru": "три синих квадрата в центре",
            },
        ),
        (
            Combination("heart", "green", 1, "bottom left"),
            {"de": "ein grünes Herz unten links", "ru": "одно зелёное сердце слева внизу"},
        ),
    ],
)
def test_words_agree_as_the_language_wants(combination, expected):
    assert {language: caption(combination, language) for language in expected} == expected


def test_every_language_has_every_word():
    for table in (NUMBERS, NOUNS, COLOURS, POSITIONS):
        assert tuple(table) == LANGUAGES == tuple(SENTENCES)
    for language in LANGUAGES:
        assert tuple(NOUNS[language]) == tuple(OUTLINES)
        assert tuple(COLOURS[language]) == tuple(SHADES)
        assert len(POSITIONS[language].split("|")) == len(CENTRES)


def test_held_out_combinations_are_in_no_training_image_but_their_words_are():
    train, held_out = read(), read(split="held_out")
    assert len(train) == 2 * (540 - 108)
    assert len(held_out) == 2 * 108
    assert not {one.group for one in train} & {one.group for one in held_out}
    for language in LANGUAGES:
        told, asked = (
            {
                word
                for one in part
                for text in one.captions[language]
                for word in (text if language == "zh" else text.split())
            }
            for part in (train, held_out)
        )
        assert asked <= told, language
    assert held_out_combinations(108, 1) != held_out_combinations(108, 0)
    # what a split holds out does not change with how much it holds out
    assert held_out_combinations(50, 0) < held_out_combinations(108, 0)


def test_drawings_are_as_told():
    """Where the ink is, of which colour, and how much of it."""
    for one in read()[::7]:
        pixels = np.asarray(one.image()).astype(int)
        assert pixels.shape == (32, 32, 3)
        count, colour, shape, position = one.group.split(" ", 3)
        ink = np.abs(pixels - pixels[16, 0]).max(axis=2) > 60
        rows, columns = np.nonzero(ink)
        right, down = CENTRES[position]
        np.testing.assert_allclose((rows + 0.5).mean() / 32, down, atol=0.06)
        np.testing.assert_allclose((columns + 0.5).mean() / 32, right, atol=0.06)
        strongest = pixels[ink][np.abs(pixels[ink] - pixels[16, 0]).sum(axis=1).argmax()]
        nearest = min(SHADES, key=lambda name: np.abs(strongest - SHADES[name]).sum())
        assert nearest == colour, (one.name, strongest)
        assert 0.003 < ink.mean() / int(count) < 0.05, shape


def test_count_is_that_of_separate_shapes():
    for combination in all_combinations()[::11]:
        for number in range(3):
            pixels = np.asarray(draw(combination, number, 128)).astype(int)
            ink = np.abs(pixels - pixels[64, 0]).max(axis=2) > 40
            shapes = scipy.ndimage.label(ink, np.ones((3, 3)))[1]  # corners connect too
            assert shapes == combination.count, (combination, number)


def test_drawings_differ_and_repeat():
    images = [one.image().tobytes() for one in read(split="held_out")]
    assert len(set(images)) == len(images)
    assert images == [one.image().tobytes() for one in read(split="held_out")]


def test_shapes_can_be_told_apart():
    """No outline covers nearly what another does."""

    def covered(outline: np.ndarray) -> np.ndarray:
        image = Image.new("1", (200, 200))
        corners = [tuple(corner) for corner in (100 + 90 * outline).tolist()]
        ImageDraw.Draw(image).polygon(corners, fill=1)
        return np.asarray(image)

    areas = {shape: covered(outline) for shape, outline in OUTLINES.items()}
    for one, other in itertools.combinations(areas, 2):
        shared = (areas[one] & areas[other]).sum() / (areas[one] | areas[other]).sum()
        assert shared < 0.8, (one, other)


def test_refuses_what_cannot_be_drawn():
    with pytest.raises(UserError, match="drawn images: not in language 'fr'"):
        read(languages=("en", "fr"))
    with pytest.raises(UserError, match="split 'test'"):
        read(split="test")
    with pytest.raises(UserError, match=r"drawn.held_out = 300: must be from 0 to 270"):
        read(drawn=DrawnConfig(held_out=300))
    assert {language for one in read(languages=("tr",)) for language in one.captions} == {"tr"}
