"""A run with a workdir in a bucket, which a server of the tests' own stands for."""

import importlib.util
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake_gcs import serving
from safetensors.numpy import load, load_file
from tiny import tiny_config, write_config

from jaxir.config import LoggingConfig
from jaxir.data import bucket_array
from jaxir.data.tokenizer import train_tokenizer
from jaxir.data.tokens import read_tokens
from jaxir.errors import UserError
from jaxir.runtime.claims import Claims, make_together
from jaxir.runtime.files import as_local, create, path_of, publish, write_json, writing
from jaxir.training.checkpoint import Checkpoints
from jaxir.training.run_log import RunLog
from jaxir.training.workdir import claim

TEXTS = [f"Query: number {n} and {n * n} of many" for n in range(300)]
STEPS = 150
_numbers = itertools.count()


@pytest.fixture(scope="module")
def server():
    with serving() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        # fsspec reads the environment when it is imported, which other tests may have done
        patch.setitem(fsspec.config.conf, "gcs", {"token": "anon"})
        yield server
        _close_clients()


def _close_clients():
    """Sessions that are still open warn when they are collected, in whichever test that is."""
    import gcsfs
    from etils.epath import backend

    for files in gcsfs.GCSFileSystem._cache.values():
        if files.session is not None:
            fsspec.asyn.sync(files.loop, files.session.close)
    gcsfs.GCSFileSystem.clear_instance_cache()
    backend.fsspec_backend._get_filesystem.cache_clear()


@pytest.fixture
def folder(server):
    """A folder of the bucket that no other test uses."""
    server.requests.clear()
    return path_of(f"gs://bucket/test-{next(_numbers)}")


def _name(path):
    return os.fspath(path).removeprefix("gs://bucket/")


def _inside(server, path):
    """Objects of a folder, by their names in it, oldest first."""
    prefix = _name(path) + "/"
    found = {name: server.objects[name] for name in server.names(prefix)}
    by_age = sorted(found, key=lambda name: found[name].generation)
    return {name.removeprefix(prefix): found[name].data for name in by_age}


def _text(server, path):
    return server.objects[_name(path)].data.decode()


def _wait_for(condition, seconds=600.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_another_scheme_is_refused():
    with pytest.raises(UserError, match="s3://x: must be a local path or begin with gs://"):
        path_of("s3://x")


def test_without_gcsfs_a_bucket_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert path_of("runs/x").name == "x"
    with pytest.raises(UserError, match=r"gs://bucket/x: reading buckets needs gcsfs; run: pip"):
        path_of("gs://bucket/x")


def test_only_one_can_create_an_object(server, folder):
    barrier = threading.Barrier(8)

    def race(number):
        barrier.wait()
        return create(folder / "file", str(number))

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(race, range(8)))
    assert sum(won) == 1
    assert _text(server, folder / "file") == str(won.index(True))
    assert not create(folder / "file", "later")


def test_what_others_write_is_seen_at_once(server, folder):
    create(folder / "first", "1")
    assert [path.name for path in folder.iterdir()] == ["first"]
    assert not (folder / "second").exists()
    server.put(_name(folder / "first"), b"another host's")
    server.put(_name(folder / "second"), b"2")
    assert sorted(path.name for path in folder.iterdir()) == ["first", "second"]
    assert (folder / "second").exists()
    assert (folder / "first").read_text() == "another host's"
    del server.objects[_name(folder / "second")]
    assert not (folder / "second").exists()


def test_an_error_while_writing_leaves_nothing(server, folder):
    def broken():
        with writing(folder / "file") as file:
            file.write("half")
            file.flush()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken()
    assert not _inside(server, folder)
    write_json(folder / "file", {"a": "é"})
    before = server.objects[_name(folder / "file")]
    assert json.loads(before.data) == {"a": "é"}
    with pytest.raises(RuntimeError):
        broken()
    assert server.objects[_name(folder / "file")] == before


