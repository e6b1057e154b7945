"""The commands `encode`, `search` and `export` as a user meets them."""

import gzip
import json
import os
import random
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from jaxir import Index, Retriever, encode, search
from jaxir.errors import UserError

MODEL = Path(__file__).parent / "fixtures" / "labse"


def run_encode(*arguments):
    return encode.main(["encode", "--model", str(MODEL), *map(str, arguments)])


def run_search(*arguments):
    return search.main(["search", *map(str, arguments)])


def rows(count):
    rng = np.random.default_rng(0)
    return [
        {
            "_id": f"p{n}",
            "title": "ab",
            "text": " ".join(rng.choice(list("abcd"), rng.integers(1, 9))),
            "language": "de" if n % 2 else "en",
        }
        for n in range(count)
    ]


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def contents(folder):
    return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    """An index of 50 passages in shards of 20, and the file it was made of."""
    folder = tmp_path_factory.mktemp("encoded")
    source = write(folder / "passages.jsonl", rows(50))
    assert run_encode("--input", source, "--output", folder / "index", "--shard_rows", 20) == 0
    return folder / "index", source


def test_an_index_holds_what_the_file_does(encoded):
    folder, source = encoded
    retriever = Retriever.load(MODEL)
    index = Index.load(folder, retriever)
    records = [json.loads(line) for line in source.read_text().splitlines()]
    memory = retriever.index(
        [f"{row['title']} {row['text']}" for row in records],
        [row["_id"] for row in records],
        [row["language"] for row in records],
    )
    for ours, theirs in zip(index.search(["a b", "d"], 50), memory.search(["a b", "d"], 50)):
        assert {(x.id, x.text, x.language) for x in ours} == {
            (x.id, x.text, x.language) for x in theirs
        }
        np.testing.assert_allclose([x.score for x in ours], [x.score for x in theirs], atol=1e-5)
    assert sorted(contents(folder)) == [
        "index.json",
        *(f"shard-0000{n}.{end}" for n in range(3) for end in ("arrow", "safetensors")),
    ]


