"""Of several processes one makes a thing; a dead one's claim is taken over."""

import os
import subprocess
import sys
import threading
import time

import pytest
from etils import epath

from jaxir.runtime.claims import Claims, make_together
from jaxir.runtime.files import create


def test_only_one_can_create_a_file(tmp_path):
    won = []
    barrier = threading.Barrier(8)

    def race(number):
        barrier.wait()
        if create(tmp_path / "file", str(number)):
            won.append(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "file").read_text() == str(won[0])
    assert len(won) == 1
    assert os.listdir(tmp_path) == ["file"]


def test_a_claim_is_exclusive_until_it_is_released(tmp_path):
    folder = epath.Path(tmp_path)
    with Claims(folder) as ours, Claims(folder) as others:
        assert ours.take("thing")
        assert not others.take("thing")
        assert others.take("another")
        ours.release("thing")
        assert others.take("thing")
    assert not os.listdir(tmp_path)


def test_a_claim_that_says_nothing_is_someones_too(tmp_path):
    folder = epath.Path(tmp_path)
    assert create(folder / "thing.claim-0", "")
    with Claims(folder) as others:
        assert not others.take("thing")


def test_a_claim_of_another_host_expires_when_it_stays_the_same(tmp_path):
    folder = epath.Path(tmp_path)
    assert create(folder / "thing.claim-0", "elsewhere 17 1")
    with Claims(folder, expires=0.2) as first, Claims(folder, expires=2.0) as second:
        deadline = time.monotonic() + 600
        assert not first.take("thing")
        while not first.take("thing"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        # alive, so it keeps it however long it takes
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            assert not second.take("thing")
            time.sleep(0.05)
    assert not os.listdir(tmp_path)


def test_a_dead_process_of_this_host_holds_nothing(tmp_path):
    program = (
        "import os, sys; from etils import epath; from jaxir.runtime.claims import Claims\n"
        "claims = Claims(epath.Path(sys.argv[1])).__enter__()\n"
        "assert claims.take('thing'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert os.listdir(tmp_path) == ["thing.claim-0"]
    with Claims(epath.Path(tmp_path)) as claims:
        assert claims.take("thing")


def test_a_failed_maker_leaves_it_to_others(tmp_path):
    folder = epath.Path(tmp_path)
    paths = {name: folder / name for name in "abc"}
    failed = threading.Event()
    made = []

    def fail(name):
        failed.set()
        raise OSError("disk full")

    def make(name):
        made.append(name)
        paths[name].write_text(name)

    def other():
        failed.wait()
        with Claims(folder) as claims:
            make_together(paths, make, claims, poll=0.01)

    thread = threading.Thread(target=other)
    thread.start()
    with Claims(folder) as claims, pytest.raises(OSError, match="disk full"):
        make_together(paths, fail, claims, poll=0.01)
    thread.join()
    assert sorted(made) == ["a", "b", "c"]