# gcsfs has aiohttp send a part as it is
@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
def test_a_published_folder_gets_its_marker_last(server, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(server, "page", 2)  # entries of a listing at once
    local = tmp_path / "made"
    contents = {"b.json": b"b", "a_marker": b"", "inner/deep/c": b"c" * 100}
    contents["z"] = bytes(6 << 20)  # enough to be uploaded in parts
    for name, data in contents.items():
        (local / name).parent.mkdir(parents=True, exist_ok=True)
        (local / name).write_bytes(data)
    publish(local, folder / "made", "a_marker")
    assert not local.exists()
    arrived = _inside(server, folder / "made")
    assert arrived == contents
    assert [*arrived][-1] == "a_marker"
    with as_local(folder / "made") as back:
        assert {name: (back / name).read_bytes() for name in contents} == contents
    assert not back.exists()


@pytest.mark.parametrize("status", [403, 404])
def test_a_bucket_that_cannot_be_written_is_named(server, folder, tmp_path, monkeypatch, status):
    config = tiny_config(tmp_path)
    claim(folder, config)
    claim(folder, config)  # going on
    monkeypatch.setattr(server, "refusal", status)
    with pytest.raises(UserError, match=f"^{folder / 'new'}: cannot be written"):
        claim(folder / "new", config)


def test_a_claim_is_exclusive_until_it_is_released(server, folder):
    with Claims(folder) as ours, Claims(folder) as others:
        assert ours.take("thing")
        assert not others.take("thing")
        assert others.take("another")
        ours.release("thing")
        assert others.take("thing")
    assert not _inside(server, folder)


def test_a_claim_of_a_dead_host_is_taken_over(server, folder):
    with Claims(folder, expires=1.0) as first, Claims(folder, expires=1.0) as second:
        assert first.take("another")  # has listed the folder
        server.put(_name(folder / "thing.claim-0"), b"elsewhere 17 1")
        assert not first.take("thing")
        _wait_for(lambda: first.take("thing"))
        assert _name(folder / "thing.claim-1") in server.objects
        # alive, so it keeps it however long it takes
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            assert not second.take("thing")
            time.sleep(0.05)
    assert not _inside(server, folder)


def test_each_thing_is_made_by_one(server, folder):
    made, paths = Counter(), {name: folder / name for name in "abcdef"}

    def make(name):
        made[name] += 1
        time.sleep(0.01)
        create(paths[name], "made")

    def take_part(_):
        with Claims(folder) as claims:
            make_together(paths, make, claims, poll=0.05)
        assert all(path.exists() for path in paths.values())

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(take_part, range(3)))
    assert made == dict.fromkeys("abcdef", 1)
    assert _inside(server, folder) == dict.fromkeys(paths, b"made")


def test_what_another_host_makes_is_waited_for(server, folder):
    made = []
    server.put(_name(folder / "thing.claim-0"), b"elsewhere 17 1")

    def take_part():
        with Claims(folder) as claims:
            make_together({"thing": folder / "thing"}, made.append, claims, poll=0.05)

    # a daemon: one that waits forever must not keep the tests from ending
    waiting = threading.Thread(target=take_part, daemon=True)
    waiting.start()
    time.sleep(0.3)
    assert waiting.is_alive()
    server.put(_name(folder / "thing"), b"")
    waiting.join(600)
    assert not waiting.is_alive()
    assert not made


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 200)


@pytest.fixture
def _small_blocks(monkeypatch):
    monkeypatch.setattr(bucket_array, "BLOCK", 256)


def _ids_name(server, folder):
    (name,) = (name for name in _inside(server, folder) if name.endswith("/ids.npy"))
    return f"{_name(folder)}/{name}"


def _bytes_of(request):
    first, last = re.fullmatch(r"bytes=(\d+)-(\d+)", request.range).groups()
    return range(int(first), int(last) + 1)


