"""Settings of the C library's memory allocator."""

import ctypes
import sys

# of glibc's mallopt(3), from malloc.h
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> None:
    """Keep freed memory in the process instead of returning it to the system.

    On CPUs XLA allocates its buffers again at every step. With glibc's defaults they are new pages,
    which the kernel has to clear first; that takes a tenth to a fifth of a small model's step, and
    more with buffers of several GiB. Without glibc this does nothing; on accelerators there is
    little to keep.
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
