"""The collection: parallel groups, clusters, cells and the held-out split, against plain Python."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from jaxir.config import DataConfig, Source
from jaxir.data.collection import cell_groups, read_collection, take_groups
from jaxir.data.held_out import split_held_out
from jaxir.errors import UserError

DATA = Path(__file__).parents[1].parent / "shared/data"
LANGUAGES = ("ar", "de", "en", "th")


def record(row_id, query, passage, query_language="en", passage_language="en", negatives=()):
    return {
        "id": row_id,
        "query": query,
        "passage": passage,
        "query_lang": query_language,
        "passage_lang": passage_language,
        "hard_negatives": list(negatives),
    }


def write(directory: Path, records, name="x.jsonl"):
    (directory / name).write_text("".join(json.dumps(line) + "\n" for line in records))


def read(directory: Path, *records, **options):
    write(directory, records)
    return read_collection(DataConfig(str(directory), (Source("jsonl", "x.jsonl"),), **options))


def random_records(rng, groups=60):
    """Rows of parallel groups; passages are shared between groups, some rows stand twice."""
    records = []
    for group in range(groups):
        passage = int(rng.integers(groups))
        for query_language in rng.permutation(LANGUAGES)[: rng.integers(1, 5)]:
            for passage_language in rng.permutation(LANGUAGES)[: rng.integers(1, 3)]:
                records.append(
                    record(
                        f"g{group}",
                        f"q {group} {query_language}",
                        f"p {passage} {passage_language}",
                        str(query_language),
                        str(passage_language),
                        [f"n {x}" for x in rng.integers(20, size=rng.integers(3))],
                    )
                )
    return [records[x] for x in rng.integers(len(records), size=2 * len(records))]


@pytest.mark.parametrize("seed", range(3))
def test_tables_hold_every_row(tmp_path, seed):
    records = random_records(np.random.default_rng(seed))
    collection = read(tmp_path, *records)
    assert collection.languages == tuple(sorted({x["query_lang"] for x in records}))
    assert len(set(collection.texts)) == len(collection.texts)
    queries, passages, negatives = {}, {}, {}
    for x in records:
        group = f"x.jsonl:{x['id']}"
        queries[group, x["query_lang"]] = x["query"]
        passages[group, x["passage_lang"]] = x["passage"]
        here = negatives.setdefault((group, x["passage_lang"]), [])
        here += [text for text in dict.fromkeys(x["hard_negatives"]) if text not in here]
    for table, expected in ((collection.query, queries), (collection.passage, passages)):
        places = {
            (collection.ids[group], collection.languages[language]): collection.texts[
                table[group, language]
            ]
            for group, language in np.argwhere(table >= 0)
        }
        assert places == expected
    for group, name in enumerate(collection.ids):
        for column, language in enumerate(collection.languages):
            found = [collection.texts[x] for x in collection.hard_negatives_of(group, column)]
            assert found == negatives.get((name, language), [])
    pairs = {(x["id"], x["query_lang"], x["passage_lang"]) for x in records}
    assert collection.ids == list(dict.fromkeys(f"x.jsonl:{x['id']}" for x in records))
    assert collection.report["rows"] == len(records)
    assert collection.report["repeated"] == len(records) - len(pairs)
    assert collection.report["queries"] == {
        language: sum(key[1] == language for key in queries) for language in collection.languages
    }


@pytest.mark.parametrize("seed", range(3))
def test_clusters_are_the_closure_of_sharing_a_passage(tmp_path, seed):
    collection = read(tmp_path, *random_records(np.random.default_rng(seed)))
    groups = len(collection.ids)
    own = [set(row[row >= 0].tolist()) for row in collection.passage]
    linked = np.array([[bool(own[a] & own[b]) for b in range(groups)] for a in range(groups)])
    for _ in range(groups.bit_length()):
        linked = (linked.astype(int) @ linked.astype(int)) > 0
    assert 1 < collection.cluster.max() < groups - 1  # else the next line says little
    np.testing.assert_array_equal(collection.cluster[:, None] == collection.cluster, linked)
    for text in range(len(collection.texts)):
        clusters = {collection.cluster[g] for g in range(groups) if text in own[g]} or {-1}
        assert clusters == {collection.text_cluster[text]}


def test_rows_of_one_id_join_within_a_source_or_a_parallel_word(tmp_path):
    write(tmp_path, [record("1", "a", "p")], "a.jsonl")
    write(tmp_path, [record("1", "b", "q", "de", "de")], "b.jsonl")
    for word, groups in (("", 2), ("same", 1)):
        sources = tuple(Source("jsonl", f"{x}.jsonl", parallel=word) for x in "ab")
        collection = read_collection(DataConfig(str(tmp_path), sources))
        assert len(collection.ids) == groups
        assert len(cell_groups(collection, "de", "en")) == (word != "")
    write(tmp_path, [record(str(x), f"c{x}", "p", "th") for x in range(3)], "c.jsonl")
    sources = tuple(Source("jsonl", f"{x}.jsonl", parallel="same") for x in "bc")
    collection = read_collection(DataConfig(str(tmp_path), sources))
    assert collection.source.tolist() == [0, 1, 1]  # the source of a group's first row
    named = tuple(Source("jsonl", f"{x}.jsonl", name="both") for x in "ab")
    collection = read_collection(DataConfig(str(tmp_path), named))
    assert collection.source_names == ("both",)
    assert len(collection.ids) == 2


def test_a_parallel_text_is_not_its_own_answer(tmp_path):
    (tmp_path / "t.tsv").write_text("ja\tyes\nTom\tTom\n")
    sources = (Source("parallel_tsv", "t.tsv", ("de", "en")),)
    collection = read_collection(DataConfig(str(tmp_path), sources))
    assert cell_groups(collection, "de", "de").size == 0
    assert cell_groups(collection, "de", "en").tolist() == [0]


def test_duplicate_ids_name_the_line(tmp_path):
    with pytest.raises(UserError, match=r"x\.jsonl:3: duplicate id '1' in en-en .*fields\.id=''"):
        read(tmp_path, record("1", "a", "p"), record("1", "a", "p"), record("1", "b", "p"))
    rows = [record("1", "a", "p"), record("2", "b", "p"), record("3", "c", "p")]
    with pytest.raises(UserError, match=r"x\.jsonl:4: duplicate id '1'"):
        read(tmp_path, *rows, record("1", "a", "r"), limit=1)
    write(tmp_path, [record("1", "b", "p")], "y.jsonl")
    write(tmp_path, [record("1", "a", "p")])
    sources = tuple(Source("jsonl", f"{x}.jsonl", parallel="same") for x in "xy")
    with pytest.raises(UserError, match=r"y\.jsonl:1: duplicate id '1'"):
        read_collection(DataConfig(str(tmp_path), sources))


def test_limit_keeps_the_first_groups_whole(tmp_path):
    rows = [record(str(x % 5), f"q{x}", "p", LANGUAGES[x // 5]) for x in range(20)]
    collection = read(tmp_path, *rows, limit=3)
    assert [name[-1] for name in collection.ids] == ["0", "1", "2"]
    assert (collection.query >= 0).all()


def test_no_rows(tmp_path):
    (tmp_path / "x.jsonl").write_text("\n\n")
    with pytest.raises(UserError, match=r"source x\.jsonl: no rows"):
        read_collection(DataConfig(str(tmp_path), (Source("jsonl", "x.jsonl"),)))
    (tmp_path / "x.json").write_text('{"data": []}')
    with pytest.raises(UserError, match=r"source x\.json: no rows"):
        read_collection(DataConfig(str(tmp_path), (Source("squad", "x.json", ("en",)),)))
    with pytest.raises(UserError, match=r"data\.sources is empty"):
        read_collection(DataConfig(str(tmp_path)))


def test_taken_groups_keep_their_texts_and_negatives(tmp_path):
    collection = read(tmp_path, *random_records(np.random.default_rng(5)))
    order = np.random.default_rng(0).permutation(len(collection.ids))[:20]
    taken = take_groups(collection, order)
    np.testing.assert_array_equal(taken.passage, collection.passage[order])
    assert sum(len(taken.hard_negatives_of(g, 0)) for g in range(20)) > 3
    for place, group in enumerate(order):
        assert taken.ids[place] == collection.ids[group]
        for column in range(len(collection.languages)):
            expected = collection.hard_negatives_of(int(group), column)
            np.testing.assert_array_equal(taken.hard_negatives_of(place, column), expected)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    rows = [record(str(x), f"q{x}", f"p{x // 3}") for x in range(6_000)]
    return read(tmp_path_factory.mktemp("many"), *rows)


def test_held_out_clusters_are_whole_and_of_the_asked_share(many):
    train, held_out = split_held_out(many, 0.1, 10_000, seed=0)
    assert sorted(train.ids + held_out.ids) == sorted(many.ids)
    assert not set(train.cluster) & set(held_out.cluster)
    assert train.texts is held_out.texts
    clusters = len(set(held_out.cluster))
    assert abs(clusters - 200) < 5 * np.sqrt(2_000 * 0.1 * 0.9)
    assert set(split_held_out(many, 0.1, 10_000, seed=1)[1].ids) != set(held_out.ids)
    assert len(split_held_out(many, 0.1, 50, seed=0)[1].ids) in range(48, 51)
    assert not split_held_out(many, 0.0, 50, seed=0)[1].ids


def test_large_clusters_are_held_out_as_often_as_small_ones(tmp_path):
    sizes = [1, 30] * 400
    rows = [
        record(f"{x}.{y}", f"q{x}.{y}", f"p{x}")
        for x, size in enumerate(sizes)
        for y in range(size)
    ]
    _, held_out = split_held_out(read(tmp_path, *rows), 0.25, 10**6, seed=0)
    large = np.sum(np.unique(held_out.cluster, return_counts=True)[1] == 30)
    assert abs(large - 100) < 5 * np.sqrt(400 * 0.25 * 0.75)


def test_held_out_is_stable_when_rows_come(many, tmp_path):
    rows = [record(str(x), f"q{x}", f"p{x // 3}") for x in range(5_000, 8_000)]
    more = read(tmp_path, *rows)
    sides = [
        {name: side for side, part in enumerate(parts) for name in part.ids}
        for parts in (split_held_out(x, 0.1, 10_000, 0) for x in (many, more))
    ]
    common = [f"x.jsonl:{x}" for x in range(5_001, 6_000)]  # 4,998 to 5,000 are one cluster
    assert all(sides[0][name] == sides[1][name] for name in common)
    assert {sides[0][name] for name in common} == {0, 1}


def test_held_out_nothing_or_everything_is_an_error(many, tmp_path):
    few = take_groups(many, np.arange(3))
    for share, limit in ((1e-9, 10), (0.5, 0), (1 - 1e-12, 10)):
        with pytest.raises(UserError, match=r"data\.held_out"):
            split_held_out(few, share, limit, seed=0)


@pytest.mark.slow
def test_a_million_rows(tmp_path):
    (tmp_path / "t.tsv").write_text("".join(f"eins {x}\tone {x}\n" for x in range(500_000)))
    sources = (Source("parallel_tsv", "t.tsv", ("de", "en")),)
    start = time.process_time()
    collection = read_collection(DataConfig(str(tmp_path), sources))
    assert time.process_time() - start < 40
    assert len(cell_groups(collection, "de", "en")) == 500_000


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no data in {DATA}")
def test_mlqa_joined_by_id():
    """The pairs that ../shared/data/README.md counts."""
    files = sorted((DATA / "mlqa-test-pairs").glob("*.json"))
    sources = tuple(
        Source("squad", str(file), (file.stem[-2:], file.stem[13:15]), parallel="mlqa")
        for file in files
    )
    collection = read_collection(DataConfig(passage="sentence", sources=sources))
    languages = collection.languages
    assert collection.report["rows"] == collection.report["without_answer"] == 28_458
    assert sum(len(cell_groups(collection, x, y)) for x in languages for y in languages) == 41_904
