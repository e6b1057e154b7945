"""Exact search against NumPy's sort: devices, chunks, order, dtypes and ties change nothing."""

import math
import re
from functools import cache

import jax
import ml_dtypes
import numpy as np
import pytest

from jaxir.errors import UserError
from jaxir.retrieval import chunks, scoring, topk
from jaxir.retrieval.chunks import put_on_devices
from jaxir.retrieval.topk import search
from jaxir.retrieval.vectors import Vectors, make_vectors, select_rows

QUERIES, PASSAGES, WIDTH, K = 37, 5_003, 16, 20


@pytest.fixture(scope="module")
def embeddings():
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((QUERIES, WIDTH)).astype(np.float32)
    passages = rng.standard_normal((PASSAGES, WIDTH)).astype(np.float32)
    return queries, passages


@pytest.fixture
def small_chunks(monkeypatch):
    """Several chunks of a small index in small groups, so that all ways of merging are taken."""
    monkeypatch.setattr(chunks, "CHUNK_ROWS", 1_024)
    monkeypatch.setattr(scoring, "GROUP_ROWS", 4)
    monkeypatch.setattr(scoring, "GROUP_COUNTS", (2, 6, 12))
    scoring.compile_update.cache_clear()
    yield
    scoring.compile_update.cache_clear()


def sorted_indices(queries, passages, k, tie_order=None):
    """By float64 scores, then by tie order or by row."""
    scores = queries.astype(float) @ passages.astype(float).T
    ties = np.arange(len(passages)) if tie_order is None else tie_order
    return np.stack([np.lexsort((ties, -row))[:k] for row in scores])


def test_equals_a_sort_of_float64_scores_on_any_devices(mesh, embeddings, small_chunks):
    queries, passages = embeddings
    found = search(queries, make_vectors(passages), K)
    indices = sorted_indices(queries, passages, K)
    np.testing.assert_array_equal(found.indices, indices)
    exact = np.einsum("qd,qkd->qk", queries.astype(float), passages[indices].astype(float))
    np.testing.assert_allclose(found.scores, exact, rtol=0, atol=1e-5)


@pytest.mark.parametrize("chunk_bytes", [1, 1 << 17, 1 << 30])
def test_chunks_and_vectors_on_devices_change_nothing(mesh, embeddings, small_chunks, chunk_bytes):
    queries, passages = embeddings
    whole = search(queries, make_vectors(passages), K)
    streamed = search(queries, make_vectors(passages), K, chunk_bytes=chunk_bytes)
    placed = put_on_devices(make_vectors(passages))
    np.testing.assert_array_equal(streamed.indices, whole.indices)
    np.testing.assert_array_equal(streamed.scores, whole.scores)
    for _ in range(2):
        np.testing.assert_array_equal(search(queries, placed, K).indices, whole.indices)


def test_ties_go_by_the_order_given_also_across_the_end_of_the_list(mesh, small_chunks):
    rng = np.random.default_rng(1)
    # products of small integers are exact, and there are only a few different ones
    queries = rng.integers(-1, 2, (QUERIES, 4)).astype(np.float32)
    passages = rng.integers(-1, 2, (3_000, 4)).astype(np.float32)
    order = rng.permutation(3_000)
    for k in (1, 7, 400):
        by_row = search(queries, make_vectors(passages), k)
        np.testing.assert_array_equal(by_row.indices, sorted_indices(queries, passages, k))
        given = search(queries, make_vectors(passages), k, tie_order=order)
        np.testing.assert_array_equal(given.indices, sorted_indices(queries, passages, k, order))


def test_order_of_the_index_changes_nothing(embeddings):
    queries, passages = embeddings
    duplicated = np.concatenate([passages[:200], passages[:200]])
    ids = np.arange(400)
    shuffle = np.random.default_rng(2).permutation(400)
    straight = search(queries, make_vectors(duplicated), K, tie_order=ids)
    mixed = search(queries, make_vectors(duplicated[shuffle]), K, tie_order=ids[shuffle])
    np.testing.assert_array_equal(shuffle[mixed.indices], straight.indices)


def test_k_beyond_the_collection_gives_all_of_it(mesh, embeddings):
    queries, passages = embeddings
    found = search(queries, make_vectors(passages[:9]), 50)
    assert found.indices.shape == found.scores.shape == (QUERIES, 9)
    np.testing.assert_array_equal(found.indices, sorted_indices(queries, passages[:9], 9))


def test_more_queries_than_a_block_and_one_query_alone(monkeypatch, embeddings):
    queries, passages = embeddings
    whole = search(queries, make_vectors(passages), K)
    monkeypatch.setattr(topk, "QUERY_BLOCK", 16)
    np.testing.assert_array_equal(search(queries, make_vectors(passages), K).indices, whole.indices)
    one = search(queries[3:4], make_vectors(passages), K)
    np.testing.assert_array_equal(one.indices, whole.indices[3:4])


