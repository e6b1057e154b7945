"""The batch of a step is a pure function of (seed, step), with the languages its kind says."""

import dataclasses
import json
from collections import Counter

import numpy as np
import pytest

from jaxir.config import DataConfig, HybridConfig, Shares, Source
from jaxir.data.collection import read_collection
from jaxir.data.hybrid import KINDS, Hybrid
from jaxir.errors import UserError


def _rows(path, groups, languages, first=0):
    lines = [
        {"id": f"{g}", "query": f"q {g} {x}", "passage": f"p {g} {x}"}
        | {"query_lang": x, "passage_lang": x}
        for g in range(first, first + groups)
        for x in languages
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Source(path=path.name)


@pytest.fixture
def collection(tmp_path):
    sources = (
        _rows(tmp_path / "a.jsonl", 70, ("de", "en", "fr")),
        _rows(tmp_path / "b.jsonl", 30, ("en", "fr"), first=1_000),
    )
    return read_collection(DataConfig(directory=str(tmp_path), sources=sources))


ALL = Shares(1, 1, 1, 1, 1)


def _hybrid(collection, batch_size=16, seed=3, **options):
    return Hybrid(collection, HybridConfig(**options), batch_size, seed)


@pytest.mark.parametrize("options", [{}, {"pair_per": "batch"}, {"one_source_batches": True}])
def test_every_kind_draws_the_languages_it_says(collection, options):
    hybrid = _hybrid(collection, shares=ALL, **options)
    english = collection.languages.index("en")
    for step in range(100):
        batch = hybrid.batch(step)
        x, y = batch.query_language, batch.passage_language
        match batch.kind:
            case "monolingual":
                assert (x == x[0]).all()
                assert (x == y).all()
            case "mixed_monolingual":
                assert (x == y).all()
                assert len(set(x)) > 1
            case "cross_lingual":
                assert (x != y).all()
                assert options.get("pair_per") != "batch" or len({*zip(x, y)}) == 1
            case "multilingual":
                assert (x == y).any()
                assert (x != y).any()
            case "english":
                assert (x == english).all()
                assert (y == english).all()
        assert (collection.query[batch.groups, x] >= 0).all()
        assert (collection.passage[batch.groups, y] >= 0).all()
        if options.get("one_source_batches"):
            assert (collection.source[batch.groups] == batch.source).all()


def test_every_row_of_a_stream_once_an_epoch_and_in_another_order_in_the_next(collection):
    hybrid = _hybrid(collection, batch_size=10, shares=Shares(0, 0, 0, 0, english=1))
    epochs = [
        np.concatenate([hybrid.batch(step).groups for step in range(10 * e, 10 * e + 10)])
        for e in range(3)
    ]
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(100))
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[1], epochs[2])


def test_rows_of_pairs_are_each_used_once_an_epoch(collection):
    hybrid = _hybrid(collection, batch_size=8, shares=Shares(0, 0, 1, 0, 0))
    seen: dict[tuple, list[int]] = {}
    for step in range(200):
        batch = hybrid.batch(step)
        for group, x, y in zip(batch.groups, batch.query_language, batch.passage_language):
            seen.setdefault((x, y), []).append(int(group))
    counts = [len(groups) for groups in seen.values()]
    assert max(counts) - min(counts) <= 1
    for groups in seen.values():
        size = 100 if len(groups) > 100 and len(set(groups)) == 100 else 70
        for first in range(0, len(groups) - size, size):
            assert len(set(groups[first : first + size])) == size


def test_batches_do_not_depend_on_what_was_asked_before(collection):
    one, other = (_hybrid(collection, shares=ALL) for _ in range(2))
    forwards = [one.batch(step) for step in range(40)]
    backwards = [other.batch(step) for step in reversed(range(40))][::-1]
    for a, b in zip(forwards, backwards):
        assert a.kind == b.kind
        np.testing.assert_array_equal(a.groups, b.groups)
        np.testing.assert_array_equal(a.query_language, b.query_language)


def test_another_seed_is_another_order(collection):
    a, b = (_hybrid(collection, seed=seed).batch(0).groups for seed in (1, 2))
    assert not np.array_equal(a, b)


def test_languages_agrees_with_batch(collection):
    hybrid = _hybrid(collection, shares=ALL)
    for step in range(30):
        batch, (kind, cells) = hybrid.batch(step), hybrid.languages(step)
        assert kind == batch.kind == hybrid.kind(step)
        np.testing.assert_array_equal(cells[:, 0], batch.query_language)
        np.testing.assert_array_equal(cells[:, 1], batch.passage_language)


@pytest.mark.parametrize(
    ("weights", "expected"), [("uniform", (1, 1, 1)), ("size", (70, 100, 100))]
)
def test_languages_are_weighted(collection, weights, expected):
    hybrid = _hybrid(collection, shares=Shares(1, 0, 0, 0, 0), language_weights=weights)
    used = Counter(int(hybrid.batch(step).query_language[0]) for step in range(270))
    exact = 270 * np.array(expected) / sum(expected)
    assert np.abs(np.array([used[x] for x in range(3)]) - exact).max() < 1


def test_temperature_lies_between_uniform_and_size(collection):
    used = {}
    for temperature in (1.0, 2.0, 1e9):
        hybrid = _hybrid(
            collection,
            shares=Shares(1, 0, 0, 0, 0),
            language_weights="temperature",
            language_temperature=temperature,
        )
        kinds = [int(hybrid.languages(step)[1][0, 0]) for step in range(2_000)]
        used[temperature] = kinds.count(0) / 2_000
    assert used[1.0] == pytest.approx(70 / 270, abs=1e-3)
    assert used[2.0] == pytest.approx(70**0.5 / (70**0.5 + 20), abs=1e-3)
    assert used[1e9] == pytest.approx(1 / 3, abs=1e-3)


def test_a_kind_that_the_data_cannot_serve_is_named(tmp_path):
    source = _rows(tmp_path / "a.jsonl", 5, ("de",))
    collection = read_collection(DataConfig(directory=str(tmp_path), sources=(source,)))
    for kind in ("cross_lingual", "english"):
        shares = dataclasses.replace(Shares(0, 0, 0, 0, 0), **{kind: 0.5})
        with pytest.raises(UserError, match=rf"shares\.{kind} = 0\.5: the data has no row"):
            _hybrid(collection, shares=shares)


def test_kinds_are_the_fields_of_shares():
    assert [field.name for field in dataclasses.fields(Shares)] == list(KINDS)
