"""Image-text retrieval against NumPy's sort, with ties, copies in other styles and ITM scores."""

import json

import numpy as np
import pytest

from jaxir.errors import UserError
from jaxir.evaluation.significance import compare
from jaxir.vision.evaluation.pool import Pool, relevant_candidates
from jaxir.vision.evaluation.retrieval import METRICS, evaluate_retrieval, evaluate_scores

LANGUAGES = ("ar", "en", "th")
WIDTH = 3


@pytest.fixture
def pool() -> Pool:
    """Several pictures and captions of a group; captions without an image and the reverse."""
    rng = np.random.default_rng(0)
    return Pool(
        LANGUAGES,
        image_group=rng.integers(0, 12, 20),
        caption_group=np.concatenate([rng.integers(0, 12, 69), [99]]),
        caption_language=np.concatenate([rng.choice(2, 69, p=(0.7, 0.3)), [2]]),
    )


def small_integers(rows: int, seed: int) -> np.ndarray:
    """Their products are exact and tie often."""
    return np.random.default_rng(seed).integers(-2, 3, (rows, WIDTH)).astype(np.float32)


@pytest.fixture
def vectors(pool) -> tuple[np.ndarray, np.ndarray]:
    return small_integers(len(pool.image_group), 1), small_integers(len(pool.caption_group), 2)


def match_scores(images: np.ndarray, captions: np.ndarray) -> np.ndarray:
    return ((images * 7 + captions * 5) % 4).astype(np.float32)  # ties too


def order_of(scores: np.ndarray, among: np.ndarray, match=None, k: int = 0) -> np.ndarray:
    """Answers best first; of equal ones the later row; the first k by match score, stably."""
    order = among[np.lexsort((-among, -scores[among]))]
    if match is not None:
        first = order[:k]
        order = np.concatenate([first[np.argsort(-match[first], kind="stable")], order[k:]])
    return order


def expected_ranks(scores, query_group, answer_group, among, match=None, k=0) -> list[np.ndarray]:
    """Ranks of the right answers of every query."""
    ranks = []
    for row, group in enumerate(query_group):
        order = order_of(scores[row], among, None if match is None else match[row], k)
        ranks.append(1 + np.flatnonzero(answer_group[order] == group))
    return ranks


def recall(ranks: list[np.ndarray], k: int) -> np.ndarray:
    return np.array([np.nan if not len(of) else float(of.min() <= k) for of in ranks])


@pytest.mark.parametrize("with_match", [False, True])
def test_both_directions_equal_a_sort(mesh, pool, vectors, with_match):
    images, captions = vectors
    scores, k = images @ captions.T, 6
    every_image, every_caption = np.arange(len(images)), np.arange(len(captions))
    match = match_scores(every_image[:, None], every_caption) if with_match else None
    report = evaluate_retrieval(
        images, captions, pool, match_scores=match_scores if with_match else None, candidates=k
    )
    there, back = report.values["image_to_text"], report.values["text_to_image"]
    pooled = expected_ranks(scores, pool.image_group, pool.caption_group, every_caption, match, k)
    reverse = expected_ranks(
        scores.T,
        pool.caption_group,
        pool.image_group,
        every_image,
        None if match is None else match.T,
        k,
    )
    for name, at in (("R@1", 1), ("R@5", 5), ("R@10", 10)):
        for number in range(len(LANGUAGES)):
            among = np.flatnonzero(pool.caption_language == number)
            within = expected_ranks(scores, pool.image_group, pool.caption_group, among, match, k)
            own = there.query_language == number
            np.testing.assert_array_equal(there.by_language[name][own, number], recall(within, at))
            np.testing.assert_array_equal(there.in_pool[name][own], recall(pooled, at))
        np.testing.assert_array_equal(back.in_pool[name], recall(reverse, at))
    distance = [of.max() - of.min() if len(of) > 1 else np.nan for of in pooled]
    np.testing.assert_array_equal(there.in_pool["rank_distance"][: len(images)], distance)


def test_figures_are_means_over_queries_then_languages(pool, vectors):
    report = evaluate_retrieval(*vectors, pool)
    values = report.values["image_to_text"].by_language["R@5"]
    own = values[: len(pool.image_group)]
    means = [np.nanmean(own[:, 0]), np.nanmean(own[:, 1])]  # nothing is right in the third
    summary = report.summary()
    assert summary["image_to_text/monolingual/R@5"] == pytest.approx(np.mean(means))
    assert report.by_language("R@5")["ar"][0] == pytest.approx(means[0])
    back = report.values["text_to_image"].in_pool["R@5"]
    arabic = np.nanmean(back[pool.caption_language == 0])
    assert report.by_language("R@5")["ar"][1] == pytest.approx(arabic)
    assert {key.split("/")[-1] for key in summary} == {*METRICS, "rank_distance"}
    written = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert written["captions"] == {
        name: int((pool.caption_language == number).sum()) for number, name in enumerate(LANGUAGES)
    }


def test_scores_measure_as_their_features_do(pool, vectors):
    """Also with scores of a kind that no features have."""
    images, captions = vectors
    expected = evaluate_retrieval(images, captions, pool)
    report = evaluate_scores(images @ captions.T, pool)
    assert report.to_dict() == expected.to_dict()
    other = evaluate_scores((images @ captions.T) ** 3 + 7, pool)
    assert other.to_dict() == expected.to_dict()


def test_chance_is_the_share_of_right_answers(pool, vectors):
    """What random features reach on average."""
    chance = evaluate_retrieval(*vectors, pool).chance
    rng = np.random.default_rng(3)
    english = np.flatnonzero(pool.caption_language == 1)
    drawn = [
        pool.caption_group[rng.choice(english)] == group
        for group in pool.image_group
        if group in pool.caption_group[english]
        for _ in range(2_000)
    ]
    assert chance["image_to_text/en"] == pytest.approx(np.mean(drawn), abs=0.01)
    assert np.isnan(chance["image_to_text/th"])


def test_relevant_candidates_are_those_of_the_group():
    right = relevant_candidates(np.array([4, 4, 5, 9]), np.array([4, 5, 4]))
    np.testing.assert_array_equal(right, [[0, 2], [0, 2], [1, -1], [-1, -1]])


def test_questions_are_what_is_depicted_in_both_directions(pool, vectors):
    """So that a paired test draws an image's captions, styles and languages together."""
    report = evaluate_retrieval(*vectors, pool)
    there, back = report.values["image_to_text"], report.values["text_to_image"]
    for number, group in zip(there.question, np.tile(pool.image_group, 3)):
        assert (pool.caption_group[back.question == number] == group).all()
    other = evaluate_retrieval(vectors[0][::-1], vectors[1], pool)
    same = compare(there, report.values["image_to_text"], permutations=50)
    assert same["multilingual/R@1"].p_value == 1
    changed = compare(there, other.values["image_to_text"], permutations=50)
    assert changed["multilingual/rank_distance"].difference != 0


def test_refuses_what_does_not_fit(pool, vectors):
    images, captions = vectors
    with pytest.raises(UserError, match="3 groups of captions come with 2 languages"):
        Pool(("en",), np.arange(3), np.arange(3), np.zeros(2, int))
    with pytest.raises(UserError, match="0 images"):
        Pool(("en",), np.arange(0), np.arange(3), np.zeros(3, int))
    with pytest.raises(UserError, match="19"):
        evaluate_retrieval(images[1:], captions, pool)
    with pytest.raises(UserError, match="match score is not finite"):
        evaluate_retrieval(images, captions, pool, lambda images, captions: images * np.nan)
