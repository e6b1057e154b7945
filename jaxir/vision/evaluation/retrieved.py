"""What a model finds, to be looked at: captions in several scripts, and the first images of each.

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
from jaxir.retrieval.topk import make_vectors, search
from jaxir.vision.data.images import Color
from jaxir.vision.evaluation.image_task import Encoded, ImageTask

CAPTIONS, IMAGES = 6, 5  # of a picture at most
EXAMPLES = 20  # captions that tell the script of a language
LEARNT = "en"  # the language that most readers of a picture know
RIGHT, WRONG = "tab:green", "0.85"  # frames
# whose letters change beside others: only a matplotlib with libraqm (3.11) draws them properly
SHAPED = ("ARABIC", "HEBREW", "DEVANAGARI", "BENGALI", "TAMIL", "TELUGU", "KHMER", "MYANMAR")
_HAN = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL")


def retrieved(task: ImageTask, encoded: Encoded, background: Color) -> Figure:
    """The first images found for captions of different things, one a language; right ones framed.

    A caption whose letters no font here has is named by its language alone. Where there is an
    English caption of the same thing, it stands below. Every process has to call this: devices
    search.

    Args:
        task: images and captions.
        encoded: the features that find.
        background: behind transparent images.

    Raises:
        UserError: an image cannot be decoded.
    """
    chosen = captions_to_draw(task)
    vectors = make_vectors(np.asarray(encoded.images, np.float32))
    tie_order = tie_order_of(task.pool.text_to_image().passage_ids)
    found = search(encoded.captions[chosen], vectors, IMAGES, tie_order=tie_order).places
    wide = 3.4
    figure = Figure(figsize=(wide + found.shape[1], len(chosen)), layout="constrained")
    axes = figure.subplots(
        len(chosen), 1 + found.shape[1], squeeze=False, width_ratios=[wide, *[1] * found.shape[1]]
    )
    for (name, *row), caption, places in zip(axes, chosen.tolist(), found):
        _write(name, task, caption)
        group = task.pool.caption_group[caption]
        for cell, place in zip(row, places.tolist()):
            cell.imshow(np.asarray(task.captions.open(int(task.images[place]), background)))
            cell.set_xticks([])
            cell.set_yticks([])
            right = bool(task.pool.image_group[place] == group)
            cell.spines[:].set(color=RIGHT if right else WRONG, linewidth=3 if right else 1)
    return figure


def captions_to_draw(task: ImageTask) -> Int[np.ndarray, "Q"]:
    """Captions of things that have an image, evenly taken, in languages of different scripts."""
    pool = task.pool
    there = np.flatnonzero(np.isin(pool.caption_group, pool.image_group))
    of_language = {
        language: there[pool.caption_language[there] == number]
        for number, language in enumerate(pool.languages)
    }
    of_language = {language: own for language, own in of_language.items() if len(own)}
    scripts = {
        language: Counter(script_of(_text(task, caption)) for caption in own[:EXAMPLES])
        for language, own in of_language.items()
    }
    languages = _of_all_scripts({name: own.most_common(1)[0][0] for name, own in scripts.items()})
    groups = np.unique(pool.caption_group[there])
    chosen = []
    for place, language in enumerate(languages):
        own = of_language[language]
        # another thing for each, far from the last in the order of reading
        wanted = groups[(2 * place + 1) * len(groups) // (2 * len(languages))]
        nearest = np.abs(pool.caption_group[own] - wanted).argmin()
        chosen.append(own[nearest])
    return np.array(chosen, np.int64)


def _of_all_scripts(script_of_language: dict[str, str]) -> list[str]:
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


def _text(task: ImageTask, caption: int) -> str:
    return task.captions.collection.texts[int(task.texts[caption])]


def _write(axes, task: ImageTask, caption: int) -> None:
    """A caption's language and, as far as there are letters, its text, and an English one."""
    axes.set_axis_off()
    pool = task.pool
    language = pool.languages[pool.caption_language[caption]]
    text = _text(task, caption)
    families = families_for(text)
    line = f"{language}  {_short(text)}" if families else language
    axes.text(1, 0.5, line, ha="right", va="bottom", fontsize=11, family=families or None)
    if language != LEARNT and LEARNT in pool.languages:
        same = (pool.caption_group == pool.caption_group[caption]) & (
            pool.caption_language == pool.languages.index(LEARNT)
        )
        if same.any():
            english = _short(_text(task, int(np.argmax(same))))
            axes.text(1, 0.42, english, ha="right", va="top", fontsize=8, color="0.4")


def _short(text: str, limit: int = 34) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def families_for(text: str) -> list[str]:
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
    """The plain Noto font of a script, if it is installed, known to matplotlib from now on."""
    stem = f"NotoSans{script if script == 'CJK' else script.title()}-Regular"
    found = [file for file in font_manager.findSystemFonts() if Path(file).stem == stem][:1]
    for file in found:
        font_manager.fontManager.addfont(file)
    return found
