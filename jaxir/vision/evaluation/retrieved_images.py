"""A picture of retrieved images: captions in several scripts, and the top images of each.

Dimension key: I images, T captions, E width of features, Q captions that are drawn.
"""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Int
from matplotlib import font_manager, ft2font
from matplotlib.figure import Figure

from jaxir.evaluation.ranks import tie_order_of
from jaxir.retrieval.topk import search
from jaxir.retrieval.vectors import make_vectors
from jaxir.vision.data.images import Color
from jaxir.vision.evaluation.dataset import ImageTextDataset, ImageTextEmbeddings

CAPTIONS, IMAGES = 6, 5  # of a picture at most
EXAMPLES = 20  # captions that tell the script of a language
ENGLISH = "en"  # translations below other captions, for most readers of a picture
RELEVANT, IRRELEVANT = "tab:green", "0.85"  # colors of frames
# Letters of these scripts join or reorder; only a matplotlib with libraqm (3.11) draws that.
SHAPED = ("ARABIC", "HEBREW", "DEVANAGARI", "BENGALI", "TAMIL", "TELUGU", "KHMER", "MYANMAR")
_HAN = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL")


def draw_retrieved_images(
    dataset: ImageTextDataset, embeddings: ImageTextEmbeddings, background: Color
) -> Figure:
    """Draw the top images of captions in different languages, relevant images framed.

    A caption for whose letters no font is installed is replaced by its language. An English caption
    of the same group is drawn below, where there is one. Every process has to call this, since the
    search runs on all devices.

    Args:
        dataset: images and captions.
        embeddings: of the dataset, by the model whose search is drawn.
        background: behind transparent images.

    Raises:
        UserError: an image cannot be decoded.
    """
    chosen = choose_captions(dataset)
    vectors = make_vectors(np.asarray(embeddings.images, np.float32))
    tie_order = tie_order_of(dataset.pool.text_to_image().passage_ids)
    top = search(embeddings.captions[chosen], vectors, IMAGES, tie_order=tie_order).indices
    text_width = 3.4
    figure = Figure(figsize=(text_width + top.shape[1], len(chosen)), layout="constrained")
    axes = figure.subplots(
        len(chosen),
        1 + top.shape[1],
        squeeze=False,
        width_ratios=[text_width, *[1] * top.shape[1]],
    )
    for (text_axes, *image_axes), caption, indices in zip(axes, chosen.tolist(), top):
        _write(text_axes, dataset, caption)
        group = dataset.pool.caption_group[caption]
        for cell, index in zip(image_axes, indices.tolist()):
            cell.imshow(np.asarray(dataset.captions.open(int(dataset.images[index]), background)))
            cell.set_xticks([])
            cell.set_yticks([])
            relevant = bool(dataset.pool.image_group[index] == group)
            color, width = (RELEVANT, 3) if relevant else (IRRELEVANT, 1)
            cell.spines[:].set(color=color, linewidth=width)
    return figure


def choose_captions(dataset: ImageTextDataset) -> Int[np.ndarray, "Q"]:
    """Captions of different groups, in languages of different scripts, each with an image."""
    pool = dataset.pool
    with_image = np.flatnonzero(np.isin(pool.caption_group, pool.image_group))
    captions_of = {
        language: with_image[pool.caption_language[with_image] == index]
        for index, language in enumerate(pool.languages)
    }
    captions_of = {language: rows for language, rows in captions_of.items() if len(rows)}
    scripts = {
        language: Counter(script_of(_text(dataset, caption)) for caption in rows[:EXAMPLES])
        for language, rows in captions_of.items()
    }
    languages = _languages_of_scripts(
        {language: counts.most_common(1)[0][0] for language, counts in scripts.items()}
    )
    groups = np.unique(pool.caption_group[with_image])
    chosen = []
    for index, language in enumerate(languages):
        rows = captions_of[language]
        # groups are numbered in reading order: evenly spaced ones depict different things
        wanted = groups[(2 * index + 1) * len(groups) // (2 * len(languages))]
        nearest = np.abs(pool.caption_group[rows] - wanted).argmin()
        chosen.append(rows[nearest])
    return np.array(chosen, np.int64)


def _languages_of_scripts(script_of_language: dict[str, str]) -> list[str]:
    """At most `CAPTIONS` languages: the first of each script before others, Latin ones last."""
    scripts = list(script_of_language.values())
    order = sorted(
        range(len(scripts)), key=lambda i: (scripts[:i].count(scripts[i]), scripts[i] == "LATIN")
    )
    return sorted(list(script_of_language)[i] for i in order[:CAPTIONS])


def script_of(text: str) -> str:
    """The first word of the Unicode name of a text's first letter: "LATIN", "CJK"; "" of none."""
    letter = next((x for x in text if x.isalpha()), "")
    return unicodedata.name(letter, "").split(" ")[0] if letter else ""


def _text(dataset: ImageTextDataset, caption: int) -> str:
    return dataset.captions.collection.texts[int(dataset.texts[caption])]


def _write(axes, dataset: ImageTextDataset, caption: int) -> None:
    """Write a caption's language, its text if a font has its letters, and its English version."""
    axes.set_axis_off()
    pool = dataset.pool
    language = pool.languages[pool.caption_language[caption]]
    text = _text(dataset, caption)
    families = font_families(text)
    line = f"{language}  {_shorten(text)}" if families else language
    axes.text(1, 0.5, line, ha="right", va="bottom", fontsize=11, family=families or None)
    if language != ENGLISH and ENGLISH in pool.languages:
        english = (pool.caption_group == pool.caption_group[caption]) & (
            pool.caption_language == pool.languages.index(ENGLISH)
        )
        if english.any():
            translation = _shorten(_text(dataset, int(np.argmax(english))))
            axes.text(1, 0.42, translation, ha="right", va="top", fontsize=8, color="0.4")


def _shorten(text: str, limit: int = 34) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def font_families(text: str) -> list[str]:
    """Font families that together have all letters of a text; [] where this machine has none."""
    script = script_of(text)
    if script in SHAPED and not hasattr(ft2font, "__libraqm_version__"):
        return []
    fonts = [font_manager.findfont("DejaVu Sans"), *_noto("CJK" if script in _HAN else script)]
    missing = set(text)
    names: list[str] = []
    for file in fonts:
        font = font_manager.get_font(file)
        missing -= {letter for letter in missing if ord(letter) in font.get_charmap()}
        names.append(font.family_name)
    return [] if missing else names


@cache
def _noto(script: str) -> Sequence[str]:
    """File of the regular Noto font of a script, if installed; registered with matplotlib."""
    stem = f"NotoSans{script if script == 'CJK' else script.title()}-Regular"
    files = [file for file in font_manager.findSystemFonts() if Path(file).stem == stem][:1]
    for file in files:
        font_manager.fontManager.addfont(file)
    return files
