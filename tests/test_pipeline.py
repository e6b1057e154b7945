"""What tf.data hands over is what the schedule says, whichever process loads it."""

import dataclasses
import json

import numpy as np
import pytest

from jaxir.config import DataConfig, Fields, HybridConfig, ModelConfig, Shares, Source
from jaxir.data.collection import read_collection
from jaxir.data.hybrid import Hybrid
from jaxir.data.pipeline import Loader, batches, tokenize
from jaxir.data.tokenizer import train_tokenizer

BATCH = 16


@pytest.fixture(scope="module")
def loader(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefgh"), 4)) for _ in range(50)]
    with (folder / "rows.jsonl").open("w") as stream:
        for group in range(40):
            for language in ("de", "en", "fr"):
                text = " ".join(rng.choice(words, rng.integers(2, 14)))
                negatives = [f"negative {group} {language} {k}" for k in range(group % 4)]
                row = {
                    "id": str(group),
                    "q": f"{text}?",
                    "p": f"{text} {group // 2 if group < 6 else group} {language}",
                }
                row |= {"query_lang": language, "passage_lang": language, "hard": negatives}
                stream.write(json.dumps(row) + "\n")
    fields = Fields(query="q", passage="p", hard_negatives="hard")
    source = Source(path="rows.jsonl", fields=fields)
    collection = read_collection(DataConfig(directory=str(folder), sources=(source,)))
    model = ModelConfig(max_query_tokens=16, max_passage_tokens=32)
    tokenizer = train_tokenizer(collection.texts, 300)
    hybrid = Hybrid(collection, HybridConfig(shares=Shares(1, 1, 1, 1, 1)), BATCH, seed=1)
    tokens = tokenize(collection, tokenizer, model, folder / "cache")
    return tokenizer, Loader(collection, hybrid, *tokens, 16, 32, hard_negatives=2)


def test_a_batch_holds_the_texts_of_its_rows(loader):
    tokenizer, loader = loader
    collection = loader.collection
    for step in range(10):
        drawn, batch = loader.hybrid.batch(step), loader.batch(step)
        passages = batch["passage_ids"].reshape(BATCH, 3, 32)
        lengths = batch["passage_lengths"].reshape(BATCH, 3)
        for row, group in enumerate(drawn.groups):
            query = collection.texts[collection.query[group, drawn.query_language[row]]]
            expected = tokenizer("Query: " + query, truncation=True, max_length=16)["input_ids"]
            assert batch["query_ids"][row, : batch["query_lengths"][row]].tolist() == expected
            language = drawn.passage_language[row]
            passage = collection.texts[collection.passage[group, language]]
            expected = tokenizer("Passage: " + passage, truncation=True, max_length=32)["input_ids"]
            assert passages[row, 0, : lengths[row, 0]].tolist() == expected
            offered = {
                tuple(
                    tokenizer("Passage: " + collection.texts[i], truncation=True, max_length=32)[
                        "input_ids"
                    ]
                )
                for i in collection.hard_negatives_of(group, language)
            }
            drawn_negatives = [
                tuple(ids[:n]) for ids, n in zip(passages[row, 1:], lengths[row, 1:]) if n
            ]
            assert len(drawn_negatives) == min(2, len(offered))
            assert set(drawn_negatives) <= offered
        assert (batch["query_cluster"] == collection.cluster[drawn.groups]).all()
        assert (batch["passage_cluster"][::3] == batch["query_cluster"]).all()


def packing(loader, devices=8):
    """The same rows, sharing rows of 40 tokens."""
    return dataclasses.replace(loader, packed_length=40, devices=devices, grad_cache_chunk=2)


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("processes", [1, 2, 4, 8])
def test_the_global_batch_does_not_depend_on_the_processes(loader, processes, packed):
    loader = packing(loader[1]) if packed else loader[1]
    size = BATCH // processes
    for step in (0, 7):
        whole = loader.batch(step)
        parts = [loader.batch(step, slice(p * size, (p + 1) * size)) for p in range(processes)]
        for name in loader.fields:
            np.testing.assert_array_equal(
                np.concatenate([part[name] for part in parts]), whole[name]
            )


@pytest.mark.parametrize("devices", [1, 8])
def test_packing_keeps_the_batch_and_what_it_says(loader, devices):
    """Each device finds its own texts, as they are without packing, by their slots."""
    _, plain = loader
    packed = packing(plain, devices)
    counts = set()
    for step in range(12):
        whole, shared = plain.batch(step), packed.batch(step)
        for name in ("query_cluster", "passage_cluster", "query_lengths", "passage_lengths"):
            np.testing.assert_array_equal(shared[name], whole[name])
        count = len(shared["row_ids"]) // devices
        counts.add(count)
        assert count in packed.row_counts
        assert count % 2 == 0
        most = shared["row_texts"].shape[1]
        for side in ("query", "passage"):
            slots, lengths = shared[f"{side}_slots"], whole[f"{side}_lengths"]
            of_device = len(slots) // devices
            for place, (slot, length) in enumerate(zip(slots, lengths)):
                row, segment = place // of_device * count + slot // most, slot % most + 1
                ids = shared["row_ids"][row][shared["row_segments"][row] == segment]
                if length:
                    assert ids.tolist() == whole[f"{side}_ids"][place, :length].tolist()
    assert len(counts) <= 4


def test_the_rows_of_a_step_are_a_function_of_the_run(loader):
    """A loader that starts in the middle chooses as one that came from the start."""
    first, later = packing(loader[1]), packing(loader[1])
    before = [first.batch(step) for step in range(9)][8]
    for name, array in later.batch(8).items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_tf_data_yields_the_steps_in_order_from_any_start(loader, packed):
    loader = packing(loader[1]) if packed else loader[1]
    found = list(batches(loader, 5, 12, slice(4, 8)))
    assert len(found) == 7
    for step, batch in enumerate(found, 5):
        expected = loader.batch(step, slice(4, 8))
        for name in loader.fields:
            np.testing.assert_array_equal(batch[name], expected[name])
            assert batch[name].dtype == np.int32
