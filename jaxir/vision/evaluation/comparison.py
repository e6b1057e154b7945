"""The metrics that runs of ALBEF are compared by."""

import os
from collections.abc import Iterator

from jaxir.evaluation.comparison import Metric, MetricSet, RunMetrics, by_language
from jaxir.evaluation.per_query import read_metric_sums
from jaxir.evaluation.settings import MetricSums
from jaxir.evaluation.tables import Column
from jaxir.vision.evaluation.retrieval import ImageTextReport

IMAGE_TO_TEXT = "image_to_text/monolingual/R@1"
TEXT_TO_IMAGE = "text_to_image/multilingual/R@1"
QUALITY, BIAS = "image_to_text/multilingual/R@1", "image_to_text/multilingual/rank_distance"
CLIPSCORE = "clipscore"
MAIN = (
    Metric(IMAGE_TO_TEXT, "image-to-text R@1"),
    Metric(TEXT_TO_IMAGE, "text-to-image R@1"),
    Metric(QUALITY, "image-to-text R@1 in the multilingual pool"),
    Metric(BIAS, "rank distance", higher_is_better=False, logarithmic=True),
    Metric(CLIPSCORE, "CLIPScore of the top-ranked captions"),
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


def metric_sums(report: ImageTextReport) -> dict[str, MetricSums]:
    """Sums of each metric over the queries of each question, by "direction/setting/metric"."""
    return {
        f"{direction}/{key}": sums
        for direction, values in report.values.items()
        for key, sums in values.metric_sums().items()
    }


def read_run_metrics(path: os.PathLike) -> RunMetrics:
    """Read the metrics of a run, the main ones first, then R@1 by language.

    Raises:
        UserError: there is no such file, or it is damaged.
    """
    languages, sums = read_metric_sums(path)
    return RunMetrics(languages, tuple(_metrics(languages, sums)))


def _metrics(
    languages: tuple[str, ...], sums: dict[str, MetricSums]
) -> Iterator[tuple[Metric, MetricSums]]:
    known = {
        metric.key: metric
        for metric in MAIN
        if metric.key in sums and sums[metric.key].counts.any()
    }
    for key, metric in known.items():
        yield metric, sums[key]
    for key in (IMAGE_TO_TEXT, TEXT_TO_IMAGE, CLIPSCORE):
        if key in known:
            yield from by_language(known[key], sums[key], languages).sums


ALIGNMENT = MetricSet(MAIN, QUALITY, BIAS, read_run_metrics)