@pytest.mark.usefixtures("_small_blocks")
def test_tokens_of_a_bucket_equal_those_on_disk(server, folder, tokenizer, tmp_path):
    local = read_tokens(TEXTS, tokenizer, tmp_path)
    for _ in range(2):  # made, then read
        tokens = read_tokens(TEXTS, tokenizer, folder)
        for places in (np.arange(300), np.array([299, -1, 3]), np.arange(0)):
            for ours, expected in zip(tokens.padded(places, 24), local.padded(places, 24)):
                np.testing.assert_array_equal(ours, expected)
    assert not [name for name in _inside(server, folder) if ".claim-" in name]
    more = [*TEXTS, "Query: what no segment knows"]
    both = read_tokens(more, tokenizer, folder)
    assert len(both.segments) == 2
    for ours, expected in zip(
        both.padded(np.arange(301), 24),
        read_tokens(more, tokenizer, tmp_path).padded(np.arange(301), 24),
    ):
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.usefixtures("_small_blocks")
def test_only_blocks_that_are_needed_are_fetched_once(server, folder, tokenizer):
    read_tokens(TEXTS, tokenizer, folder)
    name = _ids_name(server, folder)
    whole = server.objects[name].data
    head = whole.index(b"\n") + 1

    def fetched():
        about = [r for r in server.requests if r.path.endswith(name) and r.sent]
        assert all(request.range for request in about)
        return about

    server.requests.clear()
    tokens = read_tokens(TEXTS, tokenizer, folder)
    (first,) = fetched()
    assert _bytes_of(first) == range(bucket_array.HEADER)
    server.requests.clear()
    texts = np.array([7, 150, 151])
    needed = set()
    for text in texts:
        start, length = tokens.start[text], tokens.length[text]
        needed |= {int(place) * 4 // bucket_array.BLOCK for place in range(start, start + length)}
    expected = Counter()
    for block in needed:
        begin = head + block * bucket_array.BLOCK
        expected.update(range(begin, min(begin + bucket_array.BLOCK, len(whole))))
    tokens.padded(texts, 64)
    assert Counter(itertools.chain.from_iterable(map(_bytes_of, fetched()))) == expected
    assert sum(request.sent for request in fetched()) == expected.total() < len(whole) / 4
    assert tokens.segments[0].fetched_bytes == len(needed) * bucket_array.BLOCK
    server.requests.clear()
    tokens.padded(texts, 16)
    assert not server.requests


@pytest.mark.parametrize("kept", [-4, 50, 0, None], ids=["last", "header", "empty", "gone"])
def test_a_cut_off_file_of_ids_is_named(server, folder, tokenizer, kept):
    read_tokens(TEXTS, tokenizer, folder)
    name = _ids_name(server, folder)
    if kept is None:
        del server.objects[name]
    else:
        server.put(name, server.objects[name].data[:kept])
    with pytest.raises(UserError, match=r"segment-.*damaged token cache.*delete that folder"):
        read_tokens(TEXTS, tokenizer, folder)


def _steps(server, folder):
    return [
        json.loads(line)["step"] for line in _text(server, folder / "metrics.jsonl").splitlines()
    ]


def _events(server, folder):
    return [*_inside(server, folder / "tensorboard").values()]


def test_a_report_is_there_after_a_flush(server, folder):
    report = RunLog(folder, LoggingConfig(), {}, 0)
    for step in (1, 2):
        report.write(step, {"loss": 1 / step, "held_out/map@10": 0.5})
    assert not _inside(server, folder)
    report.flush()
    lines = _text(server, folder / "metrics.jsonl").splitlines()
    assert json.loads(lines[1]) == {"step": 2, "loss": 0.5, "held_out/map@10": 0.5}
    assert len(_events(server, folder)) == 1
    report.write(3, {"loss": 0.25, "late": 1.0})
    report.close()
    assert _steps(server, folder) == [1, 2, 3]
    (events,) = _events(server, folder)
    assert b"loss" in events
    assert b"held_out/map_at_10" in events
    assert b"late" in events


def test_a_report_is_written_now_and_then(server, folder, monkeypatch):
    monkeypatch.setattr("jaxir.training.run_log.SECONDS_BETWEEN_WRITES", 0.0)
    report = RunLog(folder, LoggingConfig(), {}, 0)
    report.write(1, {"loss": 1.0})
    assert _steps(server, folder) == [1]
    report.close()


@pytest.mark.parametrize("resumed", [4, 0])
def test_a_resumed_report_drops_later_lines(server, folder, resumed):
    report = RunLog(folder, LoggingConfig(), {}, 0)
    for step in range(1, 7):
        report.write(step, {"loss": 1.0})
    report.close()
    (before,) = _events(server, folder)
    began = int(time.time())
    _wait_for(lambda: int(time.time()) > began)  # TensorBoard's files are named by the second
    report = RunLog(folder, LoggingConfig(), {}, resumed)
    report.write(resumed + 1, {"loss": 0.5})
    report.close()
    assert _steps(server, folder) == [*range(1, resumed + 2)]
    assert before in _events(server, folder)


def test_a_line_cut_off_by_a_kill_is_dropped(server, folder):
    server.put(_name(folder / "metrics.jsonl"), b'{"step": 1, "loss": 1.0}\n{"step": 2, "lo')
    RunLog(folder, LoggingConfig(tensorboard=False), {}, 2).close()
    assert _steps(server, folder) == [1]


class _Run:
    """`python -m jaxir.train` as another process, from an empty folder of its own."""

    def __init__(self, server, config, workdir, cwd):
        cwd.mkdir()
        self._log = cwd.with_suffix(".log")
        environment = os.environ | server.environment
        environment["JAX_PLATFORMS"] = "cpu"
        flags = os.environ["XLA_FLAGS"]
        environment["XLA_FLAGS"] = re.sub(r"device_count=\d+ ", "device_count=2 ", flags)
        environment["PYTHONPATH"] = str(Path(__file__).parents[1])
        command = (
            *(sys.executable, "-m", "jaxir.train", "--config", str(config)),
            *("--workdir", str(workdir), "--config.checkpoint.every=30"),
            "--config.evaluation.every=60",
        )
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=cwd, stdout=log, stderr=log, env=environment
            )

    def ends(self, status):
        found = self.process.wait(timeout=300)
        assert found == status, self._log.read_text()[-5000:]


