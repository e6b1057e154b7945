"""The three settings against a plain reading of their definitions."""

import json
import math

import numpy as np
import pytest

from jaxir.evaluation.dataset import RetrievalDataset
from jaxir.evaluation.metrics import METRICS
from jaxir.evaluation.ranks import count_ranked_above_by_scores
from jaxir.evaluation.settings import evaluate_settings

LANGUAGES = ("de", "en", "hi")


def make_set(rng: np.random.Generator, groups: int = 20) -> RetrievalDataset:
    """Parallel questions, each with one answer in two or three languages; none is asked in hi."""
    passage_language = np.repeat(np.arange(3), groups)
    relevant = np.array([[group, groups + group, 2 * groups + group] for group in range(groups)])
    relevant[::4, 2] = -1
    return RetrievalDataset(
        name="parallel",
        languages=LANGUAGES,
        queries=["?"] * 2 * groups,
        query_ids=[f"q{number}" for number in range(2 * groups)],
        query_language=np.repeat([0, 1], groups),
        passages=["."] * 3 * groups,
        passage_ids=[f"p{number}" for number in range(3 * groups)],
        passage_language=passage_language,
        relevant=np.concatenate([relevant, relevant]),
        question=np.tile(np.arange(groups), 2),
    )


@pytest.fixture
def task():
    rng = np.random.default_rng(0)
    dataset = make_set(rng)
    scores = rng.random((len(dataset.queries), len(dataset.passages)), np.float32)
    return scores, dataset


def average_precision(scores, pool, answers):
    """By the definition, over the passages of `pool`."""
    ranking = sorted(pool, key=lambda row: -scores[row])
    ranks = sorted(ranking.index(row) + 1 for row in answers if row in pool)
    return np.mean([(n + 1) / rank for n, rank in enumerate(ranks)]) if ranks else math.nan


def test_settings_follow_their_definitions(task):
    scores, dataset = task
    report = evaluate_settings(
        count_ranked_above_by_scores(lambda block: scores[block], dataset), dataset
    )
    relevant, asked = dataset.relevant, dataset.query_language
    matrix = np.full((3, 3), np.nan)
    pool = np.full(3, np.nan)
    for x in (0, 1):
        queries = np.flatnonzero(asked == x)
        for y in range(3):
            rows = np.flatnonzero(dataset.passage_language == y).tolist()
            values = [average_precision(scores[q], rows, relevant[q]) for q in queries]
            matrix[x, y] = np.nanmean(values)
        everything = range(len(dataset.passages))
        pool[x] = np.mean([average_precision(scores[q], everything, relevant[q]) for q in queries])

    np.testing.assert_allclose(report.matrix["map"], matrix)
    np.testing.assert_allclose(report.pool["map"], pool)
    assert report.monolingual["map"] == pytest.approx((matrix[0, 0] + matrix[1, 1]) / 2)
    cross = [matrix[0, 1], matrix[0, 2], matrix[1, 0], matrix[1, 2]]
    assert report.cross_lingual["map"] == pytest.approx(np.mean(cross))
    assert report.multilingual["map"] == pytest.approx((pool[0] + pool[1]) / 2)


def test_rank_distance_is_taken_in_the_pool(task):
    scores, dataset = task
    report = evaluate_settings(
        count_ranked_above_by_scores(lambda block: scores[block], dataset), dataset
    )
    places = np.argsort(np.argsort(-scores, axis=1), axis=1)
    distances = np.array(
        [np.ptp(places[q][row[row >= 0]]) for q, row in enumerate(dataset.relevant)]
    )
    by_language = [distances[dataset.query_language == x].mean() for x in (0, 1)]
    assert report.multilingual["rank_distance"] == pytest.approx(np.mean(by_language))


def test_a_perfect_score_earns_one_in_every_setting(task):
    scores, dataset = task
    for query, answers in enumerate(dataset.relevant):
        scores[query, answers[answers >= 0]] += 2
    report = evaluate_settings(
        count_ranked_above_by_scores(lambda block: scores[block], dataset), dataset
    )
    summary = report.summary()
    assert {f"{x}/{name}" for x in ("monolingual", "cross_lingual") for name in METRICS} < set(
        summary
    )
    for name, value in summary.items():
        if name == "multilingual/rank_distance":
            assert 1 <= value <= 2
        elif name == "multilingual/peer":
            assert 0 < value < 1
        else:
            assert value == pytest.approx(1), name


def test_report_is_json_with_null_where_nothing_was_asked(task):
    scores, dataset = task
    report = evaluate_settings(
        count_ranked_above_by_scores(lambda block: scores[block], dataset), dataset
    )
    read = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert read["languages"] == list(LANGUAGES)
    assert read["matrix"]["map"][2] == [None] * 3
    assert read["pool"]["rank_distance"][2] is None
    assert read["monolingual"]["map"] == report.monolingual["map"]
    assert (read["queries"], read["passages"]) == (40, 60)
