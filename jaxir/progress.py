"""Progress of long commands: a bar on a terminal, a line every 30 s in a file or a pipe."""

import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from tqdm import tqdm

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 30.0  # in a file or pipe, shorter work logs nothing


class _Lines:
    """A stream as tqdm sees it, on which each state of a bar is a line of its own."""

    def __init__(self, stream: TextIO):
        self._stream, self._last = stream, ""

    def write(self, text: str) -> None:
        line = text.strip()  # tqdm goes back to the start of the line, and pads what was there
        state = line.rpartition("[")[0]
        if state and state != self._last:  # it says the end twice
            self._last = state
            self._stream.write(f"{line}\n")

    def flush(self) -> None:
        self._stream.flush()


def progress_bar(what: str, total: int | None, unit: str, done: int = 0, **options: Any) -> tqdm:
    """A tqdm bar on stderr: drawn in place on a terminal, a line every 30 seconds elsewhere.

    Args:
        what: label of the bar.
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
        delay=SECONDS_BETWEEN_LINES,
        mininterval=SECONDS_BETWEEN_LINES,
        miniters=1,  # look at the clock at every step, or tqdm's own thread writes lines of its own
        ncols=0,  # figures alone
        position=0,  # a bar inside another one moves no cursor
        **common,
    )


@contextmanager
def still_at(what: str) -> Iterator[None]:
    """Log a line every 30 seconds during work that has no countable steps."""
    began, done = time.monotonic(), threading.Event()

    def say() -> None:
        while not done.wait(SECONDS_BETWEEN_LINES):
            logger.info("%s: %.0f s so far", what, time.monotonic() - began)

    thread = threading.Thread(target=say, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
