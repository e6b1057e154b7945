"""The server as a client meets it: answers equal to the library's, and a clear no to the rest."""

import asyncio
import contextlib
import dataclasses
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="the extra serve is not installed")
pytest.importorskip("starlette", reason="the extra serve is not installed")

from jaxir import Retriever
from jaxir.errors import UserError
from jaxir.serve import __main__ as serve
from jaxir.serve import connections
from jaxir.serve.batching import Batcher, QueueFull
from jaxir.serve.engine import EncodeRequest, Engine, SearchRequest
from jaxir.serve.requests import Limits

MODEL = Path(__file__).parent / "fixtures" / "labse"
LANGUAGES = ("ar", "de", "")
LIMITS = Limits(
    body_bytes=4_096,
    body_seconds=300,
    answer_seconds=300,
    texts=4,
    characters=200,
    results=20,
    requests=40,
    connections=100,
)

TIMEOUT = 600  # of what hangs; a machine may be slow

pytestmark = pytest.mark.filterwarnings("ignore:.* and were cut there")


@pytest.fixture(scope="module")
def engine():
    rng = np.random.default_rng(0)
    passages = [" ".join(rng.choice(list("abcd"), 6)) for _ in range(45)]
    retriever = Retriever.load(MODEL)
    languages = [LANGUAGES[number % 3] for number in range(45)]
    return Engine(retriever, retriever.index(passages, languages=languages))


@contextlib.contextmanager
def serving(engine, limits=LIMITS, hosts=()):
    """The address of a server in a thread."""
    server = serve.make_server(engine, limits, hosts)
    with serve.listen("127.0.0.1", 0) as listener:
        listener.listen()
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            server.should_exit = True
            thread.join(TIMEOUT)


@pytest.fixture(scope="module")
def address(engine):
    with serving(engine) as address:
        yield address


@pytest.fixture
def impatient_address(engine, monkeypatch):
    """A server that waits for half a second for what has to come."""
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.5)
    with serving(engine, dataclasses.replace(LIMITS, body_seconds=0.5)) as address:
        yield address


def ask(address, path, body=None, method="POST", headers=None):
    """Status, JSON and headers of an answer."""
    connection = http.client.HTTPConnection(*address, timeout=TIMEOUT)
    if not isinstance(body, bytes | None):
        body = json.dumps(body).encode()
    given = {"content-type": "application/json"} | (headers or {})
    connection.request(method, path, body, given)
    with contextlib.closing(connection), connection.getresponse() as response:
        content = response.read()
        kind = response.headers["content-type"]
        return response.status, json.loads(content) if "json" in kind else content, response.headers


def send(address, data):
    """Bytes that come back for bytes, until the server hangs up."""
    with socket.create_connection(address, timeout=TIMEOUT) as connection:
        connection.sendall(data)
        received = b""
        while part := connection.recv(65_536):
            received += part
    return received


def test_a_search_finds_what_the_library_finds(engine, address):
    for language in (None, *LANGUAGES):
        for k in (1, 10, 20):
            asked = {"query": "a b c", "k": k, "language": language}
            status, answer, _ = ask(address, "/search", asked)
            assert status == 200
            expected = engine.index.search(["a b c"], k, language=language)[0]
            found = [(x["id"], x["text"], x["language"]) for x in answer["results"]]
            assert found == [(x.id, x.text, x.language) for x in expected]
            scores = [x["score"] for x in answer["results"]]
            np.testing.assert_allclose(scores, [x.score for x in expected], rtol=1e-5)
            assert sum(answer["languages"].values()) == len(expected)


def test_embeddings_are_those_of_the_library(engine, address):
    texts = ["a", "b c d", "أ", "a b c d a b"]
    for kind in ("query", "passage"):
        _, answer, _ = ask(address, "/encode", {"texts": texts, "kind": kind})
        expected = getattr(engine.retriever, "encode_queries")(texts)  # noqa: B009
        if kind == "passage":
            expected = engine.retriever.encode_passages(texts)
        np.testing.assert_allclose(answer["embeddings"], expected, rtol=1e-5, atol=1e-6)


def test_many_at_a_time_each_get_their_own_answer(engine, address):
    queries = [" ".join(random.Random(n).choices("abcd", k=5)) for n in range(32)]
    languages = [(None, *LANGUAGES)[n % 4] for n in range(32)]
    with ThreadPoolExecutor(32) as clients:
        answers = clients.map(
            lambda query, language: ask(address, "/search", {"query": query, "language": language}),
            queries,
            languages,
        )
        for query, language, (status, answer, _) in zip(queries, languages, answers):
            assert status == 200
            expected = engine.index.search([query], language=language)[0]
            assert [x["id"] for x in answer["results"]] == [x.id for x in expected]


