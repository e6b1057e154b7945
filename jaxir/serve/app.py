"""The web application: routes, limits on requests, and headers that isolate the page."""

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

from jaxir.runtime.versions import VERSION
from jaxir.serve.batching import Batcher, QueueFull
from jaxir.serve.engine import TEXT_COUNTS, Answer, Engine, EngineRequest
from jaxir.serve.openapi import describe
from jaxir.serve.requests import Limits, Refused, parse_encode, parse_search, read_json

QUEUED_BATCHES = 8  # full batches that may wait before requests are refused


def make_app(engine: Engine, limits: Limits | None = None, hosts: Sequence[str] = ()) -> Starlette:
    """Return the application: the search page and its JSON API.

    Args:
        engine: answers the requests.
        limits: bounds on requests; None: the defaults.
        hosts: names that a request's Host header may have, in lower case; (): any.
    """
    limits = limits or Limits()
    endpoints = Endpoints(engine, limits)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with endpoints.batcher.running():
            yield

    app = Starlette(
        routes=[
            Route("/", endpoints.page),
            Route("/search", endpoints.search, methods=["POST"]),
            Route("/encode", endpoints.encode, methods=["POST"]),
            Route("/health", endpoints.health),
            Route("/openapi.json", endpoints.openapi),
        ],
        lifespan=lifespan,
        exception_handlers={
            Refused: _on_refusal,
            HTTPException: _on_http_error,
            Exception: _on_internal_error,
        },
    )
    app.router.redirect_slashes = False
    app.add_middleware(RequestGuard, limits=limits, hosts=hosts)
    return app


class Endpoints:
    """The handlers of the routes.

    Args:
        engine: answers the requests.
        limits: bounds on requests.
    """

    def __init__(self, engine: Engine, limits: Limits):
        self.engine, self.limits = engine, limits
        largest = TEXT_COUNTS[-1]
        self.batcher: Batcher[EngineRequest, Answer] = Batcher(
            engine.answer, largest, QUEUED_BATCHES * largest
        )
        self._page = files("jaxir.serve").joinpath("page.html").read_text(encoding="utf-8")
        self._page_headers = {"content-security-policy": _content_security_policy(self._page)}
        self._about = {
            "status": "ok",
            "version": VERSION,
            "model": Path(engine.retriever.name).name,  # clients need not know the path
            "width": engine.retriever.width,
            "passages": len(engine.index),
            "languages": engine.languages,
        }

    async def page(self, request: Request) -> Response:
        """Serve the search page."""
        return HTMLResponse(self._page, headers=self._page_headers)

    async def search(self, request: Request) -> Response:
        """Search for a query."""
        start = time.perf_counter()
        fields = await read_json(request, self.limits)
        results = await self._answer(parse_search(fields, self.limits, self.engine.languages))
        return JSONResponse(
            {
                "results": [
                    {"id": x.id, "text": x.text, "language": x.language, "score": x.score}
                    for x in results
                ],
                "languages": dict(Counter(result.language for result in results).most_common()),
                "milliseconds": round(1_000 * (time.perf_counter() - start), 1),
            }
        )

    async def encode(self, request: Request) -> Response:
        """Encode texts."""
        fields = await read_json(request, self.limits)
        embeddings = await self._answer(parse_encode(fields, self.limits))
        return JSONResponse({"embeddings": np.asarray(embeddings).tolist()})

    async def health(self, request: Request) -> Response:
        """Describe the model, the index and the load."""
        return JSONResponse(self._about | {"queued_texts": self.batcher.queued_texts})

    async def openapi(self, request: Request) -> Response:
        """Serve the OpenAPI description."""
        return JSONResponse(describe(self.limits))

    async def _answer(self, request: EngineRequest) -> Answer:
        try:
            async with asyncio.timeout(self.limits.answer_seconds):
                return await self.batcher.submit(request)
        except QueueFull:
            message = "too many requests are waiting; try again later"
            raise Refused(503, message, **_RETRY_SOON) from None
        except TimeoutError:
            message = f"no answer within {self.limits.answer_seconds:g} seconds"
            raise Refused(503, message, **_RETRY_SOON) from None


_RETRY_SOON = {"retry-after": "1"}


async def _on_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return JSONResponse({"error": str(error)}, error.status, error.headers)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _on_internal_error(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "internal error; the server's log has the details"}, 500)


def _content_security_policy(page: str) -> str:
    """Header that lets the page run its own inline script and style, by hash, and nothing else."""

    def hashes(tag: str) -> str:
        parts = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digests = (hashlib.sha256(part.encode()).digest() for part in parts)
        return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


class RequestGuard:
    """Middleware that checks the Host header, bounds the load, and adds headers to every response.

    The Host header is checked because a page elsewhere may give its own host name this machine's
    address (DNS rebinding), and could then read what only this machine should.

    Args:
        app: the application behind it.
        limits: on the number and the duration of requests.
        hosts: accepted host names; (): any.
    """

    def __init__(self, app: ASGIApp, limits: Limits, hosts: Sequence[str]):
        self.app, self.limits, self.hosts = app, limits, frozenset(hosts)
        self.active = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_SECURITY_HEADERS]
            await send(message)

        host = _host_name(Headers(scope=scope).get("host", ""))
        if self.hosts and host not in self.hosts:
            message = "host: not a name of this server; see --allowed_hosts"
            response = JSONResponse({"error": message}, 421)
            await response(scope, receive, send_with_headers)
        elif self.active >= self.limits.requests:
            message = "too many requests; try again later"
            response = JSONResponse({"error": message}, 503, _RETRY_SOON)
            await response(scope, receive, send_with_headers)
        else:
            self.active += 1
            try:
                # a request that ends without a response makes uvicorn close the connection, as it
                # should if the client does not read
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self.limits.seconds):
                        await self.app(scope, receive, send_with_headers)
            finally:
                self.active -= 1


_SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]


def _host_name(host: str) -> str:
    """Host name of a Host header, without the port."""
    return re.sub(r":\d*$", "", host.strip().lower())
