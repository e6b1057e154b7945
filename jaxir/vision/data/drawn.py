"""Images drawn on the fly with captions in eight languages: the data of the image-text demo.

An image shows one to three equal shapes of one colour in one place of a light grey ground. What is
depicted, shape x colour x count x place, is a combination; each is drawn several times, with other
sizes, angles, shades and shifts, and told alike in every language. Some combinations are held out
of training, where each of their words occurs in others. Captions tell left from right and corners
from the centre, so training must neither flip images nor crop much of them.

Dimension key: V corners of an outline.
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
from jaxir.data.cldr import stateless_hash
from jaxir.errors import UserError
from jaxir.vision.data.captioned import CaptionedImage, Checks
from jaxir.vision.data.drawn_wordings import COLOURS, NOUNS, NUMBERS, POSITIONS, SENTENCES

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
# centre of the shapes, as shares of the side, right and down
PLACES = {
    "top left": (0.27, 0.27),
    "top right": (0.73, 0.27),
    "bottom left": (0.27, 0.73),
    "bottom right": (0.73, 0.73),
    "centre": (0.5, 0.5),
}
OVERSAMPLING = 4  # drawn so much larger, then averaged: smooth edges
SPREAD = 0.14  # of two or three shapes around their centre
RADIUS = (0.085, 0.11)  # of a shape; three of the largest do not touch
SHIFT, TILT = 0.015, 20.0  # either way; tilt in degrees


@dataclass(frozen=True)
class Combination:
    """What is depicted."""

    shape: str
    colour: str
    count: int
    position: str

    @property
    def id(self) -> str:
        """Its name, which is that of the group of its drawings."""
        return f"{self.count} {self.colour} {self.shape} {self.position}"


@cache
def all_combinations() -> tuple[Combination, ...]:
    """Every combination, in a fixed order."""
    return tuple(
        Combination(*parts) for parts in product(NOUNS["en"], COLOURS["en"], COUNTS, PLACES)
    )


@cache
def held_out_combinations(number: int, seed: int) -> frozenset[Combination]:
    """Combinations kept from training: a pure function of the seed.

    Raises:
        UserError: nothing, or too little to learn every word from, would be left.
    """
    most = len(all_combinations()) // 2
    if not 0 <= number <= most:
        raise UserError(f"drawn.held_out = {number}: must be from 0 to {most}")
    ordered = sorted(all_combinations(), key=lambda one: stateless_hash(seed, one.id))
    return frozenset(ordered[:number])


def _form(entry: str, gender: str, count: int) -> str:
    """A word's form from an entry of the tables; the noun's gender may be ""."""
    forms = entry.split()
    for part in entry.split("|"):
        first, *rest = part.split()
        if first == gender and gender:
            forms = rest
    word = forms[min(count, len(forms)) - 1]
    return "" if word == "-" else word


def caption(combination: Combination, language: str) -> str:
    """The sentence that tells a combination, which tells no other one."""
    noun = NOUNS[language][combination.shape]
    gender = noun.split()[0] if noun.split()[0] in ("m", "f", "n") else ""
    sentences = SENTENCES[language].split("|")
    place = list(PLACES).index(combination.position)
    return sentences[min(combination.count, len(sentences)) - 1].format(
        noun=_form(noun, gender, combination.count),
        colour=_form(COLOURS[language][combination.colour], gender, combination.count),
        number=_form(NUMBERS[language], gender, combination.count),
        position=POSITIONS[language].split("|")[place],
    )


def draw(combination: Combination, number: int, size: int) -> Image.Image:
    """One of a combination's drawings, the same each time; RGB.

    Args:
        combination: what is depicted.
        number: of the drawing; others differ in size, angle, shade and place.
        size: side in pixels.
    """
    rng = np.random.default_rng([all_combinations().index(combination), number])
    side = size * OVERSAMPLING
    ground = int(rng.integers(200, 246))
    image = Image.new("RGB", (side, side), (ground,) * 3)
    canvas = ImageDraw.Draw(image)
    shade = np.clip(np.array(SHADES[combination.colour]) + rng.integers(-20, 21, 3), 0, 255)
    centre = np.array(PLACES[combination.position]) + rng.uniform(-SHIFT, SHIFT, 2)
    radius = rng.uniform(*RADIUS)
    turn = rng.uniform(0, 2 * np.pi)
    for one in range(combination.count):
        angle = turn + 2 * np.pi * one / combination.count
        away = SPREAD * (combination.count > 1)
        place = centre + away * np.array([np.cos(angle), np.sin(angle)])
        outline = _tilted(OUTLINES[combination.shape], rng.uniform(-TILT, TILT))
        corners = (place + radius * outline) * side
        canvas.polygon([tuple(corner) for corner in corners.tolist()], fill=tuple(shade.tolist()))
    return image.reduce(OVERSAMPLING)


def _tilted(outline: Float[np.ndarray, "V 2"], degrees: float) -> Float[np.ndarray, "V 2"]:
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return outline @ turn


def _star(corners: int, inner: float, turned: float) -> Float[np.ndarray, "V 2"]:
    """Corners on a circle, with inner ones between them; `inner` 1: a polygon of twice as many."""
    angle = np.radians(turned) + np.arange(2 * corners) * np.pi / corners
    radius = np.where(np.arange(2 * corners) % 2, inner, 1.0)
    return radius[:, None] * np.stack([np.sin(angle), -np.cos(angle)], axis=1)


def _heart() -> Float[np.ndarray, "V 2"]:
    at = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    right = 16 * np.sin(at) ** 3
    up = 13 * np.cos(at) - 5 * np.cos(2 * at) - 2 * np.cos(3 * at) - np.cos(4 * at)
    return np.stack([right, -up], axis=1) / 17


def _cross() -> Float[np.ndarray, "V 2"]:
    arm = np.array([(-1, -3), (1, -3), (1, -1)])
    quarter = np.array([[0, 1], [-1, 0]])  # turns right to down
    arms = [arm @ np.linalg.matrix_power(quarter, turns) for turns in range(4)]
    return np.concatenate(arms) / np.sqrt(10)


# within the unit circle or nearly, right and down
OUTLINES = {
    "circle": 0.92 * _star(24, 1.0, 0),
    "square": _star(4, np.sqrt(0.5), 45),
    "triangle": _star(3, 0.5, 0),
    "star": _star(5, 0.5, 0),
    "heart": _heart(),
    "cross": _cross(),
}


def read_drawn(source: ImageSource, directory: Path, checks: Checks) -> Iterator[CaptionedImage]:
    """Drawings of the combinations of a split, drawing by drawing; nothing is read.

    Raises:
        UserError: no such split, or a language without words.
    """
    del directory, checks  # nothing is read, and nothing can be bad
    languages = source.languages or LANGUAGES
    unknown = [language for language in languages if language not in LANGUAGES]
    if unknown:
        raise UserError(f"drawn images: no words in {unknown[0]!r}; have {', '.join(LANGUAGES)}")
    if source.split not in SPLITS:
        raise UserError(f"drawn images: split {source.split!r}; must be of {', '.join(SPLITS)}")
    options = source.drawn
    held_out = held_out_combinations(options.held_out, options.seed)
    wanted = [one for one in all_combinations() if (one in held_out) == (source.split != "train")]
    for number in range(options.drawings):
        for one in wanted:
            name = f"{one.id} {number}"
            yield CaptionedImage(
                name=name,
                where=f"drawn image {name!r}",
                image=partial(draw, one, number, options.size),
                captions={language: [caption(one, language)] for language in languages},
                group=one.id,
                source="drawn",
            )