def test_checkpoints_of_a_bucket_are_sealed_and_checked(server, folder):
    state = {"a": jnp.arange(100.0), "b": {"c": jnp.ones((3, 4))}}
    abstract = jax.eval_shape(lambda: state)
    checkpoints = Checkpoints(folder / "checkpoints", 2, "loss")
    try:
        assert checkpoints.restore_latest(abstract) is None
        for step, loss in enumerate([1.0, 3.0, 2.0, 4.0]):
            checkpoints.save(step, jax.tree.map(lambda x, n=step: x + n, state), {"loss": loss})
        checkpoints.wait()
        assert checkpoints.steps() == [0, 2, 3]  # the best and the newest two
        assert [*_inside(server, folder / "checkpoints" / "3")][-1] == "manifest.json"
        step, restored = checkpoints.restore_latest(abstract)
        assert step == 3
        np.testing.assert_array_equal(restored["b"]["c"], np.full((3, 4), 4.0))
        for name, data in _inside(server, folder / "checkpoints" / "3").items():
            if name.startswith("d/"):
                changed = data[:-1] + bytes([data[-1] ^ 1])
                server.put(_name(folder / "checkpoints" / "3" / name), changed)
        del server.objects[_name(folder / "checkpoints" / "2" / "manifest.json")]
        assert checkpoints.restore_latest(abstract)[0] == 0
        assert not _inside(server, folder / "checkpoints" / "2")
    finally:
        checkpoints.close()


