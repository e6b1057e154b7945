"""HTTP connections with timeouts and a bound on their number; errors are answered in JSON."""

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


class LingeringTransport:
    """A transport whose `close` lets a client that is still sending read the response.

    If a connection is closed while its client is still sending, the client sees a reset and never
    reads the response. So `close` shuts down only our sending side, and then discards input for at
    most LINGER_SECONDS and LINGER_BYTES. The same timer ends connections whose client does not read
    the response.

    Args:
        transport: of the connection.
        loop: runs the timer.
        input_pending: tells whether the client may still be sending the request.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        input_pending: Callable[[], bool],
    ):
        self._transport, self._loop, self._input_pending = transport, loop, input_pending
        self._abort_timer: asyncio.TimerHandle | None = None
        self._discarded_bytes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Tell whether the connection is closed for writing."""
        return self._abort_timer is not None or self._transport.is_closing()

    def write(self, data: bytes) -> None:
        """Send data, unless the connection is closing."""
        if not self.is_closing():
            self._transport.write(data)

    def close(self, input_pending: bool = False) -> None:
        """Close once all is sent; if input is pending, once the client has closed its side too."""
        if self.is_closing():
            return
        self._abort_timer = self._loop.call_later(LINGER_SECONDS, self._transport.abort)
        if (input_pending or self._input_pending()) and self._transport.can_write_eof():
            self._transport.write_eof()
            self._transport.resume_reading()
        else:
            self._transport.close()

    def discard(self, data: bytes) -> None:
        """Discard input of a closing connection, up to a limit."""
        self._discarded_bytes += len(data)
        if self._discarded_bytes > LINGER_BYTES:
            self._transport.abort()

    def cancel_timer(self) -> None:
        """Cancel the timer of a connection that has ended."""
        if self._abort_timer is not None:
            self._abort_timer.cancel()


class Connection(H11Protocol):
    """uvicorn's protocol, with a timeout for headers and a bound on the number of connections.

    uvicorn waits without limit for a client that opens a connection and sends half a request, or
    does not read its response; a few hundred of them would use up all file descriptors.
    """

    max_connections = 512

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self._header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a client, or refuse it if there are too many."""
        super().connection_made(transport)
        self.transport: Any = LingeringTransport(transport, self.loop, self._input_pending)
        if len(self.connections) > self.max_connections:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections; try again later")
        else:
            self._start_header_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Clean up after a client has gone."""
        self._stop_header_timer()
        self.transport.cancel_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Handle part of a request."""
        if self.transport.is_closing():
            self.transport.discard(data)
            return
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._start_header_timer()
        else:
            self._stop_header_timer()

    def _input_pending(self) -> bool:
        return self.conn.their_state in (h11.SEND_BODY, h11.ERROR)

    def send_400_response(self, msg: str) -> None:
        """Answer a request that is not valid HTTP."""
        # a response that has begun cannot be replaced, only cut off
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._refuse(HTTPStatus.BAD_REQUEST, msg.rstrip("."))
        else:
            self.transport.close()

    def _start_header_timer(self) -> None:
        if self._header_timer is None and not self.transport.is_closing():
            self._header_timer = self.loop.call_later(HEADER_SECONDS, self._headers_too_slow)

    def _stop_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _headers_too_slow(self) -> None:
        self._header_timer = None
        message = f"the headers did not arrive within {HEADER_SECONDS:g} seconds"
        self._refuse(HTTPStatus.REQUEST_TIMEOUT, message)

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        """Send an error without asking the application, and close the connection."""
        if self.transport.is_closing():
            return
        body = json.dumps({"error": message}).encode()
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close(input_pending=True)