def test_health_page_and_description(address):
    status, about, _ = ask(address, "/health", method="GET")
    assert status == 200
    assert about["passages"] == 45
    assert about["languages"] == {"": 15, "ar": 15, "de": 15}
    assert about["model"] == "labse"  # not where it lies
    status, page, headers = ask(address, "/", method="GET")
    assert status == 200
    assert b"<title>" in page
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert policy.count("'sha256-") == 2
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in headers
    assert not re.search(rb"innerHTML|insertAdjacent|document\.write|https?://(?!www.w3)", page)
    _, described, _ = ask(address, "/openapi.json", method="GET")
    assert set(described["paths"]) == {"/search", "/encode", "/health"}
    schema = described["paths"]["/search"]["post"]["requestBody"]["content"]["application/json"]
    assert schema["schema"]["properties"]["k"]["maximum"] == LIMITS.results


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/search", b"", 400, "not valid JSON: Expecting value, line 1, column 1"),
        ("/search", b'{"query": "a"', 400, "not valid JSON"),
        ("/search", b'{"query": "\xff"}', 400, "not UTF-8: byte 11"),
        ("/search", b'{"query": "a", "k": NaN}', 400, "NaN is not valid JSON"),
        ("/search", b'{"query": "a", "k": ' + b"1" * 4_050 + b"}", 422, "k: must be from 1 to 20"),
        ("/search", b"[" * 4_000, 400, "nested too deeply|not valid JSON"),
        ("/search", b'\xef\xbb\xbf{"query": "a"}', 400, "not valid JSON"),
        ("/search", [], 422, "the body is a list; it must be an object"),
        ("/search", {}, 422, "query: is missing"),
        ("/search", {"query": 1}, 422, "query: is a number; it must be a string"),
        ("/search", {"query": None}, 422, "query: is null"),
        ("/search", {"query": " \u3000\n"}, 422, "query: is empty"),
        ("/search", {"query": "\ud83d"}, 422, "half a surrogate pair"),
        ("/search", {"query": "a" * 201}, 422, "has 201 characters; 200 are allowed"),
        ("/search", {"query": "a" * 5_000}, 413, "the body is over 4,096 bytes"),
        ("/search", {"query": "a", "k": 0}, 422, "k: must be from 1 to 20"),
        ("/search", {"query": "a", "k": 21}, 422, "k: must be from 1 to 20"),
        ("/search", {"query": "a", "k": True}, 422, "k: is a boolean"),
        ("/search", {"query": "a", "k": 1.0}, 422, "k: is a number; it must be an integer"),
        ("/search", {"query": "a", "language": ["de"]}, 422, "language: is a list"),
        (
            "/search",
            {"query": "a", "language": "fr"},
            422,
            "no passage is in 'fr'; the index has: ar, de",
        ),
        (
            "/search",
            {"query": "a", "n": 1},
            422,
            "'n': unknown field; the fields are query, k, language",
        ),
        ("/encode", {"texts": []}, 422, "texts: has 0 texts; must have from 1 to 4"),
        ("/encode", {"texts": ["a"] * 5}, 422, "texts: has 5 texts"),
        ("/encode", {"texts": "a"}, 422, "texts: is a string; it must be a list"),
        ("/encode", {"texts": ["a", {}]}, 422, r"texts\[1\]: is an object"),
        ("/encode", {"texts": ["a"], "kind": []}, 422, "kind: must be"),
        ("/nothing", {}, 404, "Not Found"),
        ("/search/", {}, 404, "Not Found"),
        ("/health", {}, 405, "Method Not Allowed"),
    ],
)
def test_mistakes_are_answered_in_json(address, path, body, status, message):
    got, answer, headers = ask(address, path, body)
    assert got == status, answer
    assert re.search(message, answer["error"])
    assert "\n" not in answer["error"]
    assert headers["content-type"] == "application/json"


def test_a_form_of_another_site_is_refused(address):
    form = {"content-type": "text/plain"}
    status, answer, _ = ask(address, "/search", {"query": "a"}, headers=form)
    assert status == 415
    assert "application/json" in answer["error"]


