"""Memory that is freed stays with the process, however much it is."""

import subprocess
import sys

import pytest

# Nothing is written to the 2.5 GiB, so they cost no memory; what is kept are addresses.
PROGRAM = """
import ctypes
from jaxir.runtime.memory import keep_freed_memory
{keep}
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.sbrk.restype = ctypes.c_void_p
libc.malloc.argtypes, libc.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
before = libc.sbrk(0)
given = libc.malloc(10 << 28)
libc.free(given)
print(libc.sbrk(0) - before >= 10 << 28)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sets glibc, which Linux has")
@pytest.mark.parametrize(("keep", "kept"), [("keep_freed_memory()", "True"), ("", "False")])
def test_gibibytes_are_kept_when_asked_to(keep, kept):
    command = [sys.executable, "-c", PROGRAM.format(keep=keep)]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    assert said.stdout.split() == [kept]
