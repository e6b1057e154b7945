"""How far a long command is: a bar on a terminal, a line at times in a file or a pipe."""

import sys
from typing import Any, TextIO

from tqdm import tqdm

SECONDS_TO_FIRST_LINE = 10.0  # what takes less says nothing where nobody watches
SECONDS_BETWEEN_LINES = 30.0


class _Lines:
    """A stream as tqdm sees it, on which each state of a bar is a line of its own."""

    def __init__(self, stream: TextIO):
        self._stream, self._last = stream, ""

    def write(self, text: str) -> None:
        line = text.strip()  # tqdm goes back to the start of the line, and pads what was there
        state = line.partition("[")[0]
        if state and state != self._last:  # it says the end twice
            self._last = state
            self._stream.write(f"{line}\n")

    def flush(self) -> None:
        self._stream.flush()


def progress_bar(what: str, total: int | None, unit: str, done: int = 0, **options: Any) -> tqdm:
    """A tqdm bar on stderr: drawn in place on a terminal, a line every 30 seconds elsewhere.

    Args:
        what: stands before it.
        total: how many there are; None: unknown.
        unit: what is counted, in the plural.
        done: how many were done before.
        options: of tqdm.
    """
    common = {"desc": what, "total": total, "unit": f" {unit}", "initial": done} | options
    if sys.stderr.isatty():
        return tqdm(dynamic_ncols=True, mininterval=1.0, maxinterval=30.0, **common)
    return tqdm(
        file=_Lines(sys.stderr),
        delay=SECONDS_TO_FIRST_LINE,
        mininterval=SECONDS_BETWEEN_LINES,
        miniters=1,  # look at the clock at every step, or tqdm's own thread writes lines of its own
        ncols=0,  # figures alone
        **common,
    )
