"""Images drawn on the fly with captions in eight languages: the data of the image-text demo.

An image shows one to three equal shapes of one colour at one position on a light grey background. A
combination is shape x colour x count x position; each is drawn several times, with other sizes,
angles, shades and shifts, and has one caption a language. Some combinations are held out of
training; each of their words occurs in others. Captions tell left from right and corners from the
centre, so training must neither flip images nor crop much of them.

Dimension key: V vertices of an outline.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw

from jaxir.config import ImageSource
from jaxir.data.checks import InputChecks, choose_languages
from jaxir.data.hashing import hash_words
from jaxir.errors import UserError
from jaxir.vision.data.drawn_wordings import COLOURS, NOUNS, NUMBERS, POSITIONS, SENTENCES
from jaxir.vision.data.rows import CaptionedImage

LANGUAGES = tuple(SENTENCES)
SPLITS = ("train", "held_out")
SHADES = {
    "red": (220, 40, 40),
    "blue": (40, 90, 220),
    "green": (40, 160, 60),
    "yellow": (240, 205, 30),
    "black": (30, 30, 30),
    "purple": (140, 60, 180),
}
COUNTS = (1, 2, 3)
# centre of the shapes, right and down, as shares of the side
CENTRES = {
    "top left": (0.27, 0.27),
    "top right": (0.73, 0.27),
    "bottom left": (0.27, 0.73),
    "bottom right": (0.73, 0.73),
    "centre": (0.5, 0.5),
}
OVERSAMPLING = 4  # drawn that many times larger, then averaged: smooth edges
# shares of the side
SPREAD = 0.14  # distance of two or three shapes from their centre
RADIUS = (0.085, 0.11)  # of a shape; three of the largest do not touch
SHIFT = 0.015  # of the centre, at most
TILT = 20.0  # degrees either way, at most


@dataclass(frozen=True)
class Combination:
    """Shape, colour, count and position that an image depicts."""

    shape: str
    colour: str
    count: int
    position: str

    @property
    def id(self) -> str:
        """Name of the combination and of the group of its drawings."""
        return f"{self.count} {self.colour} {self.shape} {self.position}"


@cache
def all_combinations() -> tuple[Combination, ...]:
    """Every combination, in a fixed order."""
    return tuple(
        Combination(*parts) for parts in product(NOUNS["en"], COLOURS["en"], COUNTS, CENTRES)
    )


@cache
def held_out_combinations(count: int, seed: int) -> frozenset[Combination]:
    """Combinations held out of training: a pure function of the seed.

    Raises:
        UserError: nothing, or too little to learn every word from, would be left.
    """
    most = len(all_combinations()) // 2
    if not 0 <= count <= most:
        raise UserError(f"drawn.held_out = {count}: must be from 0 to {most}")
    shuffled = sorted(all_combinations(), key=lambda combination: hash_words(seed, combination.id))
    return frozenset(shuffled[:count])


def _inflect(entry: str, gender: str, count: int) -> str:
    """Form of a word for a noun's gender ("": none) and a count, from an entry of the tables."""
    forms = entry.split()
    for part in entry.split("|"):
        first, *rest = part.split()
        if first == gender and gender:
            forms = rest
    word = forms[min(count, len(forms)) - 1]
    return "" if word == "-" else word


def caption(combination: Combination, language: str) -> str:
    """Caption of a combination, which is the caption of no other one."""
    noun = NOUNS[language][combination.shape]
    gender = noun.split()[0] if noun.split()[0] in ("m", "f", "n") else ""
    sentences = SENTENCES[language].split("|")
    position = list(CENTRES).index(combination.position)
    return sentences[min(combination.count, len(sentences)) - 1].format(
        noun=_inflect(noun, gender, combination.count),
        colour=_inflect(COLOURS[language][combination.colour], gender, combination.count),
        number=_inflect(NUMBERS[language], gender, combination.count),
        position=POSITIONS[language].split("|")[position],
    )


