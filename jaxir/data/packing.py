"""Packing: short texts share rows, so that little of a row is padding.

Dimension key: T texts of a device, R rows, L tokens of a row, S texts that a row may hold.

Everything here is a pure function of the texts' lengths. The texts of a row all come from one
device's part of the batch, queries and passages alike, so packing moves no text between devices and
never changes which pairs make a batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Int

from jaxir.data.batch import PACKED_FIELDS, BatchLayout, texts_per_row

MAX_ROW_COUNTS = 4  # numbers of rows that a step is compiled for
# Numbers of rows are rounded up to this part of the largest, so that runs with other shares or
# seeds often come to the same numbers, and share compiled steps.
COARSENESS = 1 / 64


@dataclass(frozen=True)
class Packing:
    """Row, offset and slot of each text of a device; -1 for a text without tokens."""

    row: Int[np.ndarray, "T"]
    start: Int[np.ndarray, "T"]  # index of its first token in the row
    slot: Int[np.ndarray, "T"]  # its number among the texts of the row, from 0
    rows: int


def enough_rows(queries: int, passages: int, packed_length: int, max_query_tokens: int) -> int:
    """Number of rows that holds any batch of so many texts.

    At worst each passage fills a row, and each query is as long as its limit: best fit opens a row
    for a query only when every row that queries opened holds `packed_length // max_query_tokens`.
    """
    return passages + -(-queries // (packed_length // max_query_tokens))


def pack(lengths: Int[np.ndarray, "T"], packed_length: int, max_texts: int) -> Packing:
    """Best fit decreasing: the longest text first, each into the fullest row that has room.

    Args:
        lengths: tokens of each text, at most `packed_length`.
        packed_length: tokens of a row.
        max_texts: S, texts of a row.

    References:
        D. S. Johnson et al., SIAM Journal on Computing 3 (1974), 299-325: at most 11/9 of the
        fewest rows, and a few.
    """
    row, start, slot = np.full((3, len(lengths)), -1)
    by_room: list[list[int]] = [[] for _ in range(packed_length + 1)]  # open rows by room left
    rooms = 0  # bit r is set if a row has room for exactly r tokens
    texts_in: list[int] = []  # texts of each row so far
    for text in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[text])
        if not length:
            break  # the rest is empty too
        # The lowest set bit at or above `length` is the smallest room that fits: shifting drops
        # the smaller rooms, and x & -x keeps the lowest bit.
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            chosen = by_room[room].pop()
            if not by_room[room]:
                rooms ^= 1 << room
        else:
            room, chosen = packed_length, len(texts_in)
            texts_in.append(0)
        row[text], start[text], slot[text] = chosen, packed_length - room, texts_in[chosen]
        texts_in[chosen] += 1
        room -= length
        if room and texts_in[chosen] < max_texts:
            by_room[room].append(chosen)
            rooms |= 1 << room
    return Packing(row, start, slot, len(texts_in))


def pack_devices(
    query_lengths: Int[np.ndarray, "B"],
    passage_lengths: Int[np.ndarray, "P"],
    layout: BatchLayout,
    devices: int,
) -> list[Packing]:
    """The packing of each device's texts, its queries before its passages.

    Args:
        query_lengths: tokens of the global batch's queries, cut to their limit.
        passage_lengths: the same of its passages, 0 for one that is missing.
        layout: of the global batch.
        devices: that share the batch.
    """
    max_texts = texts_per_row(layout.packed_length, layout.max_query_tokens)
    sides = [lengths.reshape(devices, -1) for lengths in (query_lengths, passage_lengths)]
    of_devices = np.concatenate(sides, axis=1)
    return [pack(lengths, layout.packed_length, max_texts) for lengths in of_devices]


def pack_batch(
    batch: Mapping[str, np.ndarray],
    packings: Sequence[Packing],
    layout: BatchLayout,
    first: int,
    global_pairs: int,
    pad_id: int,
) -> dict[str, np.ndarray]:
    """The packed rows of some devices' part of a global batch.

    Args:
        batch: `query_ids`, `query_lengths`, `passage_ids` and `passage_lengths` of the part.
        packings: one a device, its queries before its passages.
        layout: of the packed batch of one device; `packings` may need fewer rows.
        first: index of the part's first pair in the global batch.
        global_pairs: pairs of the global batch.
        pad_id: id of padding.

    Returns:
        `row_ids` "R L"; `row_segments` "R L", the number of a token's text in its row, from 1, 0
        for padding; `row_texts` "R S", the index of a query in the global batch or `global_pairs` +
        the index of a passage, -1 for none; `query_slots` and `passage_slots`, the index r * S + s
        of a text among the slots of its own device, 0 for a text without tokens.
    """
    shapes = layout.shapes()
    max_texts = shapes["row_texts"][1]
    own_pairs = len(batch["query_ids"]) // len(packings)
    per_pair = len(batch["passage_ids"]) // len(batch["query_ids"])
    parts = []
    for device, packing in enumerate(packings):
        pieces, lengths = [], []
        for side, count in (("query", own_pairs), ("passage", own_pairs * per_pair)):
            of_device = slice(device * count, (device + 1) * count)
            ids, length = batch[f"{side}_ids"][of_device], batch[f"{side}_lengths"][of_device]
            pieces.append(ids[np.arange(ids.shape[1])[None, :] < length[:, None]])
            lengths.append(length)
        tokens, length = np.concatenate(pieces), np.concatenate(lengths)
        row_ids, segments = np.full(shapes["row_ids"], pad_id), np.zeros(shapes["row_ids"], int)
        # `tokens` are all texts end to end; a token's column is its text's start in the row plus
        # its distance from where its text begins in `tokens`
        begins = np.cumsum(length) - length
        columns = np.arange(len(tokens)) + np.repeat(packing.start - begins, length)
        cells = np.repeat(packing.row, length), columns
        row_ids[cells], segments[cells] = tokens, np.repeat(packing.slot + 1, length)
        # local text numbers (queries, then passages) become global ones (all queries, then all
        # passages), which dropout is seeded by
        number, pairs_before = np.arange(len(length)), first + device * own_pairs
        number = np.where(
            number < own_pairs,
            number + pairs_before,
            number - own_pairs + pairs_before * per_pair + global_pairs,
        )
        (present,) = np.nonzero(length)
        texts = np.full(shapes["row_texts"], -1)
        texts[packing.row[present], packing.slot[present]] = number[present]
        slots = np.where(length > 0, packing.row * max_texts + packing.slot, 0)
        parts.append((row_ids, segments, texts, *np.split(slots, [own_pairs])))
    packed = zip(PACKED_FIELDS, zip(*parts), strict=True)
    return {name: np.concatenate(part) for name, part in packed}


def row_counts(needed: Sequence[int], enough: int, chunk: int) -> tuple[int, ...]:
    """The few numbers of rows that steps are compiled for; the last fits any batch.

    The others are chosen to add the fewest rows to those that a sample of steps needs.

    Args:
        needed: rows of a device that each step of the sample needs.
        enough: rows that any batch fits.
        chunk: rows that a device embeds at a time; each number is a multiple of it.
    """
    multiple = max(1, int(enough * COARSENESS) // chunk) * chunk

    def rounded(rows: int) -> int:
        return -(-rows // multiple) * multiple

    sizes, steps = np.unique([rounded(rows) for rows in needed], return_counts=True)
    last = int(sizes[-1])
    best, fewest = (last,), last * int(steps.sum())
    for lower in combinations(sizes[:-1].tolist(), min(MAX_ROW_COUNTS - 2, len(sizes) - 1)):
        counts = (*lower, last)
        # each step takes the smallest number that holds its rows
        total = int(np.dot(np.take(counts, np.searchsorted(counts, sizes)), steps))
        if total < fewest:
            best, fewest = counts, total
    return best if last >= enough else (*best, rounded(enough))
