"""Downloads from a server on this machine that behaves, breaks off, or sends something else."""

import contextlib
import hashlib
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest

from jaxir.benchmarks import download as module
from jaxir.benchmarks.download import (
    XQUAD_R_SHA256,
    cache_folder,
    download,
    local_dataset,
    xquad_r_folder,
)
from jaxir.errors import UserError

XQUAD_R = Path(__file__).parents[1].parent / "shared/data/xquad-r"
FILES = {"a.json": b"a" * 100_000 + b"z", "b.json": "{ไทย}".encode()}
SHA256 = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
HALF = 40_000


class Handler(BaseHTTPRequestHandler):
    """What the server has, and what goes wrong, is written on the server."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        name = self.path.removeprefix("/files/")
        asked = self.headers["Range"]
        self.server.seen.append((name, asked))
        self.close_connection = True
        if self.server.garbage:
            self.wfile.write(self.server.garbage)
            return
        if name not in self.server.files:
            self.send_error(404)
            return
        body = whole = self.server.files[name]
        if asked and self.server.ranges:
            begin = int(asked.removeprefix("bytes=").removesuffix("-"))
            if begin >= len(whole):
                self.send_error(416)
                return
            body = whole[begin:]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{len(whole) - 1}/{len(whole)}")
        else:
            self.send_response(200)
        if self.server.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            body = b"%x\r\n%b\r\n" % (len(body), body)  # the last chunk, of no bytes, never comes
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.cuts.pop(0) if self.server.cuts else None])

    def log_message(self, *arguments):
        pass


class Server(ThreadingHTTPServer):
    """Files under /files/ on a free port of this machine."""

    daemon_threads = False  # closing waits for them

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = dict(FILES)
        self.seen: list[tuple[str, str | None]] = []  # file and Range of each request
        self.ranges = True
        self.cuts: list[int] = []  # bytes sent of each body, of those that break off
        self.chunked = False
        self.garbage = b""
        self.url = f"http://127.0.0.1:{self.server_port}/files/"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def error(call, *arguments) -> str:
    with pytest.raises(UserError) as raised:
        call(*arguments)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_whole_files_and_nothing_else_are_left(server, tmp_path):
    folder = tmp_path / "not/yet/there"
    download(server.url, SHA256, folder)
    assert content(folder) == FILES
    assert server.seen == [("a.json", None), ("b.json", None)]


def test_nothing_is_fetched_again(server, tmp_path):
    download(server.url, SHA256, tmp_path)
    server.seen.clear()
    download(server.url, SHA256, tmp_path)
    assert server.seen == []
    (tmp_path / "a.json").unlink()
    download(server.url, SHA256, tmp_path)
    assert server.seen == [("a.json", None)]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_broke_off_goes_on(server, tmp_path, ranges):
    server.ranges, server.cuts = ranges, [HALF]
    message = error(download, server.url, SHA256, tmp_path)
    assert message.startswith(f"{server.url}a.json: cannot be downloaded to {tmp_path} (broke off")
    assert f"{len(FILES['a.json']) - HALF:,} bytes before the end" in message
    assert "run the same command again to resume" in message
    assert content(tmp_path) == {"a.json.part": FILES["a.json"][:HALF]}
    server.seen.clear()
    download(server.url, SHA256, tmp_path)
    assert server.seen == [("a.json", f"bytes={HALF}-"), ("b.json", None)]
    assert content(tmp_path) == FILES


def test_a_download_may_break_off_again_and_again(server, tmp_path):
    server.cuts = [HALF, 1, 2]
    for _ in range(3):
        error(download, server.url, SHA256, tmp_path)
    download(server.url, SHA256, tmp_path)
    ranges = [asked for name, asked in server.seen if name == "a.json"]
    assert ranges == [None, *(f"bytes={HALF + more}-" for more in (0, 1, 3))]
    assert content(tmp_path) == FILES


def test_a_part_that_has_every_byte_already_is_taken(server, tmp_path):
    (tmp_path / "a.json.part").write_bytes(FILES["a.json"])  # killed before it got its name
    download(server.url, SHA256, tmp_path)
    assert content(tmp_path) == FILES


def test_chunks_that_end_early_break_off(server, tmp_path):
    server.chunked = True
    message = error(download, server.url, SHA256, tmp_path)
    assert f"{server.url}a.json: cannot be downloaded" in message
    server.chunked = False
    download(server.url, SHA256, tmp_path)
    assert content(tmp_path) == FILES


@pytest.mark.parametrize("ranges", [True, False])
def test_another_file_is_refused_and_not_kept(server, tmp_path, ranges):
    server.ranges = ranges
    server.files["a.json"] = b"<html>Please log in</html>"
    found = hashlib.sha256(server.files["a.json"]).hexdigest()
    message = error(download, server.url, SHA256, tmp_path)
    assert message.startswith(f"{server.url}a.json: SHA-256 {found[:16]}... instead of ")
    assert SHA256["a.json"][:16] in message
    assert content(tmp_path) == {}
    server.files = dict(FILES)
    download(server.url, SHA256, tmp_path)
    assert content(tmp_path) == FILES


@pytest.mark.parametrize("begin", [b"not what the file begins with", b"x" * 200_000])
def test_a_part_of_another_file_is_not_kept(server, tmp_path, begin):
    (tmp_path / "a.json.part").write_bytes(begin)
    assert "SHA-256" in error(download, server.url, SHA256, tmp_path)
    assert content(tmp_path) == {}
    download(server.url, SHA256, tmp_path)
    assert content(tmp_path) == FILES


def test_files_that_came_before_the_mistake_stay(server, tmp_path):
    server.files["b.json"] = b"other"
    error(download, server.url, SHA256, tmp_path)
    assert content(tmp_path) == {"a.json": FILES["a.json"]}


def test_a_file_without_end_is_refused_and_not_kept(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_BYTES", 70_000)
    message = error(download, server.url, SHA256, tmp_path)
    assert message.startswith(f"{server.url}a.json: over 70,000 bytes")
    assert content(tmp_path) == {}


def test_a_file_that_is_not_there_is_named(server, tmp_path):
    del server.files["b.json"]
    message = error(download, server.url, SHA256, tmp_path)
    assert f"{server.url}b.json: cannot be downloaded to {tmp_path} (Not Found)" in message
    assert "--directory" in message
    assert content(tmp_path) == {"a.json": FILES["a.json"]}


def test_a_server_that_speaks_something_else(server, tmp_path):
    server.garbage = b"SSH-2.0-OpenSSH_9.6\r\n\r\n"
    assert "a.json: cannot be downloaded" in error(download, server.url, SHA256, tmp_path)
    assert content(tmp_path) == {}


def test_nobody_listens(tmp_path):
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))  # bound, so that nobody else takes it, but not listening
        url = f"http://127.0.0.1:{free.getsockname()[1]}/files/"
        message = error(download, url, SHA256, tmp_path)
    assert message.startswith(f"{url}a.json: cannot be downloaded to {tmp_path} (")
    assert "Connection refused" in message


def test_a_server_that_falls_silent(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", 0.1)
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/files/"
        assert "timed out" in error(download, url, SHA256, tmp_path)


def test_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").touch()
    message = error(download, server.url, SHA256, tmp_path / "file/cache")
    assert f"{tmp_path / 'file/cache'} (Not a directory)" in message
    assert server.seen == []


def test_cache_folder_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for ours, theirs, folder in [
        ("a", "b", "a"),
        ("", "b", "b/jaxir"),
        ("a", "", "a"),
        ("", "", "home/.cache/jaxir"),
    ]:
        monkeypatch.setenv("JAXIR_CACHE", ours and str(tmp_path / ours))
        monkeypatch.setenv("XDG_CACHE_HOME", theirs and str(tmp_path / theirs))
        assert cache_folder() == tmp_path / folder
    monkeypatch.delenv("JAXIR_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == tmp_path / "home/.cache/jaxir"


def test_xquad_r_is_downloaded_into_the_cache(server, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXIR_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "XQUAD_R_URL", server.url)
    monkeypatch.setattr(module, "XQUAD_R_SHA256", SHA256)
    assert xquad_r_folder() == tmp_path / "xquad-r"
    assert content(tmp_path / "xquad-r") == FILES


@pytest.mark.skipif(not XQUAD_R.is_dir(), reason=f"XQuAD-R is not at {XQUAD_R}")
def test_xquad_r_has_the_sums_that_are_asked_for():
    found = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in XQUAD_R.glob("*.json")
    }
    assert found == XQUAD_R_SHA256


@pytest.fixture
def hub(monkeypatch):
    """What the hub is asked for; it gives nothing out."""
    asked = []

    def snapshot_download(name, **options):
        asked.append((name, options))
        raise ConnectionError("No route to host\n\nand a page of advice")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


def test_a_folder_comes_before_the_hub(tmp_path, monkeypatch, hub):
    (tmp_path / "owner/name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for name in ("owner/name", "owner", ".", "./owner/name", str(tmp_path)):
        assert local_dataset(name, ["*"]) == Path(name)
    assert hub == []


def test_what_cannot_be_a_name_on_the_hub_is_no_folder(tmp_path, monkeypatch, hub):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file.jsonl").touch()
    for name in ("a/b/c", "./x", "../x", "~/x", "/x", str(tmp_path / "x"), "x", "data/file.jsonl"):
        message = error(local_dataset, name, ["*"])
        assert message == f"{name}: not a folder; give one, or OWNER/NAME of a dataset on the hub"
    assert hub == []


def test_a_dataset_of_the_hub(tmp_path, monkeypatch, hub):
    message = error(local_dataset, "owner/name", ("qrels/*.tsv",))
    assert message.startswith("owner/name: neither a folder here nor a dataset that the hub gives")
    assert "(No route to host, and the cache here has not all of its files; " in message
    assert "hf download owner/name --repo-type dataset --local-dir FOLDER" in message
    wanted = {"allow_patterns": ["qrels/*.tsv"], "ignore_patterns": []}
    assert hub == [("owner/name", {"repo_type": "dataset", **wanted})]
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    assert local_dataset("owner/name", ("*",)) == tmp_path
