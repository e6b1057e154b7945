"""A server under load, and among people who mean it no good; `-s` shows the figures.

The index has as many passages as XQuAD-R, in as many languages; the model has one layer of 256
numbers, and is untrained. Server and clients share this machine.
"""

import asyncio
import contextlib
import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="the extra serve is not installed")

from jaxir import ModelSettings, Retriever
from jaxir.config import DualEncoderConfig, EncoderConfig
from jaxir.data.tokenizer import train_tokenizer
from jaxir.models.dual_encoder import init_params
from jaxir.models.trained import TrainedModel

pytestmark = pytest.mark.timed
PASSAGES, CONNECTIONS, SECONDS, RATE = 13_014, 32, 10, 200
LANGUAGES = ("ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh")
LETTERS = {"ar": "ابتثجحخد", "el": "αβγδεζηθ", "hi": "कखगघचछजझ", "ru": "абвгдежз", "th": "กขคงจฉชซ"}
LETTERS["zh"] = "多瑙河发源于黑森林"
HOSTILE = 10_000


def write_index(folder: Path) -> tuple[Path, Path, list[str]]:
    """A model, an index, and queries."""
    rng = np.random.default_rng(0)
    texts, languages = [], []
    for number in range(PASSAGES):
        language = LANGUAGES[number % len(LANGUAGES)]
        letters = list(LETTERS.get(language, "abcdefghijklmnop"))
        words = ["".join(rng.choice(letters, rng.integers(2, 9))) for _ in range(20)]
        texts.append(" ".join(words))
        languages.append(language)
    tokenizer = train_tokenizer(texts[:2_000], 24_000)
    encoder = EncoderConfig(
        vocab_size=24_000,
        hidden_size=256,
        layers=1,
        heads=4,
        intermediate_size=512,
        positions=66,
    )
    config = DualEncoderConfig(encoder=encoder, compute_dtype="float32")
    params = init_params(config, jax.random.key(0))
    model = TrainedModel(config, params, tokenizer, "", "", 32, 64)
    from jaxir.training.trained import write_export

    write_export(folder / "model", model, None, None)
    retriever = Retriever.load(
        folder / "model", ModelSettings(max_query_tokens=32, max_passage_tokens=64)
    )
    retriever.index(texts, languages=languages).save(folder / "index")
    queries = [" ".join(text.split()[:6]) for text in texts[: 11 * 100]]
    return folder / "model", folder / "index", queries


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Port of a server in a process of its own, its process, and queries."""
    model, index, queries = write_index(tmp_path_factory.mktemp("served"))
    of_tests = ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")
    environment = {key: value for key, value in os.environ.items() if key not in of_tests}
    command = [sys.executable, "-m", "jaxir.serve", "--model", model, "--index", index]
    command += ["--port", "0", "--max_query_tokens", "32", "--max_passage_tokens", "64"]
    began = time.perf_counter()
    with subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            port = int(re.search(r":(\d+)$", process.stdout.readline().strip())[1])
            print(f"\nready after {time.perf_counter() - began:.1f} s")
            yield port, process, queries
        finally:
            process.kill()


class Client:
    """One connection that is kept open."""

    def __init__(self, port):
        self.port, self.reader, self.writer = port, None, None

    async def ask(self, body):
        """Status and answer."""
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        head = (
            "POST /search HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        self.writer.write(head.encode() + body)
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(re.search(rb"content-length: (\d+)", head)[1])
        return int(head.split()[1]), await self.reader.readexactly(length)

    async def aclose(self):
        """Hang up."""
        self.writer.close()
        await self.writer.wait_closed()


def report(name, seconds, latencies):
    milliseconds = np.sort(1_000 * np.array(latencies))
    middle, late = np.percentile(milliseconds, [50, 99])
    rate = len(latencies) / seconds
    print(
        f"{name}: {len(latencies)} requests, {rate:.0f} a second, median {middle:.1f} ms, "
        f"p99 {late:.1f} ms, slowest {milliseconds[-1]:.1f} ms"
    )
    return rate, late


async def load(port, queries, rate, seconds=SECONDS):
    """Latencies of requests, at a rate or (None) as fast as they are answered."""
    latencies, languages = [], (None, None, None, *LANGUAGES)
    rng = random.Random(0)
    began = time.perf_counter()

    async def ask_again(connection, number):
        turn = number
        while True:
            due = time.perf_counter() if rate is None else began + turn / rate
            if due - began > seconds:
                return
            await asyncio.sleep(max(0, due - time.perf_counter()))
            query = {"query": rng.choice(queries), "language": rng.choice(languages)}
            status, answer = await connection.ask(json.dumps(query).encode())
            # from when it was due: a late server does not hide by keeping its clients waiting
            latencies.append(time.perf_counter() - due)
            assert status == 200, answer
            assert len(json.loads(answer)["results"]) == 10
            turn += CONNECTIONS

    async def client(number):
        async with contextlib.aclosing(Client(port)) as connection:
            await ask_again(connection, number)

    await asyncio.gather(*(client(number) for number in range(CONNECTIONS)))
    return time.perf_counter() - began, latencies


def test_two_hundred_short_queries_a_second(server):
    port, _, queries = server
    seconds, latencies = asyncio.run(load(port, queries, None))
    rate, _ = report(f"{CONNECTIONS} connections, as fast as they go", seconds, latencies)
    assert rate >= RATE
    seconds, latencies = asyncio.run(load(port, queries, RATE))
    _, late = report(f"{CONNECTIONS} connections, {RATE} a second", seconds, latencies)
    assert late < 1_000


def hostile(rng):
    """Bytes that no client in its right mind would send, and how slowly."""
    odd = "".join(
        chr(rng.choice((0, 9, 0x200D, 0x202E, 0xFEFF, 0xFFFF, 0x1F469))) for _ in range(9)
    )
    value = rng.choice((None, True, -1, 1e308, 10**30, [], {}, "", " ", "a" * 9_999, ["a"] * 99))
    body = rng.choice(
        (
            lambda: rng.randbytes(rng.randint(0, 500)),
            lambda: b"[" * rng.randint(1, 60_000),
            lambda: b'{"query": "' + rng.randbytes(20),
            lambda: b'{"k": ' + b"9" * rng.randint(1, 60_000) + b"}",
            lambda: b'{"query": "\\ud83d' + b"x" * rng.randint(0, 9) + b'"}',
            lambda: json.dumps({"query": value}).encode(),
            lambda: json.dumps({"query": "a", "k": value if value != 10 else 0}).encode(),
            lambda: json.dumps({"query": "a", "language": odd}).encode(),
            lambda: json.dumps({"query": "a", odd: value}).encode(),
            lambda: json.dumps({"texts": [odd, value]}).encode(),
            lambda: json.dumps(value).encode(),
            lambda: b"a" * rng.choice((65_537, 200_000, 1_000_000)),
            lambda: b'{"query": NaN}',
        )
    )()
    # no head is right with a body that is: whatever comes of it has to be a 4xx
    path = rng.choice((b"/search",) * 12 + (b"/encode",) * 6 + (b"/none", b"/" + b"a" * 900))
    length = len(body) if rng.random() > 0.05 else rng.choice((-1, 10**20, "x"))
    kind = rng.choice((b"application/json",) * 9 + (b"text/plain", b"\xff\xfe"))
    head = b"POST " + path + b" HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
    head += b"content-type: " + kind + b"\r\ncontent-length: " + str(length).encode() + b"\r\n\r\n"
    slow = rng.random() < 0.004
    if rng.random() < 0.05:
        head = rng.randbytes(rng.randint(1, 300)) + b"\r\n\r\n"
    return head, body, slow


async def attack(port, count, statuses):
    turns = iter(range(count))
    rng = random.Random(0)

    async def client():
        for _ in turns:
            head, body, slow = hostile(rng)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.closing(writer):
                async with asyncio.timeout(60):
                    if slow:  # half of a request, and no more
                        writer.write((head + body)[: rng.randint(1, len(head) + 1)])
                    else:
                        writer.write(head + body)
                    try:
                        await writer.drain()
                        answer = await reader.read()
                    except ConnectionError:
                        answer = b""
            status = int(answer.split()[1]) if answer else 0
            statuses[status] = statuses.get(status, 0) + 1
            if answer:
                assert 400 <= status < 500, (status, head, body[:200])
                assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]

    await asyncio.gather(*(client() for _ in range(CONNECTIONS)))


def test_ten_thousand_hostile_requests(server):
    port, process, queries = server
    statuses, began = {}, time.perf_counter()
    asyncio.run(attack(port, HOSTILE, statuses))
    print(f"\n{HOSTILE} hostile requests in {time.perf_counter() - began:.0f} s: {statuses}")
    assert sum(statuses.values()) == HOSTILE
    assert not statuses.get(0)
    assert process.poll() is None
    asyncio.run(load(port, queries, RATE, seconds=1))  # and as well as before
