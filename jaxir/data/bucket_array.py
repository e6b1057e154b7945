"""An array in a bucket, read by byte ranges: each block is fetched once, when it is needed.

Dimension key: N entries asked for, K blocks.
"""

import io
import os
import tempfile
import threading
from typing import Any

import numpy as np
from jaxtyping import Int

from jaxir.runtime.files import bucket_files

BLOCK = 1 << 18  # bytes fetched at a time
HEADER = 1 << 12  # more than a .npy file's header takes


class RangedArray:
    """A one-dimensional .npy file in a bucket, fetched block by block as entries are read.

    Blocks are kept in a sparse temporary file of the array's size, so the disk holds only what was
    fetched. Several threads may read.

    Raises:
        ValueError: not such a file, or cut off.
    """

    def __init__(self, path: os.PathLike):
        self._path, self._files = os.fspath(path), bucket_files(path)
        size = self._files.info(self._path)["size"]
        head = io.BytesIO(self._files.cat_file(self._path, start=0, end=min(HEADER, size)))
        version = np.lib.format.read_magic(head)
        read = getattr(np.lib.format, f"read_array_header_{version[0]}_{version[1]}")
        (self._length,), _, self.dtype = read(head)
        self._offset = head.tell()
        if size != self._offset + self._length * self.dtype.itemsize:
            raise ValueError(f"{size:,} bytes for {self._length:,} entries")
        self._cached: Any = np.empty(0, self.dtype)
        if self._length:
            with tempfile.TemporaryFile() as file:  # nameless: removed once the mapping is
                self._cached = np.memmap(file, self.dtype, "w+", shape=(self._length,))
        self._block_length = BLOCK // self.dtype.itemsize
        self._fetched = np.zeros(-(-self._length // self._block_length), bool)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._length

    @property
    def fetched_bytes(self) -> int:
        """Bytes fetched so far, in whole blocks."""
        return int(self._fetched.sum()) * BLOCK

    def __getitem__(self, indices: Int[np.ndarray, "N"]) -> np.ndarray:
        """Entries at the indices."""
        needed = np.zeros_like(self._fetched)
        needed[indices // self._block_length] = True
        if (needed & ~self._fetched).any():
            with self._lock:
                self._fetch(np.flatnonzero(needed & ~self._fetched))
        return self._cached[indices]

    def _fetch(self, blocks: Int[np.ndarray, "K"]) -> None:
        width = self.dtype.itemsize
        first = blocks * self._block_length
        last = np.minimum(first + self._block_length, self._length)
        parts = self._files.cat_ranges(
            [self._path] * len(blocks),
            (self._offset + first * width).tolist(),
            (self._offset + last * width).tolist(),
            on_error="raise",
        )
        for part, start, stop in zip(parts, first, last, strict=True):
            self._cached[start:stop] = np.frombuffer(part, self.dtype)
        self._fetched[blocks] = True
