"""Ranks against NumPy's sort, with ties, on one device and on eight."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxir.errors import UserError
from jaxir.evaluation.dataset import RetrievalDataset, select_queries
from jaxir.evaluation.ranks import (
    CHUNK,
    QUERIES_PER_DEVICE,
    count_ranked_above,
    count_ranked_above_by_scores,
    ranks_in_pool,
    ranks_within_language,
)

QUERIES = QUERIES_PER_DEVICE + 40  # two blocks on one device
WIDTH = 4


def make_set(rng: np.random.Generator, passages: int = 3 * CHUNK + 5) -> RetrievalDataset:
    languages = ("en", "th", "zh", "ja")  # no passage in ja
    relevant = np.array([rng.permutation(passages)[:3] for _ in range(QUERIES)])
    relevant[rng.random(QUERIES) < 0.5, 1] = -1
    relevant[7] = -1
    ids = rng.permutation([f"{number}-é" for number in range(passages)])
    return RetrievalDataset(
        name="random",
        languages=languages,
        queries=["?"] * QUERIES,
        query_ids=[str(number) for number in range(QUERIES)],
        query_language=rng.integers(0, 4, QUERIES),
        passages=["."] * passages,
        passage_ids=ids.tolist(),
        passage_language=rng.choice(3, passages, p=(0.7, 0.25, 0.05)),
        relevant=relevant,
    )


def make_embeddings(rng: np.random.Generator, rows: int) -> np.ndarray:
    """Small integers: their products are exact, and scores tie often, also at 0."""
    return rng.integers(-2, 3, (rows, WIDTH)).astype(np.float32)


@pytest.fixture
def task():
    rng = np.random.default_rng(0)
    dataset = make_set(rng)
    queries = make_embeddings(rng, QUERIES)
    passages = make_embeddings(rng, len(dataset.passages))
    return queries, passages, dataset


def sorted_ranks(scores, dataset, languages) -> np.ndarray:
    """Rank of each right answer among the passages of some languages, by sorting."""
    expected = np.zeros(dataset.relevant.shape, int)
    pool = [p for p, x in enumerate(dataset.passage_language) if x in languages]
    for query, answers in enumerate(dataset.relevant):
        by_id = sorted(pool, key=lambda p: dataset.passage_ids[p].encode(), reverse=True)
        ranking = sorted(by_id, key=lambda p: -scores[query, p])
        for column, answer in enumerate(answers):
            if answer in ranking:
                expected[query, column] = ranking.index(answer) + 1
    return expected


def test_ranks_equal_a_sort_of_all_scores(task):
    queries, passages, dataset = task
    scores = queries.astype(float) @ passages.astype(float).T
    assert len(np.unique(scores)) < 40  # else ties would go untested

    above = count_ranked_above(queries, passages, dataset)

    assert above.shape == (QUERIES, 3, 4)
    np.testing.assert_array_equal(ranks_in_pool(above), sorted_ranks(scores, dataset, (0, 1, 2)))
    within = sum(sorted_ranks(scores, dataset, (language,)) for language in range(3))
    np.testing.assert_array_equal(ranks_within_language(above, dataset), within)
    assert (above[dataset.relevant < 0] == -1).all()
    assert (above[dataset.relevant >= 0][:, 3] == 0).all()


def test_scores_computed_elsewhere_count_alike(task):
    queries, passages, dataset = task
    blocks = []

    def score(block):
        blocks.append(block)
        return queries[block] @ passages.T

    above = count_ranked_above_by_scores(score, dataset)

    np.testing.assert_array_equal(above, count_ranked_above(queries, passages, dataset))
    assert np.concatenate([np.arange(QUERIES)[block] for block in blocks]).tolist() == list(
        range(QUERIES)
    )


@pytest.mark.parametrize("axis_type", ["Explicit", "Auto"])
def test_number_of_devices_changes_nothing(axis_type):
    if jax.device_count() < 8:
        pytest.skip("needs 8 devices: XLA_FLAGS=--xla_force_host_platform_device_count=8")
    rng = np.random.default_rng(1)
    dataset = make_set(rng)
    queries = rng.standard_normal((QUERIES, 96), np.float32)
    passages = rng.standard_normal((len(dataset.passages), 96), np.float32)
    results = [count_ranked_above(queries, passages, dataset)]
    for devices in (1, 8):
        types = (getattr(jax.sharding.AxisType, axis_type),)
        mesh = jax.make_mesh((devices,), ("data",), types, devices=jax.devices()[:devices])
        with jax.set_mesh(mesh):
            results.append(count_ranked_above(queries, passages, dataset))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_order_of_passages_and_choice_of_queries_change_nothing(task):
    queries, passages, dataset = task
    above = count_ranked_above(queries, passages, dataset)

    order = np.random.default_rng(2).permutation(len(passages))
    place = np.argsort(order)
    shuffled = dataclasses.replace(
        dataset,
        passages=[dataset.passages[row] for row in order],
        passage_ids=[dataset.passage_ids[row] for row in order],
        passage_language=dataset.passage_language[order],
        relevant=np.where(dataset.relevant < 0, -1, place[dataset.relevant]),
    )
    np.testing.assert_array_equal(count_ranked_above(queries, passages[order], shuffled), above)

    rows = np.array([150, 3, 7])
    np.testing.assert_array_equal(
        count_ranked_above(queries[rows], passages, select_queries(dataset, rows)), above[rows]
    )


def test_unusable_embeddings_are_named(task):
    queries, passages, dataset = task
    with pytest.raises(UserError, match=f"{QUERIES} rows are needed"):
        count_ranked_above(queries[1:], passages, dataset)
    with pytest.raises(UserError, match="width 3, those of the passages 4"):
        count_ranked_above(queries[:, :3], passages, dataset)
    passages[5, 1] = np.nan
    with pytest.raises(UserError, match=f"passage '{dataset.passage_ids[5]}' is not finite"):
        count_ranked_above(queries, passages, dataset)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_ids": ["0"] * QUERIES}, "duplicate id '0' among the queries"),
        ({"queries": ["?"]}, "1 queries come with"),
        ({"passage_language": np.zeros(3, int)}, r"languages of shape \(3,\)"),
        ({"languages": ("en", "th")}, "not in languages"),
        ({"relevant": np.zeros((2, 1), int)}, r"relevant has shape \(2, 1\)"),
        ({"relevant": np.full((QUERIES, 1), 1000)}, "outside the"),
        ({"relevant": np.zeros((QUERIES, 2), int)}, "query '0' names a relevant passage twice"),
        ({"passages": [], "passage_ids": [], "passage_language": np.zeros(0, int)}, "no passages"),
    ],
)
def test_a_set_that_does_not_fit_together_is_refused(task, change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(task[2], **change)
