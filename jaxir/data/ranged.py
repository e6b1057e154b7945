"""An array in a bucket, of which only what is asked for is fetched, once."""

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
    """A one-dimensional .npy file, read by byte ranges as its entries are asked for.

    Blocks are kept in a temporary file of the array's size, of which the disk holds only what was
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
        self._kept: Any = np.empty(0, self.dtype)
        if self._length:
            with tempfile.TemporaryFile() as file:  # no name: gone with the last who has it open
                self._kept = np.memmap(file, self.dtype, "w+", shape=(self._length,))
        self._each = BLOCK // self.dtype.itemsize
        self._fetched = np.zeros(-(-self._length // self._each), bool)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._length

    @property
    def fetched_bytes(self) -> int:
        """How much has been fetched so far."""
        return int(self._fetched.sum()) * BLOCK

    def __getitem__(self, places: Int[np.ndarray, "N"]) -> np.ndarray:
        """The entries at some places."""
        needed = np.zeros_like(self._fetched)
        needed[places // self._each] = True
        if (needed & ~self._fetched).any():
            with self._lock:
                self._fetch(np.flatnonzero(needed & ~self._fetched))
        return self._kept[places]

    def _fetch(self, blocks: Int[np.ndarray, "K"]) -> None:
        width = self.dtype.itemsize
        first = blocks * self._each
        last = np.minimum(first + self._each, self._length)
        parts = self._files.cat_ranges(
            [self._path] * len(blocks),
            (self._offset + first * width).tolist(),
            (self._offset + last * width).tolist(),
            on_error="raise",
        )
        for part, start, stop in zip(parts, first, last, strict=True):
            self._kept[start:stop] = np.frombuffer(part, self.dtype)
        self._fetched[blocks] = True