@pytest.mark.parametrize(
    "text",
    [
        b"GET / HTTP/1.1\r\nHo",
        b"",
        b"POST /search HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"content-length: 90\r\n\r\n{",
    ],
    ids=["headers", "nothing", "body"],
)  # fmt: skip
def test_who_sends_slowly_is_told_so(impatient_address, text):
    began = time.monotonic()
    received = send(impatient_address, text)
    assert time.monotonic() - began > 0.4
    head, body = received.split(b"\r\n\r\n", 1)
    assert head.startswith(b"HTTP/1.1 408 ")
    assert "within 0.5 seconds" in json.loads(body)["error"]


def test_a_trickle_of_headers_on_a_used_connection_ends_too(impatient_address):
    with socket.create_connection(impatient_address, timeout=TIMEOUT) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET /hea")
        received = b""
        while part := connection.recv(65_536):
            received += part
    assert received.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    "text",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /\r\n\r\n",
        b"POST /search HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /search HTTP/1.1\r\nhost: x\r\ncontent-length: " + b"9" * 5_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n\r\n",
        b"POST /search HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"transfer-encoding: chunked\r\n\r\nzz\r\n",
    ],
)  # fmt: skip
def test_what_is_no_http_is_told_so_in_json(address, text):
    head, body = send(address, text).split(b"\r\n\r\n", 1)
    assert head.startswith(b"HTTP/1.1 400 "), head
    assert json.loads(body)["error"]
    assert ask(address, "/health", method="GET")[0] == 200


@pytest.mark.parametrize(("path", "status"), [(b"/search", b"413"), (b"/none", b"404")])
def test_who_is_still_sending_reads_why_it_was_refused(address, path, status):
    head = b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n"
    for size in (5_000, 3_000_000):
        length = f"content-length: {size}\r\n\r\n".encode()
        received = send(address, b"POST " + path + head + length + b"a" * size)
        assert received.startswith(b"HTTP/1.1 " + status)


def test_who_does_not_read_the_answers_keeps_nobody_waiting(engine, monkeypatch):
    monkeypatch.setattr(connections, "LINGER_SECONDS", 0.3)
    limits = Limits(requests=2, body_seconds=0.2, answer_seconds=0.2, read_seconds=0.2)
    page = b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n"
    with serving(engine, limits) as address, contextlib.ExitStack() as stack:
        for _ in range(2):
            deaf = stack.enter_context(socket.socket())
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            deaf.connect(address)
            deaf.setblocking(False)
            with contextlib.suppress(BlockingIOError, ConnectionError):
                for _ in range(2_000):
                    deaf.send(page * 20)
        deadline = time.monotonic() + TIMEOUT
        while ask(address, "/health", method="GET")[0] == 503:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_body_without_end_is_cut_off(address):
    head = (
        b"POST /search HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"transfer-encoding: chunked\r\n\r\n"
    )
    piece = b"1000\r\n" + b"a" * 4_096 + b"\r\n"
    assert send(address, head + piece * 3 + b"0\r\n\r\n").startswith(b"HTTP/1.1 413 ")
    with (
        socket.create_connection(address, timeout=TIMEOUT) as connection,
        contextlib.suppress(ConnectionError),
    ):
        connection.sendall(head)
        for _ in range(20_000):  # 80 MiB, of which it reads a few
            connection.sendall(piece)
        pytest.fail("the server read it all")


def test_only_known_names_of_the_server_are_answered(engine):
    with serving(engine, hosts=serve.LOOPBACK) as address:
        assert ask(address, "/health", method="GET")[0] == 200
        for host in ("evil.example", "127.0.0.1.evil.example", "localhost@evil", ""):
            status, answer, _ = ask(address, "/health", method="GET", headers={"host": host})
            assert status == 421
            assert "host" in answer["error"]
        for host in ("LocalHost:80", "[::1]:80"):
            assert ask(address, "/health", method="GET", headers={"host": host})[0] == 200


class Slow:
    """An engine that waits to be let go."""

    def __init__(self, engine):
        self.retriever, self.index, self.languages = engine.retriever, engine.index, {}
        self.go, self.broken = threading.Event(), False

    def answer(self, batch):
        assert self.go.wait(TIMEOUT)
        if self.broken:
            raise ZeroDivisionError
        return [np.zeros((len(work.texts), 2)) for work in batch]


def test_too_many_at_a_time_are_told_to_come_later(engine):
    slow = Slow(engine)
    limits = Limits(requests=4, connections=20, answer_seconds=TIMEOUT)
    with serving(slow, limits) as address, ThreadPoolExecutor(12) as clients:
        asked = [clients.submit(ask, address, "/encode", {"texts": ["a"]}) for _ in range(12)]
        deadline = time.monotonic() + TIMEOUT
        while sum(one.done() for one in asked) < 8 and time.monotonic() < deadline:
            time.sleep(0.01)
        slow.go.set()
        answers = [one.result() for one in asked]
        assert sorted(status for status, _, _ in answers) == [200] * 4 + [503] * 8
        for status, answer, headers in answers:
            if status == 503:
                assert headers["retry-after"] == "1"
                assert "try again later" in answer["error"]


