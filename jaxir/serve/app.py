"""The application: what is answered to whom, and the headers that keep the page to itself."""

import asyncio
import base64
import contextlib
import hashlib
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jaxir import __version__
from jaxir.serve.batching import Batcher, Overloaded
from jaxir.serve.engine import SIZES, Answer, Engine, Work
from jaxir.serve.openapi import describe
from jaxir.serve.requests import Limits, Refused, read_encode, read_json, read_search

WAITING_BATCHES = 8


def make_app(engine: Engine, limits: Limits | None = None, hosts: Sequence[str] = ()) -> Starlette:
    """The search page and its JSON API.

    Args:
        engine: what answers.
        limits: what clients may ask; None: the usual.
        hosts: names that a request's Host header may have, in lower case; none: any.
    """
    limits = limits or Limits()
    batcher: Batcher[Work, Answer] = Batcher(engine.answer, SIZES[-1], WAITING_BATCHES * SIZES[-1])
    page = files("jaxir.serve").joinpath("page.html").read_text(encoding="utf-8")
    page_headers = {"content-security-policy": _policy(page)}
    about = {
        "status": "ok",
        "version": __version__,
        "model": Path(engine.retriever.name).name,  # where it lies is nobody's business
        "width": engine.retriever.width,
        "passages": len(engine.index),
        "languages": engine.languages,
    }

    async def ask(work: Work) -> Answer:
        try:
            async with asyncio.timeout(limits.answer_seconds):
                return await batcher.submit(work)
        except Overloaded:
            raise Refused(503, "too many requests wait; try again later", **_LATER) from None
        except TimeoutError:
            message = f"no answer within {limits.answer_seconds:g} seconds"
            raise Refused(503, message, **_LATER) from None

    async def search(request: Request) -> Response:
        began = time.perf_counter()
        work = read_search(await read_json(request, limits), limits, engine.languages)
        results = await ask(work)
        return JSONResponse(
            {
                "results": [
                    {"id": x.id, "text": x.text, "language": x.language, "score": x.score}
                    for x in results
                ],
                "languages": dict(Counter(result.language for result in results).most_common()),
                "milliseconds": round(1_000 * (time.perf_counter() - began), 1),
            }
        )

    async def encode(request: Request) -> Response:
        embeddings = await ask(read_encode(await read_json(request, limits), limits))
        return JSONResponse({"embeddings": np.asarray(embeddings).tolist()})

    async def health(request: Request) -> Response:
        return JSONResponse(about | {"waiting": batcher.waiting})

    async def openapi(request: Request) -> Response:
        return JSONResponse(describe(limits))

    async def show_page(request: Request) -> Response:
        return HTMLResponse(page, headers=page_headers)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with batcher.running():
            yield

    app = Starlette(
        routes=[
            Route("/", show_page),
            Route("/search", search, methods=["POST"]),
            Route("/encode", encode, methods=["POST"]),
            Route("/health", health),
            Route("/openapi.json", openapi),
        ],
        lifespan=lifespan,
        exception_handlers={
            Refused: _refuse,
            HTTPException: _say_in_json,
            Exception: _excuse,
        },
    )
    app.router.redirect_slashes = False
    app.add_middleware(Guard, limits=limits, hosts=hosts)
    return app


_LATER = {"retry-after": "1"}


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return JSONResponse({"error": str(error)}, error.status, error.headers)


async def _say_in_json(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _excuse(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "something went wrong here; the log says what"}, 500)


def _policy(page: str) -> str:
    """A Content-Security-Policy that lets the page run what is written in it and nothing else."""

    def hashes(tag: str) -> str:
        parts = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digests = (hashlib.sha256(part.encode()).digest() for part in parts)
        return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


class Guard:
    """Before the app: who may ask, how many at a time; and headers of every answer.

    The Host header is looked at because a page elsewhere may give its own name this machine's
    address (DNS rebinding) and would then read what only this machine should.
    """

    def __init__(self, app: ASGIApp, limits: Limits, hosts: Sequence[str]):
        self.app, self.limits, self.hosts = app, limits, frozenset(hosts)
        self.under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse to."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        host = _host_name(Headers(scope=scope).get("host", ""))
        if self.hosts and host not in self.hosts:
            message = "host: this server has another name; see --allowed_hosts"
            await JSONResponse({"error": message}, 421)(scope, receive, send_guarded)
        elif self.under_way >= self.limits.requests:
            message = "too many requests; try again later"
            await JSONResponse({"error": message}, 503, _LATER)(scope, receive, send_guarded)
        else:
            self.under_way += 1
            try:
                # without an answer, uvicorn hangs up on a client that does not read
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self.limits.seconds):
                        await self.app(scope, receive, send_guarded)
            finally:
                self.under_way -= 1


_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]


def _host_name(host: str) -> str:
    """Of a Host header, without the port."""
    return re.sub(r":\d*$", "", host.strip().lower())
