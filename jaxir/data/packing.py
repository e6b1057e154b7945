"""Which texts of a batch share a row, so that little of a row is padding.

Dimension key: T texts of a device, R rows, L tokens of a row, S texts that a row may hold.

Everything here is a pure function of the texts' lengths. A row's texts all come from one device's
part of the batch, queries and passages alike, so packing moves no text between devices and never
changes which pairs make a batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Int

MOST_COUNTS = 4  # numbers of rows that a step is compiled for
# Numbers of rows are multiples of this part of the most: runs of other shares, or seeds, then often
# come to the same, and share what was compiled.
COARSENESS = 1 / 64
SHORTEST = 16  # tokens: of shorter texts a row is not filled


@dataclass(frozen=True)
class Packing:
    """Where each text stands; -1: it has no tokens, and stands nowhere."""

    row: Int[np.ndarray, "T"]
    start: Int[np.ndarray, "T"]  # its first token's place in the row
    slot: Int[np.ndarray, "T"]  # its number in the row, from 0
    rows: int


def texts_a_row(width: int, query_limit: int) -> int:
    """S, the most texts that a row of `width` tokens may hold."""
    return max(width // SHORTEST, width // query_limit)


def enough_rows(queries: int, passages: int, width: int, query_limit: int) -> int:
    """Rows that hold any batch, its texts cut to their limits.

    At worst each passage has a row of its own, and the queries are as long as they may be: a row is
    opened for a query only when those that queries opened before hold `width // query_limit`.
    """
    return passages + -(-queries // (width // query_limit))


def pack(lengths: Int[np.ndarray, "T"], width: int, most: int) -> Packing:
    """Best fit, the longest first: each text goes where the least room is left.

    Args:
        lengths: tokens of each text, at most `width`.
        width: tokens of a row.
        most: texts of a row.

    References:
        D. S. Johnson et al., SIAM Journal on Computing 3 (1974), 299-325: at most 11/9 of the
        fewest rows, and a few.
    """
    row, start, slot = np.full((3, len(lengths)), -1)
    by_room: list[list[int]] = [[] for _ in range(width + 1)]
    rooms = 0  # bit r: there is a row with room for r tokens
    held: list[int] = []
    for text in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[text])
        if not length:
            break
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            chosen = by_room[room].pop()
            if not by_room[room]:
                rooms ^= 1 << room
        else:
            room, chosen = width, len(held)
            held.append(0)
        row[text], start[text], slot[text] = chosen, width - room, held[chosen]
        held[chosen] += 1
        room -= length
        if room and held[chosen] < most:
            by_room[room].append(chosen)
            rooms |= 1 << room
    return Packing(row, start, slot, len(held))


def pack_batch(
    batch: Mapping[str, np.ndarray],
    packings: Sequence[Packing],
    shape: tuple[int, int, int],
    first: int,
    pairs: int,
    pad_id: int,
) -> dict[str, np.ndarray]:
    """The rows that texts of a batch share, in place of a row for each.

    Args:
        batch: `query_ids`, `query_lengths`, `passage_ids` and `passage_lengths` of the part of a
            global batch that some devices have.
        packings: of each of those devices, its queries before its passages.
        shape: R, L and S: rows of a device, of which `packings` may need fewer.
        first: number of the part's first pair in the global batch.
        pairs: of the global batch.
        pad_id: id of padding.

    Returns:
        `row_ids` "R L"; `row_segments` "R L", the number of a token's text in its row, from 1, 0
        for padding; `row_texts` "R S", a query's number in the global batch or `pairs` + a
        passage's, -1 for none; `query_slots` and `passage_slots`, the place r * S + s among the
        rows of its own device at which a text stands, 0 for one without tokens.
    """
    rows, width, most = shape
    own = len(batch["query_ids"]) // len(packings)
    every = len(batch["passage_ids"]) // len(batch["query_ids"])
    parts = []
    for device, packing in enumerate(packings):
        pieces, lengths = [], []
        for side, count in (("query", own), ("passage", own * every)):
            here = slice(device * count, (device + 1) * count)
            ids, length = batch[f"{side}_ids"][here], batch[f"{side}_lengths"][here]
            pieces.append(ids[np.arange(ids.shape[1])[None, :] < length[:, None]])
            lengths.append(length)
        tokens, length = np.concatenate(pieces), np.concatenate(lengths)
        row_ids, segments = np.full((rows, width), pad_id), np.zeros((rows, width), int)
        start = np.cumsum(length) - length
        places = np.arange(len(tokens)) + np.repeat(packing.start - start, length)
        at = np.repeat(packing.row, length), places
        row_ids[at], segments[at] = tokens, np.repeat(packing.slot + 1, length)
        number, before = np.arange(len(length)), first + device * own
        number = np.where(number < own, number + before, number - own + before * every + pairs)
        (stands,) = np.nonzero(length)
        texts = np.full((rows, most), -1)
        texts[packing.row[stands], packing.slot[stands]] = number[stands]
        slots = np.where(length > 0, packing.row * most + packing.slot, 0)
        parts.append((row_ids, segments, texts, *np.split(slots, [own])))
    names = ("row_ids", "row_segments", "row_texts", "query_slots", "passage_slots")
    return {name: np.concatenate(part) for name, part in zip(names, zip(*parts), strict=True)}


def row_counts(needed: Sequence[int], enough: int, at_once: int) -> tuple[int, ...]:
    """The few numbers of rows that steps are compiled for, of which the last fits any batch.

    The others are chosen so that they add the fewest rows to what a sample of steps needs.

    Args:
        needed: rows of a device that each step of the sample needs.
        enough: rows that any batch fits.
        at_once: rows that are embedded at a time, of which they are multiples.
    """
    multiple = max(1, int(enough * COARSENESS) // at_once) * at_once

    def rounded(rows: int) -> int:
        return -(-rows // multiple) * multiple

    sizes, steps = np.unique([rounded(rows) for rows in needed], return_counts=True)
    last = int(sizes[-1])
    best, fewest = (last,), last * int(steps.sum())
    for lower in combinations(sizes[:-1].tolist(), min(MOST_COUNTS - 2, len(sizes) - 1)):
        counts = (*lower, last)
        total = int(np.dot(np.take(counts, np.searchsorted(counts, sizes)), steps))
        if total < fewest:
            best, fewest = counts, total
    return best if last >= enough else (*best, rounded(enough))