def test_too_many_connections_are_told_to_come_later(engine):
    with serving(engine, Limits(connections=3)) as address, contextlib.ExitStack() as stack:
        for _ in range(3):
            # the server takes them in the order in which they come
            stack.enter_context(socket.create_connection(address))
        received = send(address, b"")
        assert received.startswith(b"HTTP/1.1 503 ")
        assert b"too many connections" in received


def test_no_answer_in_time_and_an_error_of_ours(engine, caplog):
    slow = Slow(engine)
    with serving(slow, Limits(answer_seconds=0.2)) as address:
        status, answer, _ = ask(address, "/encode", {"texts": ["a"]})
        assert (status, answer["error"]) == (503, "no answer within 0.2 seconds")
        slow.broken = True
        slow.go.set()
    with serving(slow, LIMITS) as address:
        status, answer, _ = ask(address, "/encode", {"texts": ["a"]})
        assert status == 500
        assert "ZeroDivisionError" not in answer["error"]
        slow.broken = False
        assert ask(address, "/encode", {"texts": ["a"]})[0] == 200


def test_a_batch_answers_each_and_one_mistake_is_nobody_elses():
    seen = []

    def answer(batch):
        seen.append(len(batch))
        if any(work.texts == ("bad",) for work in batch):
            raise ValueError("bad")
        return [work.texts[0].upper() for work in batch]

    async def run():
        batcher = Batcher(answer, max_batch_texts=4, max_queued_texts=9)
        works = [EncodeRequest((text,), "query") for text in ("a", "bad", "b", "c", "d")]
        tasks = [asyncio.create_task(batcher.submit(work)) for work in works]
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await batcher.submit(EncodeRequest(("e",) * 5, "query"))
        tasks[4].cancel()
        async with batcher.running():
            return await asyncio.gather(*tasks, return_exceptions=True)

    first, second, *others, cancelled = asyncio.run(run())
    assert (first, others) == ("A", ["B", "C"])
    assert isinstance(second, ValueError)
    assert isinstance(cancelled, asyncio.CancelledError)
    assert seen == [4, 1, 1, 1, 1]


def test_nothing_is_compiled_once_the_server_is_warm(engine):
    """The shapes of `warm_up` are those that requests have."""
    import jax

    assert engine.warm_up() > 0
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name) if "backend_compile" in name else None
    )
    try:
        rng = random.Random(0)
        for size in (1, 2, 5, 8, 9, 20, 32):
            for language in (None, *LANGUAGES[:2]):
                queries = [" ".join(rng.choices("abcd", k=rng.randint(1, 30))) for _ in range(size)]
                works = [
                    SearchRequest((query,), rng.choice((3, 10, 40)), language) for query in queries
                ]
                engine.answer([*works, EncodeRequest(tuple(queries), "passage")])
        assert not compiled
    finally:
        jax.monitoring.clear_event_listeners()


@pytest.fixture(scope="module")
def folder(engine, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files") / "index"
    engine.index.save(folder)
    return folder


def test_the_command_serves_until_a_signal(folder):
    command = [sys.executable, "-m", "jaxir.serve", "--index", str(folder), "--port", "0"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            line = process.stdout.readline()
            host, port = re.fullmatch(r"http://(127\.0\.0\.1):(\d+)\n", line).groups()
            status, answer, _ = ask((host, int(port)), "/search", {"query": "a b"})
            assert status == 200
            assert len(answer["results"]) == 10
            process.send_signal(signal.SIGINT)
            assert process.wait(TIMEOUT) == 130
        finally:
            process.kill()


def test_mistakes_of_the_command_are_one_line(folder, tmp_path):
    with serve.listen("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        for arguments, message in (
            ((), "--index is missing"),
            (("--index", tmp_path), "no index, or not finished"),
            (("--index", folder, "--port", port), rf"--port {port}: cannot listen there \(Address"),
            (("--index", folder, "--host", "no such"), "--host no such .*cannot listen there"),
            (("--index", folder, "--port", 70_000), "port"),
            (("--index", folder, "--prot", 1), "did you mean --port"),
        ):
            with pytest.raises(UserError, match=message) as error:
                serve.main(["serve", *map(str, arguments)])
            assert "\n" not in str(error.value)


def test_names_by_which_it_may_be_called():
    with serve.listen("127.0.0.1", 0) as listener:
        assert "localhost" in serve.allowed_hosts("127.0.0.1", listener)
    with serve.listen("0.0.0.0", 0) as listener:
        assert serve.allowed_hosts("0.0.0.0", listener) == ()


def test_help_imports_nothing_that_is_slow():
    code = (
        "import sys; from jaxir.serve.__main__ import main\nmain(['serve', '--help'])\n"
        "assert not {'jax', 'tensorflow', 'transformers', 'uvicorn'} & set(sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--allowed_hosts" in run.stdout
