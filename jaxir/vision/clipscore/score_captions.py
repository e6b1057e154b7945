"""CLIPScores of a file's captions, and their report.

Dimension key: N captions, each with its image.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxir.errors import UserError
from jaxir.progress import progress_bar
from jaxir.vision.clipscore.candidates import (
    CandidateCaption,
    ImageFolder,
    InputErrors,
    read_captions,
    read_references,
)
from jaxir.vision.clipscore.clipscore import (
    clip_scores,
    kendall_tau,
    ref_clip_scores,
    reference_scores,
)
from jaxir.vision.clipscore.ratings import VARIANTS, rated_pairs, read_ratings
from jaxir.vision.clipscore.scorer import Scorer
from jaxir.vision.data.images import Color, open_image

_IMAGE_BATCH = 64  # images in memory


@dataclass(frozen=True)
class CaptionScores:
    """Candidate captions and their scores."""

    captions: list[CandidateCaption]
    clip: Float[np.ndarray, "N"]
    ref_clip: Float[np.ndarray, "N"] | None  # None: not every caption has a reference


def read_candidates(
    captions: Path, images: ImageFolder, references: Path | None, errors: InputErrors
) -> list[CandidateCaption]:
    """Read captions with their references: those in the caption's language, if there are any.

    Rows that cannot be used, and images of the folder without caption, are added to `errors`.
    """
    rows = read_captions(captions, errors)
    of_image: dict[str, list[tuple[str, str]]] = {}
    for name, texts in (read_references(references, errors) if references else {}).items():
        path = _resolve(images, name, f"{references}: {name!r}", errors)
        of_image.setdefault(path, []).extend(texts)
    candidates, captioned = [], set()
    for caption in rows:
        path = _resolve(images, caption.image, caption.where, errors)
        captioned.add(path)
        if not path:
            continue
        texts = of_image.get(path, [])
        same_language = [text for code, text in texts if code == caption.language]
        chosen = tuple(same_language or [text for _, text in texts])
        if references and not chosen:
            errors.messages.append(f"{caption.where}: a caption without reference in {references}")
            continue
        candidates.append(replace(caption, image=path, references=chosen))
    errors.messages += images.without_caption(captioned | errors.images)
    return candidates


def read_rated_candidates(
    captions: Path, images: ImageFolder, ratings: Path, errors: InputErrors
) -> tuple[list[CandidateCaption], str, int]:
    """Read the pairs that people rated.

    Returns:
        The pairs, the kind of their ratings, and the number of pairs that the protocol leaves out.
    """
    rows = read_ratings(ratings, errors)
    rated = rated_pairs(rows, read_captions(captions, errors), errors)
    candidates = []
    for pair in rated.pairs:
        path = _resolve(images, pair.image, pair.where, errors)
        if path:
            candidates.append(replace(pair, image=path))
    return candidates, rows.kind, rated.self_pairs


def _resolve(images: ImageFolder, name: str, where: str, errors: InputErrors) -> str:
    """Path of an image below the folder; "" where it has none."""
    try:
        return images.find(name, where)
    except UserError as error:
        errors.messages.append(str(error))
        return ""


def score_captions(
    candidates: Sequence[CandidateCaption],
    images: ImageFolder,
    scorer: Scorer,
    prefix: str,
    errors: InputErrors,
) -> CaptionScores:
    """Score captions; every image and every text is embedded once.

    Raises:
        UserError: an image cannot be read (and is not to be skipped), or no caption is left.
    """
    errors.check()
    paths = list(dict.fromkeys(caption.image for caption in candidates))
    vectors = _image_vectors(paths, images, scorer, errors)
    errors.check()
    captions = [caption for caption in candidates if caption.image in vectors]
    if not captions:
        raise UserError(f"{images.folder}: no caption is left to be scored")
    with_references = all(caption.references for caption in captions)
    texts = dict.fromkeys(caption.text for caption in captions)
    if with_references:
        texts |= dict.fromkeys(text for caption in captions for text in caption.references)
    row = {text: i for i, text in enumerate(texts)}
    text_vectors = scorer.text_features([prefix + text for text in texts])
    caption_vectors = text_vectors[[row[caption.text] for caption in captions]]
    clip = clip_scores(np.stack([vectors[caption.image] for caption in captions]), caption_vectors)
    if not with_references:
        return CaptionScores(captions, clip, None)
    reference_rows = [[row[text] for text in caption.references] for caption in captions]
    nearest = reference_scores(caption_vectors, text_vectors, reference_rows)
    return CaptionScores(captions, clip, ref_clip_scores(clip, nearest))


def _image_vectors(
    paths: Sequence[str], images: ImageFolder, scorer: Scorer, errors: InputErrors
) -> dict[str, np.ndarray]:
    """Vectors of the images that can be read.

    After an error that is not to be skipped the other images are only opened, to count all errors.
    """
    vectors: dict[str, np.ndarray] = {}
    with progress_bar("scoring", len(paths), "images", leave=None) as bar:
        for start in range(0, len(paths), _IMAGE_BATCH):
            batch = paths[start : start + _IMAGE_BATCH]
            opened = dict(_open_images(batch, images.folder, scorer.background, errors))
            if opened and (errors.skip or not errors.messages):
                vectors |= zip(opened, scorer.image_features(list(opened.values())))
            bar.update(len(batch))
    return vectors


def _open_images(
    paths: Sequence[str], folder: Path, background: Color, errors: InputErrors
) -> Iterator[tuple[str, Any]]:
    for path in paths:
        try:
            yield path, open_image(folder / path, background=background)
        except UserError as error:
            errors.messages.append(str(error))


def summary(scores: CaptionScores) -> dict[str, Any]:
    """Mean scores over all captions and by language."""
    languages = np.array([caption.language for caption in scores.captions])

    def means(rows: np.ndarray) -> dict[str, Any]:
        report = {"captions": int(rows.sum()), "clip_score": float(scores.clip[rows].mean())}
        if scores.ref_clip is not None:
            report["ref_clip_score"] = float(scores.ref_clip[rows].mean())
        return report

    everything = np.ones(len(languages), bool)
    by_language = {code: means(languages == code) for code in sorted(set(languages.tolist()))}
    return means(everything) | {"languages": by_language}


def agreement(scores: CaptionScores, kind: str) -> dict[str, Any]:
    """Kendall's tau-b and tau-c of scores and human ratings; each rating is a sample."""
    counts = [len(caption.ratings) for caption in scores.captions]
    ratings = np.array([rating for caption in scores.captions for rating in caption.ratings])
    report: dict[str, Any] = {"kind": kind, "variant": VARIANTS[kind], "samples": len(ratings)}
    for name, values in (("clip_score", scores.clip), ("ref_clip_score", scores.ref_clip)):
        if values is not None:
            samples = np.repeat(values, counts)
            taus = {f"tau_{x}": kendall_tau(samples, ratings, x) for x in ("b", "c")}
            # tau is not defined where all ratings are equal, and JSON has no NaN
            report[name] = {x: None if np.isnan(tau) else tau for x, tau in taus.items()}
    return report


def caption_rows(scores: CaptionScores) -> Iterator[dict[str, Any]]:
    """Rows of the report, one for each caption."""
    for index, caption in enumerate(scores.captions):
        row: dict[str, Any] = {
            "id": caption.id,
            "image": caption.image,
            "language": caption.language,
            "caption": caption.text,
            "clip_score": float(scores.clip[index]),
        }
        if scores.ref_clip is not None:
            row["ref_clip_score"] = float(scores.ref_clip[index])
        yield row
