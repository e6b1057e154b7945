"""Scores captions of images by a model, and reports them.

Dimension key: N captions, each with its image.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxir.errors import UserError
from jaxir.progress import progress_bar
from jaxir.vision.clipscore.candidates import (
    ImageFolder,
    Mistakes,
    read_captions,
    read_references,
)
from jaxir.vision.clipscore.ratings import VARIANTS, rated_pairs, read_ratings
from jaxir.vision.clipscore.scorer import Scorer
from jaxir.vision.clipscore.scores import (
    clip_scores,
    kendall_tau,
    ref_clip_scores,
    reference_scores,
)
from jaxir.vision.data.images import Color, open_image

_OPENED = 64  # images at a time


@dataclass(frozen=True, slots=True)
class Item:
    """A caption to be scored."""

    image: str  # with its suffix, below the folder of images
    text: str
    language: str
    id: str
    where: str
    references: tuple[str, ...] = ()
    ratings: tuple[float, ...] = ()


@dataclass(frozen=True)
class Scored:
    """Captions and their scores."""

    items: list[Item]
    clip: Float[np.ndarray, "N"]
    ref_clip: Float[np.ndarray, "N"] | None  # None: not every caption has a reference


def items_of(
    captions: Path, images: ImageFolder, references: Path | None, mistakes: Mistakes
) -> list[Item]:
    """The captions of a file, with their references: those in the caption's language, if any are.

    An image of the folder without caption is a mistake too.
    """
    found = read_captions(captions, mistakes)
    of_image: dict[str, list[tuple[str, str]]] = {}
    for name, some in (read_references(references, mistakes) if references else {}).items():
        of_image.setdefault(_found(images, name, f"{references}: {name!r}", mistakes), []).extend(
            some
        )
    items, captioned = [], set()
    for caption in found:
        image = _found(images, caption.image, caption.where, mistakes)
        captioned.add(image)
        if not image:
            continue
        near = of_image.get(image, [])
        own = [text for code, text in near if code == caption.language]
        chosen = tuple(own or [text for _, text in near])
        if references and not chosen:
            mistakes.found.append(f"{caption.where}: a caption without reference in {references}")
            continue
        items.append(Item(image, caption.text, caption.language, caption.id, caption.where, chosen))
    mistakes.found += images.without_caption(captioned | mistakes.images)
    return items


def rated_items(
    captions: Path, images: ImageFolder, ratings: Path, mistakes: Mistakes
) -> tuple[list[Item], str, int]:
    """The pairs that people rated, the kind of their ratings, and how many pairs were left out."""
    read = read_ratings(ratings, mistakes)
    found = rated_pairs(read, read_captions(captions, mistakes), mistakes)
    items = []
    for pair in found.pairs:
        image = _found(images, pair.image, pair.where, mistakes)
        if image:
            shared = (pair.text, pair.language, pair.id, pair.where, pair.references, pair.values)
            items.append(Item(image, *shared))
    return items, read.kind, found.self_pairs


def _found(images: ImageFolder, name: str, where: str, mistakes: Mistakes) -> str:
    """The image's name in the folder; "" where it has none."""
    try:
        return images.find(name, where)
    except UserError as error:
        mistakes.found.append(str(error))
        return ""


def score(
    items: Sequence[Item], images: ImageFolder, scorer: Scorer, prefix: str, mistakes: Mistakes
) -> Scored:
    """Score captions; every image and every text is embedded once.

    Raises:
        UserError: an image cannot be read (and is not to be skipped), or no caption is left.
    """
    mistakes.check()
    names = list(dict.fromkeys(item.image for item in items))
    vectors = _image_vectors(names, images, scorer, mistakes)
    mistakes.check()
    left = [item for item in items if item.image in vectors]
    if not left:
        raise UserError(f"{images.folder}: no caption is left to be scored")
    with_references = all(item.references for item in left)
    texts = dict.fromkeys(item.text for item in left)
    if with_references:
        texts |= dict.fromkeys(text for item in left for text in item.references)
    number = {text: i for i, text in enumerate(texts)}
    embedded = scorer.text_features([prefix + text for text in texts])
    captions = embedded[[number[item.text] for item in left]]
    clip = clip_scores(np.stack([vectors[item.image] for item in left]), captions)
    if not with_references:
        return Scored(left, clip, None)
    own = [[number[text] for text in item.references] for item in left]
    return Scored(left, clip, ref_clip_scores(clip, reference_scores(captions, embedded, own)))


def _image_vectors(
    names: Sequence[str], images: ImageFolder, scorer: Scorer, mistakes: Mistakes
) -> dict[str, np.ndarray]:
    """Vectors of the images that can be read; where one cannot, the rest are only looked at."""
    vectors: dict[str, np.ndarray] = {}
    with progress_bar("scoring", len(names), "images", leave=None) as bar:
        for start in range(0, len(names), _OPENED):
            some = names[start : start + _OPENED]
            opened = dict(_opened(some, images.folder, scorer.background, mistakes))
            if opened and (mistakes.skip or not mistakes.found):
                vectors |= zip(opened, scorer.image_features(list(opened.values())))
            bar.update(len(some))
    return vectors


def _opened(
    names: Sequence[str], folder: Path, background: Color, mistakes: Mistakes
) -> Iterator[tuple[str, Any]]:
    for name in names:
        try:
            yield name, open_image(folder / name, background=background)
        except UserError as error:
            mistakes.found.append(str(error))


def summary(scored: Scored) -> dict[str, Any]:
    """Means over all captions, and over those of each language."""
    languages = np.array([item.language for item in scored.items])

    def means(rows: np.ndarray) -> dict[str, Any]:
        found = {"captions": int(rows.sum()), "clip_score": float(scored.clip[rows].mean())}
        if scored.ref_clip is not None:
            found["ref_clip_score"] = float(scored.ref_clip[rows].mean())
        return found

    every = np.ones(len(languages), bool)
    by_language = {code: means(languages == code) for code in sorted(set(languages.tolist()))}
    return means(every) | {"languages": by_language}


def agreement(scored: Scored, kind: str) -> dict[str, Any]:
    """Kendall's tau-b and tau-c of the scores and the ratings; each rating is a sample."""
    counts = [len(item.ratings) for item in scored.items]
    ratings = np.array([rating for item in scored.items for rating in item.ratings])
    found: dict[str, Any] = {"kind": kind, "variant": VARIANTS[kind], "samples": len(ratings)}
    for name, scores in (("clip_score", scored.clip), ("ref_clip_score", scored.ref_clip)):
        if scores is not None:
            samples = np.repeat(scores, counts)
            taus = {f"tau_{one}": kendall_tau(samples, ratings, one) for one in ("b", "c")}
            # where all ratings are one there is no order to agree with, and JSON has no NaN
            found[name] = {x: None if np.isnan(tau) else tau for x, tau in taus.items()}
    return found


def item_rows(scored: Scored) -> Iterator[dict[str, Any]]:
    """What the report says of each caption."""
    for number, item in enumerate(scored.items):
        row = {"id": item.id, "image": item.image, "language": item.language, "caption": item.text}
        row["clip_score"] = float(scored.clip[number])  # type: ignore[assignment]
        if scored.ref_clip is not None:
            row["ref_clip_score"] = float(scored.ref_clip[number])  # type: ignore[assignment]
        yield row
