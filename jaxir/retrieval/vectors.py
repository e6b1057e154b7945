"""Embeddings of passages as they are searched: float32, bfloat16 or int8.

Dimension key: P passages, R selected passages, D width.
"""

from dataclasses import dataclass

import ml_dtypes
import numpy as np
from jaxtyping import Float, Int

from jaxir.errors import UserError

DTYPES = ("float32", "bfloat16", "int8")
QUANTIZED_ROWS = 1 << 18  # quantized together, so that no float32 copy of millions is made


@dataclass(frozen=True, eq=False)
class Vectors:
    """Embeddings to search: in memory, or memory-mapped and larger than it.

    int8 rows hold integers from -127 to 127, to be multiplied by the row's entry of `scales`.

    Raises:
        UserError: another dtype, no rows, or scales that do not fit them.
    """

    embeddings: Float[np.ndarray, "P D"] | Int[np.ndarray, "P D"]
    scales: Float[np.ndarray, "P"] | None = None

    def __post_init__(self):
        shape = np.shape(self.embeddings)
        dtype = self.embeddings.dtype.name
        if len(shape) != 2 or dtype not in DTYPES or not all(shape):
            raise UserError(
                f"index: {dtype} of shape {shape}; rows of {', '.join(DTYPES)} are needed"
            )
        if (dtype == "int8") != (self.scales is not None):
            raise UserError("index: int8 rows need scales, and other rows have none")
        if self.scales is not None and np.shape(self.scales) != shape[:1]:
            raise UserError(f"index: {np.shape(self.scales)} scales for {shape[0]} rows")

    def __len__(self) -> int:
        return len(self.embeddings)

    @property
    def width(self) -> int:
        """Length of an embedding."""
        return self.embeddings.shape[1]

    def as_float32(self) -> Float[np.ndarray, "P D"]:
        """The embeddings as they are scored, in memory."""
        rows = np.asarray(self.embeddings, np.float32)
        return rows if self.scales is None else rows * self.scales[:, None]


def make_vectors(embeddings: Float[np.ndarray, "P D"], dtype: str = "float32") -> Vectors:
    """Round embeddings to a dtype, in memory; int8 has 255 steps up to a row's largest entry."""
    if dtype == "float32":
        return Vectors(np.asarray(embeddings, np.float32))
    if dtype == "bfloat16":
        return Vectors(np.asarray(embeddings).astype(ml_dtypes.bfloat16))
    quantized = np.empty(embeddings.shape, np.int8)
    scales = np.empty(len(embeddings), np.float32)
    for start in range(0, len(quantized), QUANTIZED_ROWS):
        part = slice(start, start + QUANTIZED_ROWS)
        scales[part] = np.abs(embeddings[part]).max(axis=1) / 127
        # a row of zeros has scale 0 and stays zeros
        steps = embeddings[part] / np.where(scales[part] > 0, scales[part], 1.0)[:, None]
        quantized[part] = np.rint(steps).clip(-127, 127)
    return Vectors(quantized, scales)


def select_rows(vectors: Vectors, rows: Int[np.ndarray, "R"]) -> Vectors:
    """A copy of the selected rows, in memory."""
    scales = None if vectors.scales is None else vectors.scales[rows]
    return Vectors(vectors.embeddings[rows], scales)
