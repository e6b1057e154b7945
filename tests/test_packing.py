"""Packing loses no token, mixes no texts, keeps within its bounds, and wastes little."""

import numpy as np
import pytest

from jaxir.data.batch import BatchLayout, texts_per_row
from jaxir.data.packing import (
    MAX_ROW_COUNTS,
    enough_rows,
    pack,
    pack_batch,
    row_counts,
)

WIDTH = 64


def lengths_of(rng, texts=200):
    lengths = np.minimum(rng.lognormal(2.8, 0.7, texts).astype(int) + 3, WIDTH)
    return np.where(rng.random(texts) < 0.1, 0, lengths)


@pytest.mark.parametrize("seed", range(5))
def test_every_text_stands_in_one_row_and_no_two_overlap(seed):
    lengths = lengths_of(np.random.default_rng(seed))
    packing = pack(lengths, WIDTH, 5)
    taken = np.zeros((packing.rows, WIDTH), int)
    for text, length in enumerate(lengths):
        row, start, slot = packing.row[text], packing.start[text], packing.slot[text]
        assert (row >= 0) == (length > 0)
        if length:
            assert 0 <= start <= WIDTH - length
            assert 0 <= slot < 5
            taken[row, start : start + length] += 1
    assert taken.max() == 1
    assert taken.sum() == lengths.sum()
    places = packing.row[lengths > 0] * 5 + packing.slot[lengths > 0]
    assert len(np.unique(places)) == (lengths > 0).sum()
    # first fit with the longest first needs at most 11/9 of the fewest rows and two thirds more
    assert packing.rows <= 11 / 9 * max(lengths.sum() / WIDTH, (lengths > 0).sum() / 5) + 1


@pytest.mark.parametrize("seed", range(3))
def test_rows_hold_the_texts_and_nothing_else(seed):
    rng = np.random.default_rng(seed)
    devices, own, every, most = 2, 10, 3, 6
    count = devices * own
    batch = {}
    for side, texts in (("query", count), ("passage", count * every)):
        batch[f"{side}_lengths"] = lengths_of(rng, texts)
        batch[f"{side}_ids"] = rng.integers(5, 1000, (texts, WIDTH))
    packings = [
        pack(
            np.concatenate(
                [
                    batch["query_lengths"].reshape(devices, -1)[device],
                    batch["passage_lengths"].reshape(devices, -1)[device],
                ]
            ),
            WIDTH,
            most,
        )
        for device in range(devices)
    ]
    rows = max(packing.rows for packing in packings) + 2
    # rows of that layout hold so many texts: WIDTH // (WIDTH // most)
    layout = BatchLayout(own, every - 1, WIDTH // most, WIDTH, packed_length=WIDTH, rows=rows)
    first, pairs = 40, 100  # the third and fourth device of ten
    shared = pack_batch(batch, packings, layout, first, pairs, pad_id=1)
    assert shared["row_ids"].shape == shared["row_segments"].shape == (devices * rows, WIDTH)
    found = {}
    for row, segments in enumerate(shared["row_segments"]):
        for slot, text in enumerate(shared["row_texts"][row]):
            here = segments == slot + 1
            assert here.any() == (text >= 0)
            if text >= 0:
                found[int(text)] = shared["row_ids"][row][here].tolist()
    assert (shared["row_ids"][shared["row_segments"] == 0] == 1).all()
    expected = {}
    for side, start in (("query", first), ("passage", pairs + first * every)):
        for place, (ids, length) in enumerate(zip(batch[f"{side}_ids"], batch[f"{side}_lengths"])):
            if length:
                expected[start + place] = ids[:length].tolist()
            # a slot leads back to the text, on its own device
            slot = shared[f"{side}_slots"][place]
            device = place // (own if side == "query" else own * every)
            table = shared["row_texts"].reshape(devices, -1)[device]
            assert table[slot] == start + place if length else slot == 0
    assert found == expected


def test_any_batch_fits_the_last_count():
    rng = np.random.default_rng(0)
    for _ in range(300):
        width = int(rng.integers(8, 80))
        limit = int(rng.integers(3, width + 1))
        queries, passages = rng.integers(1, 30, 2)
        shortest = [int(rng.integers(3, x + 1)) for x in (limit, width)]
        lengths = np.concatenate(
            [
                rng.integers(shortest[0], limit + 1, queries),
                rng.integers(shortest[1], width + 1, passages),
            ]
        )
        packing = pack(lengths, width, texts_per_row(width, limit))
        assert packing.rows <= enough_rows(queries, passages, width, limit)


def test_counts_are_few_and_hold_the_sample():
    needed = np.random.default_rng(0).integers(400, 800, 64)
    counts = row_counts(needed.tolist(), 1280, 8)
    assert len(counts) == MAX_ROW_COUNTS
    assert list(counts) == sorted(set(counts))
    assert all(count % 8 == 0 for count in counts)
    assert counts[-1] >= 1280
    assert counts[-2] >= max(needed)
    chosen = np.array(counts)[np.searchsorted(counts, needed)]
    even = np.linspace(400, 816, 4)[1:]  # what one would choose without looking
    assert chosen.sum() <= even[np.searchsorted(even, needed)].sum()
    assert row_counts([5, 5], 5, 1) == (5,)
    assert row_counts([5, 5, 7], 100, 1) == (5, 7, 100)
