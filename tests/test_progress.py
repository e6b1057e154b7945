"""Progress: a bar where somebody watches, lines at times where nobody does, silence in short."""

import io
import re
import sys
import time

import pytest

from jaxir import progress


class Terminal(io.StringIO):
    """What a terminal looks like to tqdm."""

    def isatty(self):
        return True


def shown(monkeypatch, stream, steps, seconds_a_step):
    """What a bar writes, with a clock that a step moves on."""
    now = [1_000.0]
    monkeypatch.setattr(sys, "stderr", stream)
    with progress.progress_bar("encoding", steps, "texts", leave=None) as bar:
        bar._time = lambda: now[0]
        bar.start_t = bar.last_print_t = now[0]
        for _ in range(steps):
            now[0] += seconds_a_step
            bar.update()
    return stream.getvalue()


def test_a_long_command_writes_whole_lines_to_a_file(monkeypatch):
    lines = shown(monkeypatch, io.StringIO(), 120, 1.0).splitlines()
    assert 3 <= len(lines) <= 6
    assert all(line.startswith("encoding:") and line.endswith("texts/s]") for line in lines)
    assert [int(line.split("/")[0].split()[-1]) for line in lines] == sorted(
        {int(line.split("/")[0].split()[-1]) for line in lines}
    )  # none twice
    assert "120/120" in lines[-1]


def test_a_short_one_writes_nothing_to_a_file(monkeypatch):
    assert shown(monkeypatch, io.StringIO(), 29, 1.0) == ""


def test_a_bar_in_a_bar_moves_no_cursor_in_a_file(monkeypatch):
    stream = io.StringIO()
    with progress.progress_bar("shards", 2, "shards") as outer:
        outer.delay = outer.mininterval = 0
        shown(monkeypatch, stream, 120, 1.0)
    assert "encoding: 100%" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_work_that_nobody_can_count_is_heard_of(monkeypatch, caplog):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.01)
    caplog.set_level("INFO", "jaxir.progress")
    with progress.still_at("ranking"):
        while not caplog.messages:
            time.sleep(0.01)
    assert re.fullmatch(r"ranking: \d+ s so far", caplog.messages[0])
    said = len(caplog.messages)
    time.sleep(0.05)
    assert len(caplog.messages) == said


@pytest.mark.parametrize("steps", [3, 90])
def test_a_terminal_has_a_bar(monkeypatch, steps):
    assert f"0/{steps}" in shown(monkeypatch, Terminal(), steps, 0.1)