@pytest.mark.slow
def test_a_run_in_a_bucket_goes_on_elsewhere_and_ends_the_same(server, folder, tmp_path):
    from jaxir.training.trained import read_trained

    config, run = write_config(tmp_path, STEPS), folder / "run"
    sealed = _name(run / "checkpoints" / "30" / "manifest.json")
    first = _Run(server, config, run, tmp_path / "first")
    try:
        _wait_for(lambda: sealed in server.objects or first.process.poll() is not None)
        first.process.send_signal(signal.SIGTERM)
        first.ends(143)
    finally:
        first.process.kill()
    assert _name(run / "results.json") not in server.objects
    stopped = json.loads(_text(server, run / "metrics.jsonl").splitlines()[-1])["step"]
    assert 30 <= stopped < STEPS
    _Run(server, config, run, tmp_path / "second").ends(0)

    whole = tmp_path / "whole"
    (whole / "tokenizer").mkdir(parents=True)
    for name, data in _inside(server, run / "tokenizer").items():
        (whole / "tokenizer" / name).write_bytes(data)
    _Run(server, config, whole, tmp_path / "third").ends(0)
    weights = _name(run / "export" / "model.safetensors")
    exported, uninterrupted = (
        load(server.objects[weights].data),
        load_file(whole / "export" / "model.safetensors"),
    )
    assert exported.keys() == uninterrupted.keys()
    for name in exported:
        np.testing.assert_array_equal(exported[name], uninterrupted[name])

    assert _steps(server, run) == [
        json.loads(line)["step"] for line in (whole / "metrics.jsonl").read_text().splitlines()
    ]
    in_bucket = _inside(server, run)
    # the names of TensorBoard's files tell the time, the cache's the texts
    common = re.compile(r"(?!tensorboard/|tokens/|checkpoints/)")
    on_disk = {str(file.relative_to(whole)) for file in whole.rglob("*") if file.is_file()}
    assert {*filter(common.match, in_bucket)} == {*filter(common.match, on_disk)}
    assert not [name for name in in_bucket if ".claim-" in name or "unfinished" in name]
    assert not [*(tmp_path / "first").iterdir(), *(tmp_path / "second").iterdir()]

    model = read_trained(os.fspath(run))
    assert model.config.encoder.hidden_size == 16
    assert len(model.tokenizer) <= 300
    # a run that is under way gives its best checkpoint
    for name in _inside(server, run / "export"):
        del server.objects[_name(run / "export" / name)]
    best = read_trained(os.fspath(run))
    assert best.config.encoder == model.config.encoder


def test_a_sweep_in_a_bucket_is_shared_and_reported_on(server, folder, tmp_path):
    from pretend_sweep import grid_config, write_sweep

    from jaxir.sweep.mixtures import runs
    from jaxir.sweep.report import report
    from jaxir.sweep.workers import DONE, WAIT, Board

    config = grid_config(0.5)
    wanted = runs(config)
    write_sweep(tmp_path / "sweep", config, failed=("hybrid-seed0",))
    for file in (tmp_path / "sweep").rglob("*"):
        if file.is_file() and wanted[0].name not in file.parts:
            name = file.relative_to(tmp_path / "sweep")
            server.put(_name(folder / str(name)), file.read_bytes())

    with Claims(folder / "claims") as ours, Claims(folder / "claims") as others:
        boards = Board(folder, wanted, ours), Board(folder, wanted, others)
        assert boards[0].left() == 1
        assert boards[0].take() == 0
        assert boards[1].take() == WAIT
        for file in (tmp_path / "sweep" / wanted[0].name).iterdir():
            server.put(_name(folder / wanted[0].name / file.name), file.read_bytes())
        ours.release(wanted[0].name)
        assert boards[1].take() == DONE

    report(folder, folder / "report", 0.5, None, None)
    report(path_of(tmp_path / "sweep"), path_of(tmp_path / "report"), 0.5, None, None)
    found = _inside(server, folder / "report")
    assert found.keys() == {file.name for file in (tmp_path / "report").iterdir()}
    for name in ("report.json", "runs.csv", "mixtures.csv"):
        assert found[name] == (tmp_path / "report" / name).read_bytes()
    assert json.loads(found["report.json"])["missing"].keys() == {"hybrid-seed0"}
