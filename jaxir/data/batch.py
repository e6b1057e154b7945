"""The layout of a batch: names and shapes of its arrays, padded or packed.

Dimension key: B pairs, P passages (each pair's positive, then its hard negatives), L tokens of a
row, R rows of packed texts, S texts of a row.

All arrays are int32. Everybody who makes, plans or reads a batch of texts takes the layout from
here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Batch = dict[str, np.ndarray]
# texts shorter than that do not fill a row: S is bounded as if all had so many tokens
SHORTEST_TEXT = 16
PACKED_FIELDS = ("row_ids", "row_segments", "row_texts", "query_slots", "passage_slots")


def texts_per_row(packed_length: int, max_query_tokens: int) -> int:
    """S, the most texts that are packed into a row."""
    return max(packed_length // SHORTEST_TEXT, packed_length // max_query_tokens)


@dataclass(frozen=True)
class BatchLayout:
    """Numbers that decide the shapes of a batch."""

    pairs: int  # B
    hard_negatives: int  # per pair, so P = B * (1 + hard_negatives)
    max_query_tokens: int
    max_passage_tokens: int
    packed_length: int = 0  # L of packed rows; 0: one text per row
    rows: int = 0  # R of a packed batch

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each array, by name.

        Lengths count tokens, 0 for a hard negative that is missing. Clusters number parallel
        passages, -1 for a hard negative that is no row's positive. `pack_batch` describes the
        fields of packed rows.
        """
        passages = self.pairs * (1 + self.hard_negatives)
        shapes: dict[str, tuple[int, ...]] = {
            "query_lengths": (self.pairs,),
            "query_cluster": (self.pairs,),
            "passage_lengths": (passages,),
            "passage_cluster": (passages,),
        }
        if not self.packed_length:
            return shapes | {
                "query_ids": (self.pairs, self.max_query_tokens),
                "passage_ids": (passages, self.max_passage_tokens),
            }
        row = (self.rows, self.packed_length)
        slots = (self.rows, texts_per_row(self.packed_length, self.max_query_tokens))
        packed = (row, row, slots, (self.pairs,), (passages,))
        return shapes | dict(zip(PACKED_FIELDS, packed, strict=True))


def is_packed(batch: Mapping[str, Any]) -> bool:
    """True for a batch whose texts share rows."""
    return "row_ids" in batch


def token_shapes(batch: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    """Shapes of the arrays of token ids, which decide the compiled step that a batch needs."""
    return tuple(batch[name].shape for name in sorted(batch, reverse=True) if name.endswith("_ids"))


def count_tokens(batch: Batch) -> tuple[int, int]:
    """Tokens of a batch's texts, and tokens that are computed, padding included."""
    real = sum(int(array.sum()) for name, array in batch.items() if name.endswith("_lengths"))
    return real, sum(array.size for name, array in batch.items() if name.endswith("_ids"))