@pytest.mark.parametrize("matrix_units", [False, True])
@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_smaller_dtypes_rank_what_they_hold(mesh, embeddings, dtype, matrix_units, monkeypatch):
    monkeypatch.setattr(scoring, "_has_matrix_units", lambda mesh: matrix_units)
    monkeypatch.setattr(topk, "compile_update", cache(scoring.compile_update.__wrapped__))
    queries, passages = embeddings
    index = make_vectors(passages, dtype)
    held = index.as_float32()
    if dtype == "bfloat16":
        np.testing.assert_array_equal(held, passages.astype(ml_dtypes.bfloat16).astype(np.float32))
    else:
        step = np.abs(passages).max(axis=1, keepdims=True) / 127
        assert (np.abs(held - passages) <= step / 2 + 1e-6).all()
    rounded = queries.astype(ml_dtypes.bfloat16)
    scores = rounded.astype(float) @ held.astype(float).T
    found = search(queries, index, K)
    best = -np.sort(-scores, axis=1)[:, :K]
    np.testing.assert_allclose(found.scores, best, rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(scores, found.indices, 1), best, atol=1e-5)
    part = search(queries, select_rows(index, np.arange(50, 90)), 5)
    np.testing.assert_allclose(part.scores, -np.sort(-scores[:, 50:90], axis=1)[:, :5], atol=1e-5)


def test_a_memory_mapped_index_is_read_from_disk(tmp_path, embeddings):
    queries, passages = embeddings
    np.save(tmp_path / "index.npy", passages)
    mapped = np.load(tmp_path / "index.npy", mmap_mode="r")
    found = search(queries, Vectors(mapped), K, chunk_bytes=1 << 16)
    np.testing.assert_array_equal(found.indices, sorted_indices(queries, passages, K))


def test_approximate_search_reaches_its_recall(embeddings):
    queries, passages = embeddings
    exact = search(queries, make_vectors(passages), K).indices
    near = search(queries, make_vectors(passages), K, approximate_recall=0.9).indices
    hits = [len(set(one) & set(other)) for one, other in zip(exact, near)]
    assert np.mean(hits) / K >= 0.9


def test_no_array_holds_all_scores(small_chunks):
    """A program holds a chunk's scores, never queries x passages."""
    (mesh,) = {put_on_devices(make_vectors(np.ones((64, 4)))).mesh}
    most = 1_024 * mesh.size
    placed = put_on_devices(make_vectors(np.ones((64 * most, 4), np.float32)))
    assert [len(chunk.rows) for chunk in placed.chunks] == [most] * 64
    chunk, lists = placed.chunks[0], (np.zeros((256, K), np.float32), np.zeros((256, K), np.int32))
    arguments = np.zeros((256, 4), np.float32), chunk.rows, chunk.scales, *lists, 0, 64 * most
    jaxpr = str(jax.make_jaxpr(scoring.compile_update(mesh, K, None))(*arguments))
    shapes = re.findall(r"[fi]32\[([\d,]+)\]", jaxpr)
    assert max(math.prod(map(int, shape.split(","))) for shape in shapes) == 256 * 1_024


@pytest.mark.parametrize("rows", [257, 1_024, 1_027, 3_000])
def test_padding_is_never_found(mesh, small_chunks, rows):
    """It scores 0, more than any of these rows."""
    rng = np.random.default_rng(3)
    queries, passages = rng.random((QUERIES, WIDTH)), -0.1 - rng.random((rows, WIDTH))
    found = search(queries, make_vectors(passages), K)
    singles = queries.astype(np.float32), passages.astype(np.float32)
    np.testing.assert_array_equal(found.indices, sorted_indices(*singles, K))


@pytest.mark.parametrize("filled", [-5, 0, 1, 4, 7, 8, 10, 11, 12, 99])
def test_highest_of_groups_leaves_padding_out(filled):
    scores = np.random.default_rng(4).standard_normal((5, 3, 4)).astype(np.float32)
    masked = np.where(np.arange(12).reshape(3, 4) < filled, scores, -np.inf)
    highest = scoring._group_maxima(jax.numpy.asarray(scores), jax.numpy.int32(filled))
    np.testing.assert_array_equal(highest, masked.max(axis=2))


def test_unusable_input_is_named(embeddings):
    queries, passages = embeddings
    index = make_vectors(passages)
    with pytest.raises(UserError, match="the index has width 16: encode both with one model"):
        search(queries[:, :3], index, 5)
    with pytest.raises(UserError, match="k = 0: must be 1 or more"):
        search(queries, index, 0)
    broken = queries.copy()
    broken[5, 2] = np.nan
    with pytest.raises(UserError, match="the embedding of query 5 is not finite"):
        search(broken, index, 5)
    for value, dtype in ((np.nan, "float32"), (np.inf, "bfloat16")):
        damaged = passages.copy()
        damaged[4_321, 7] = value
        with pytest.raises(UserError, match="the embedding of passage 4321 is not finite"):
            search(queries, make_vectors(damaged, dtype), 5)
        with pytest.raises(UserError, match="the embedding of passage 4321 is not finite"):
            put_on_devices(make_vectors(damaged, dtype))
    damaged = make_vectors(passages, "int8")
    damaged.scales[17] = np.nan
    with pytest.raises(UserError, match="passage 17 is not finite"):
        search(queries, damaged, 5)
    with pytest.raises(UserError, match="float64 of shape"):
        Vectors(passages.astype(float))
    with pytest.raises(UserError, match="int8 rows need scales"):
        Vectors(passages.astype(np.int8))