def test_every_kind_of_file_gives_the_same_index(tmp_path, encoded):
    folder, _ = encoded
    records = rows(50)
    with gzip.open(tmp_path / "one.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(record) + "\n" for record in records[:30])
    pa.parquet.write_table(pa.Table.from_pylist(records[30:]), tmp_path / "two.parquet")
    both = f"{tmp_path / 'one.jsonl.gz'},{tmp_path / 'two.parquet'}"
    run_encode("--input", both, "--output", tmp_path / "index", "--shard_rows", 20)
    assert contents(tmp_path / "index") == contents(folder)
    lines = tmp_path / "lines.txt"
    lines.write_text("a b\n\n c d \n")
    run_encode("--input", lines, "--output", tmp_path / "plain", "--language", "xx")
    index = Index.load(tmp_path / "plain", Retriever.load(MODEL))
    found = index.search(["a b"], 5)[0]
    assert {(x.id, x.text, x.language) for x in found} == {("1", "a b", "xx"), ("2", "c d", "xx")}


def test_a_build_that_broke_off_goes_on(tmp_path, encoded):
    folder, source = encoded
    lines = source.read_bytes().splitlines(keepends=True)
    input_ = tmp_path / "passages.jsonl"
    input_.write_bytes(b"".join(lines[:47]) + b'{"_id": "x", "text": "\xff"}\n')
    arguments = ("--input", input_, "--output", tmp_path / "index", "--shard_rows", 20)
    with pytest.raises(UserError, match=r"passages.jsonl:48: not UTF-8"):
        run_encode(*arguments)
    made = contents(tmp_path / "index")
    assert sorted(made)[:2] == ["shard-00000.arrow", "shard-00000.safetensors"]
    with pytest.raises(UserError, match="no index, or not finished"):
        run_search("--index", tmp_path / "index", "--query", "a")
    with pytest.raises(UserError, match="begun with another dtype"):
        run_encode(*arguments, "--dtype", "int8")
    with pytest.raises(UserError, match="begun with another fingerprint"):
        run_encode(*arguments, "--passage_prefix", "x")
    input_.write_bytes(b"".join([lines[1], lines[0], *lines[2:]]))
    with pytest.raises(UserError, match="shard-00000: made of other passages"):
        run_encode(*arguments)
    input_.write_bytes(b"".join(lines[:15]))
    with pytest.raises(UserError, match="made of other passages"):
        run_encode(*arguments)
    input_.write_bytes(b"".join(lines))
    run_encode(*arguments)
    assert contents(tmp_path / "index") == contents(folder)
    with pytest.raises(UserError, match="holds a finished index"):
        run_encode(*arguments)


@pytest.fixture
def run_as_command(monkeypatch, capsys):
    """A function that runs a console script; returns its status and the lines of its errors."""
    monkeypatch.setattr(os, "_exit", sys.exit)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # which commands change

    def run(module, *arguments):
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            module.command()
        return ended.value.code, capsys.readouterr().err.splitlines()

    return run


@pytest.fixture
def small_disk(tmp_path):
    """A function that gives a disk of its own so many KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("mounting a small disk needs root")

    def resize(kib):
        subprocess.run(["mount", "-o", f"remount,size={kib}k", str(disk)], check=True)
        return disk

    yield resize
    subprocess.run(["umount", str(disk)], check=True)


# every file takes 4 KiB there
@pytest.mark.parametrize(
    ("kib", "missing"),
    [
        (4, "shard-00000.arrow"),
        (8, "shard-00000.safetensors"),
        (12, "shard-00001.arrow"),
        (28, "index.json"),
    ],
)
def test_a_build_goes_on_when_a_full_disk_has_room_again(
    encoded, small_disk, kib, missing, run_as_command
):
    folder, source = encoded
    disk = small_disk(kib)
    arguments = ["--model", MODEL, "--input", source, "--output", disk / "index"]
    status, said = run_as_command(encode, *arguments, "--shard_rows", 20)
    assert status == 2
    assert said == [
        f"error: {disk / 'index' / missing}: No space left on device; "
        "free some space, then start it again"
    ]
    small_disk(1_024)
    assert run_as_command(encode, *arguments, "--shard_rows", 20) == (0, [])
    assert contents(disk / "index") == contents(folder)


def test_an_index_that_does_not_fit_is_not_saved_and_the_earlier_one_stays(small_disk):
    retriever, folder = Retriever.load(MODEL), small_disk(64) / "index"
    small = retriever.index(["a", "b"])
    small.save(folder)
    before = contents(folder)
    with pytest.raises(UserError, match=r"index: cannot be written \(No space left"):
        retriever.index([f"a {n}" for n in range(2_000)]).save(folder)
    assert contents(folder) == before
    assert os.listdir(folder.parent) == ["index"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"_id": "x", "text": " "}', ":3: empty text; remove it, or --drop_empty"),
        ('{"_id": "x"}', ":3: field 'text' is missing or not a text"),
        ('{"_id": "", "text": "a"}', ":3: the id '' is neither"),
        ('{"_id": "\\ud83d", "text": "a"}', ":3: the id holds half a surrogate pair"),
        ('{"_id": "x", "text": "\\ud83d"}', ":3: field 'text' holds half a surrogate pair"),
        ('{"_id": "p0", "text": "a"}', "^id 'p0': two passages have it"),
        ('{"_id": "x", "text": "a", "language": "de/AT"}', ":3: language 'de/AT': must be a code"),
        ('{"_id": "x", "text"', ":3: invalid JSON"),
        ("[1]", ":3: a list; each line must be an object"),
    ],
)
def test_rows_that_are_wrong_are_named(tmp_path, line, message):
    source = tmp_path / "passages.jsonl"
    write(source, rows(2))
    source.write_text(source.read_text() + line + "\n")
    with pytest.raises(UserError, match=message):
        run_encode("--input", source, "--output", tmp_path / "index")


def test_mistakes_on_the_command_line(tmp_path, encoded):
    (tmp_path / "empty.txt").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    index, source = encoded
    for arguments, message in (
        ((), "--input is missing"),
        (("--input", source), "--output is missing"),
        (("--input", "none.txt", "--output", tmp_path / "x"), "--input none.txt: no such file"),
        (("--input", source, "--output", tmp_path / "full"), "exists and is no index"),
        (("--input", source, "--output", source), "exists and is no index"),
        (("--input", tmp_path / "empty.txt", "--output", tmp_path / "e"), "holds no passage"),
        (("--input", source, "--output", tmp_path / "y", "--dtype", "half"), "dtype 'half'"),
    ):
        with pytest.raises(UserError, match=message):
            run_encode(*arguments)
    for arguments, message in (
        ((), "--index is missing"),
        (("--index", tmp_path / "full"), "no index, or not finished"),
        (("--index", source), "no index, or not finished"),
        (("--index", index, "--query", " "), "--query is empty"),
        (("--index", index, "--queries", "x"), "go together"),
        (("--index", index, "--query", "a", "--queries", "x", "--run", "y"), "not both"),
        (("--index", index, "--query", "a", "--language", "fr"), "known are: de, en"),
        (("--index", index, "--queries", tmp_path / "no", "--run", tmp_path / "r"), "no such file"),
    ):
        with pytest.raises(UserError, match=message):
            run_search(*arguments)
    assert not (tmp_path / "r").exists()


def test_a_path_that_is_wrong_is_one_line(tmp_path, encoded, run_as_command):
    index, source = encoded
    run = tmp_path / "none" / "run"
    given = ("--index", index, "--queries", source, "--run", run)
    message = "No such file or directory; mend the path, or who may use it"
    assert run_as_command(search, *given) == (2, [f"error: {run}: {message}"])


def test_an_index_whose_model_is_gone_says_so(tmp_path, encoded):
    index = shutil.copytree(encoded[0], tmp_path / "index")
    described = json.loads((index / "index.json").read_text())
    for name in ("./gone", ""):
        (index / "index.json").write_text(json.dumps(described | {"model": name}))
        with pytest.raises(UserError, match=f"index: made by the model '{name}', which cannot be"):
            run_search("--index", index, "--query", "a")
        run_search("--index", index, "--query", "a", "--model", MODEL)


def test_a_query_is_answered_in_a_table(encoded, capsys):
    index, _ = encoded
    assert run_search("--index", index, "--query", "ab a b", "--k", 3, "--language", "de") == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split() == ["score", "language", "id", "text"]
    assert len(shown) >= 4
    assert all(" de " in line for line in shown[1:4])


def test_typed_queries_are_answered_until_the_input_ends(encoded, capsys, monkeypatch):
    index, _ = encoded
    typed = iter(["a b", "", "c"])

    def read(_):
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)
    run_search("--index", index, "--k", 2)
    assert capsys.readouterr().out.count("score") == 2


def test_a_file_of_queries_becomes_a_run(tmp_path, encoded):
    index, _ = encoded
    queries = write(tmp_path / "queries.jsonl", [{"_id": f"q{n}", "text": "a b"} for n in range(3)])
    run_search("--index", index, "--queries", queries, "--run", tmp_path / "run", "--k", 4)
    lines = [line.split() for line in (tmp_path / "run").read_text().splitlines()]
    assert [(x[0], x[1], x[3], x[5]) for x in lines] == [
        (f"q{n}", "Q0", str(rank), "jaxir") for n in range(3) for rank in range(1, 5)
    ]
    found = Index.load(index, Retriever.load(MODEL)).search(["a b"], 4)[0]
    assert [x[2] for x in lines[:4]] == [x.id for x in found]
    write(queries, [{"_id": "q 1", "text": "a"}])
    with pytest.raises(UserError, match="id 'q 1' is empty or holds white space"):
        run_search("--index", index, "--queries", queries, "--run", tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_kills_change_nothing(kills, tmp_path):
    # about twice what so many starts get done on a fast machine
    source = write(tmp_path / "passages.jsonl", rows(300 * kills))

    def start(folder):
        command = [sys.executable, "-m", "jaxir.encode", "--model", str(MODEL)]
        arguments = ["--input", str(source), "--output", str(folder), "--shard_rows", "30"]
        with (tmp_path / "log").open("ab") as log:
            return subprocess.Popen(
                [*command, *arguments, "--batch_tokens", "256"], stdout=log, stderr=log
            )

    assert start(tmp_path / "whole").wait(900) == 0, (tmp_path / "log").read_text()
    rng, killed, folder = random.Random(0), 0, tmp_path / "killed"
    for _ in range(kills):
        process = start(folder)
        before = len(os.listdir(folder)) if folder.exists() else 0
        deadline = time.monotonic() + 600
        while process.poll() is None and time.monotonic() < deadline:
            if folder.exists() and len(os.listdir(folder)) > before:
                break
            time.sleep(0.001)
        time.sleep(rng.random() * 0.05)
        killed += process.poll() is None
        process.kill()
        process.wait()
    assert killed == kills
    assert not (folder / "index.json").exists()
    assert start(folder).wait(900) == 0, (tmp_path / "log").read_text()
    assert contents(folder) == contents(tmp_path / "whole")


def most_anonymous_memory(process):
    """Bytes, while it lasts, that are in memory and in no file."""
    most = 0
    while process.poll() is None:
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                most = max(most, int(line.split()[1]) * 1024)
        time.sleep(0.01)
    return most


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_does_not_grow_with_the_input(tmp_path):
    most = {}
    for name, count in (("small", 2_000), ("large", 64_000)):
        source = tmp_path / f"{name}.jsonl"
        write(source, ({"_id": f"p{n}", "text": f"{n} " * 400} for n in range(count)))
        command = [sys.executable, "-m", "jaxir.encode", "--model", str(MODEL)]
        arguments = ["--input", str(source), "--output", str(tmp_path / name)]
        process = subprocess.Popen([*command, *arguments, "--shard_rows", "500"])
        most[source.stat().st_size] = most_anonymous_memory(process)
        assert process.returncode == 0
    for size, memory in most.items():
        print(f"{size / 1e6:.0f} MB of input: {memory / 1e6:.0f} MB of anonymous memory")
    (small, less), (large, more) = most.items()
    assert large - small > 140e6
    # two runs over one input differ by as much as 15 MB
    assert more - less < (large - small) / 9
