"""HTTP connections that do not wait for ever and say in JSON what is wrong with a request."""

import asyncio
import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 10.0
LINGER_SECONDS = 10.0
LINGER_BYTES = 1 << 22


class Lingering:
    """A transport that does not hang up on who is still sending, nor wait for who does not read.

    A client that is still sending when its connection is closed finds it reset and never reads the
    answer. So the sending side is closed first, and what still comes is thrown away for a while.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        unread: Callable[[], bool],
    ):
        self._transport, self._loop, self._unread = transport, loop, unread
        self._ending: asyncio.TimerHandle | None = None
        self._thrown_away = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Whether nothing can be said any more."""
        return self._ending is not None or self._transport.is_closing()

    def write(self, data: bytes) -> None:
        """Say something, unless all has been said."""
        if not self.is_closing():
            self._transport.write(data)

    def close(self, unread: bool = False) -> None:
        """Hang up, once all is sent; where something is `unread`, once the client hangs up too."""
        if self.is_closing():
            return
        self._ending = self._loop.call_later(LINGER_SECONDS, self._transport.abort)
        if (unread or self._unread()) and self._transport.can_write_eof():
            self._transport.write_eof()
            self._transport.resume_reading()
        else:
            self._transport.close()

    def throw_away(self, data: bytes) -> None:
        """Take what is still coming, up to a limit."""
        self._thrown_away += len(data)
        if self._thrown_away > LINGER_BYTES:
            self._transport.abort()

    def gone(self) -> None:
        """The connection is no more."""
        if self._ending is not None:
            self._ending.cancel()


class Connection(H11Protocol):
    """uvicorn's protocol, with an end to slow headers and a number of connections.

    uvicorn waits for ever for a client that opens a connection and sends half a request, or does
    not read its answer; a few hundred of them would leave no descriptor to anybody else.
    """

    most_connections = 512

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self._impatient: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there."""
        super().connection_made(transport)
        self.transport: Any = Lingering(transport, self.loop, self._unread)
        if len(self.connections) > self.most_connections:
            self._end(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections; try again later")
        else:
            self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self._stop_waiting()
        self.transport.gone()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Part of a request is there."""
        if self.transport.is_closing():
            self.transport.throw_away(data)
            return
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._wait_for_headers()
        else:
            self._stop_waiting()

    def _unread(self) -> bool:
        return self.conn.their_state in (h11.SEND_BODY, h11.ERROR)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        # an answer that has begun can only break off
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._end(HTTPStatus.BAD_REQUEST, msg.rstrip("."))
        else:
            self.transport.close()

    def _wait_for_headers(self) -> None:
        if self._impatient is None and not self.transport.is_closing():
            self._impatient = self.loop.call_later(HEADER_SECONDS, self._too_slow)

    def _stop_waiting(self) -> None:
        if self._impatient is not None:
            self._impatient.cancel()
            self._impatient = None

    def _too_slow(self) -> None:
        self._impatient = None
        message = f"the headers did not arrive within {HEADER_SECONDS:g} seconds"
        self._end(HTTPStatus.REQUEST_TIMEOUT, message)

    def _end(self, status: HTTPStatus, message: str) -> None:
        """Answer, without asking the app, and hang up."""
        if self.transport.is_closing():
            return
        body = json.dumps({"error": message}).encode()
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close(unread=True)
