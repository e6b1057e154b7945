"""How this process asks its machine for memory."""

import ctypes
import sys

# of glibc's mallopt(3), from malloc.h
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> None:
    """Keep what is freed for the next that asks, instead of giving it back.

    On CPUs XLA asks for its buffers anew at every step. As glibc is set they come as pages that the
    machine has to clear first, which takes a tenth to a fifth of a small model's step, and more
    where several GiB go back and forth. Elsewhere than on glibc nothing happens; on accelerators
    there is little to keep.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for option, value in (
        (_ARENA_MAX, 1),  # else each thread keeps memory of its own
        (_MMAP_MAX, 0),
        (_TRIM_THRESHOLD, -1),  # never
        (_TOP_PAD, 2**28),
    ):
        mallopt(option, value)