def draw(combination: Combination, number: int, size: int) -> Image.Image:
    """Draw a combination; equal arguments give equal images, in RGB.

    Args:
        combination: to depict.
        number: of the drawing; others differ in size, angle, shade and position.
        size: side in pixels.
    """
    rng = np.random.default_rng([all_combinations().index(combination), number])
    side = size * OVERSAMPLING
    grey = int(rng.integers(200, 246))
    image = Image.new("RGB", (side, side), (grey,) * 3)
    canvas = ImageDraw.Draw(image)
    shade = np.clip(np.array(SHADES[combination.colour]) + rng.integers(-20, 21, 3), 0, 255)
    centre = np.array(CENTRES[combination.position]) + rng.uniform(-SHIFT, SHIFT, 2)
    radius = rng.uniform(*RADIUS)
    # several shapes are spread evenly on a circle around the centre
    first_angle = rng.uniform(0, 2 * np.pi)
    for index in range(combination.count):
        angle = first_angle + 2 * np.pi * index / combination.count
        distance = SPREAD * (combination.count > 1)
        position = centre + distance * np.array([np.cos(angle), np.sin(angle)])
        outline = _rotate(OUTLINES[combination.shape], rng.uniform(-TILT, TILT))
        vertices = (position + radius * outline) * side
        canvas.polygon([tuple(vertex) for vertex in vertices.tolist()], fill=tuple(shade.tolist()))
    return image.reduce(OVERSAMPLING)


def _rotate(outline: Float[np.ndarray, "V 2"], degrees: float) -> Float[np.ndarray, "V 2"]:
    angle = np.radians(degrees)
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return outline @ rotation


def _star(points: int, inner: float, rotation: float) -> Float[np.ndarray, "V 2"]:
    """Star with points on the unit circle and notches at radius `inner`; 1: a regular polygon."""
    angle = np.radians(rotation) + np.arange(2 * points) * np.pi / points
    radius = np.where(np.arange(2 * points) % 2, inner, 1.0)
    return radius[:, None] * np.stack([np.sin(angle), -np.cos(angle)], axis=1)


def _heart() -> Float[np.ndarray, "V 2"]:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    right = 16 * np.sin(t) ** 3
    up = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([right, -up], axis=1) / 17


def _cross() -> Float[np.ndarray, "V 2"]:
    arm = np.array([(-1, -3), (1, -3), (1, -1)])
    quarter = np.array([[0, 1], [-1, 0]])  # turns right to down
    arms = [arm @ np.linalg.matrix_power(quarter, turns) for turns in range(4)]
    return np.concatenate(arms) / np.sqrt(10)


# x to the right, y down, within the unit circle or nearly
OUTLINES = {
    "circle": 0.92 * _star(24, 1.0, 0),
    "square": _star(4, np.sqrt(0.5), 45),
    "triangle": _star(3, 0.5, 0),
    "star": _star(5, 0.5, 0),
    "heart": _heart(),
    "cross": _cross(),
}


def read_drawn(
    source: ImageSource, directory: Path, checks: InputChecks
) -> Iterator[CaptionedImage]:
    """Drawings of a split's combinations: the first drawing of all, then the second, and so on.

    A reader as in `jaxir.vision.data.readers`. Nothing is read, so nothing can be bad.

    Raises:
        UserError: no such split, or a language without words.
    """
    del directory, checks
    languages = choose_languages(source.languages, LANGUAGES, "captions of drawn images")
    if source.split not in SPLITS:
        raise UserError(f"drawn images: split {source.split!r}; must be of {', '.join(SPLITS)}")
    options = source.drawn
    held_out = held_out_combinations(options.held_out, options.seed)
    combinations = [
        combination
        for combination in all_combinations()
        if (combination in held_out) == (source.split != "train")
    ]
    for number in range(options.drawings):
        for combination in combinations:
            name = f"{combination.id} {number}"
            yield CaptionedImage(
                name=name,
                where=f"drawn image {name!r}",
                image=partial(draw, combination, number, options.size),
                captions={language: [caption(combination, language)] for language in languages},
                group=combination.id,
                source="drawn",
            )
