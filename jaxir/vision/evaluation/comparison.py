"""What runs that align images and texts are compared by."""

import os
from collections.abc import Iterator

from jaxir.evaluation.comparison import Comparison, Measure, Measured, by_language
from jaxir.evaluation.per_query import read_totals
from jaxir.evaluation.settings import MetricSums
from jaxir.evaluation.tables import Column
from jaxir.vision.evaluation.retrieval import ImageTextReport

IN_LANGUAGE = "image_to_text/monolingual/R@1"
QUALITY, BIAS = "image_to_text/multilingual/R@1", "image_to_text/multilingual/rank_distance"
TO_IMAGE = "text_to_image/multilingual/R@1"
CLIPSCORE = "clipscore"
MAIN = (
    Measure(IN_LANGUAGE, "image-to-text R@1"),
    Measure(TO_IMAGE, "text-to-image R@1"),
    Measure(QUALITY, "image-to-text R@1 in the pool of all languages"),
    Measure(BIAS, "rank distance", more_is_better=False, logarithmic=True),
    Measure(CLIPSCORE, "CLIPScore of the captions found"),
)
COLUMNS: tuple[Column, ...] = (
    ("image to text R@1", True, ("image_to_text", "monolingual", "R@1")),
    ("R@5", True, ("image_to_text", "monolingual", "R@5")),
    ("text to image R@1", True, ("text_to_image", "multilingual", "R@1")),
    ("R@5", True, ("text_to_image", "multilingual", "R@5")),
    ("pooled R@1", True, ("image_to_text", "multilingual", "R@1")),
    ("rank distance", False, ("image_to_text", "multilingual", "rank_distance")),
    ("CLIPScore", True, (CLIPSCORE, "mean")),
)


def totals_of(report: ImageTextReport) -> dict[str, MetricSums]:
    """What every thing depicted adds to each measure, by "direction/setting/measure"."""
    return {
        f"{direction}/{key}": totals
        for direction, values in report.values.items()
        for key, totals in values.totals().items()
    }


def read_measured(path: os.PathLike) -> Measured:
    """The measures of one run, the main ones first, then R@1 by language.

    Raises:
        UserError: there is no such file, or it is damaged.
    """
    languages, totals = read_totals(path)
    return Measured(languages, tuple(_measured(languages, totals)))


def _measured(
    languages: tuple[str, ...], totals: dict[str, MetricSums]
) -> Iterator[tuple[Measure, MetricSums]]:
    known = {one.key: one for one in MAIN if one.key in totals and totals[one.key].counts.any()}
    for key, measure in known.items():
        yield measure, totals[key]
    for key in (IN_LANGUAGE, TO_IMAGE, CLIPSCORE):
        if key in known:
            yield from by_language(known[key], totals[key], languages).totals


ALIGNMENT = Comparison(MAIN, QUALITY, BIAS, read_measured)
