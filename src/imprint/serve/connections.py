"""Connections: how many, and how long a request may take to come, so that slow clients hold up nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_CONNECTIONS = 256
PATIENCE = 10.0  # seconds for a whole request
BYTES_A_SECOND = 2**20  # each megabyte of it adds a second
PROTECTED = b"/v1/predict"
MAX_HEAD = 2**15  # bytes of a request's line and headers
FULL = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
CUT = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
HEAD_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class PatientProtocol(HttpToolsProtocol):
    """HTTP as uvicorn speaks it; a request that has not come whole in time is cut.

    When all connections are taken, the one that has kept the server waiting longest makes room for a new one. What the
    application would refuse as too much is refused here, at a tenth of the cost: `overload` gives that answer.
    """

    overload: Callable[[], bytes] = staticmethod(lambda: b"")  # empty while there is room

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        self._head, self._in_head = 0, False  # bytes of a head, and whether it is still coming
        self._paid = 0  # bytes of the body for which time was added
        self._refusal = b""  # of the present request, whose body is passed over
        self.waiting_since: float | None = None  # for the client; None while it waits for the server

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, and let go of another where there are too many."""
        if len(self.connections) >= MAX_CONNECTIONS:
            waiting = [one for one in self.connections if getattr(one, "waiting_since", None) is not None]
            if not waiting:
                transport.write(FULL)
                transport.close()
            else:
                longest: Any = min(waiting, key=lambda one: one.waiting_since)  # type: ignore[union-attr]
                longest.transport.abort()
                self.connections.discard(longest)
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._settle()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes of a request."""
        if self._deadline is None and self._is_free:
            self._wait()
        super().data_received(data)
        if self._in_head:
            self._head += len(data)
            if self._head > MAX_HEAD and not self.transport.is_closing():
                self.transport.write(HEAD_TOO_LARGE)
                self.transport.close()

    @property
    def _is_free(self) -> bool:
        """Whether no answer is under way."""
        return self.cycle is None or self.cycle.response_complete

    def on_headers_complete(self) -> None:
        """Begin the answer; the body may still be coming."""
        self._in_head = False
        if sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD:
            raise ValueError("headers too large")  # which the parser answers with 400
        self._refusal = self.overload() if self._is_free and self.url.startswith(PROTECTED) else b""
        if not self._refusal:
            super().on_headers_complete()
        elif self.expect_100_continue:  # the body never comes
            self.transport.write(self._refusal)
            self.transport.close()

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._head, self._in_head = 0, True
        if self._deadline is None:  # its first bytes came with the end of the one before
            self._set_deadline()
        super().on_message_begin()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body, which earns it time."""
        if self._refusal:
            return
        self._paid += len(body)
        if self._paid >= BYTES_A_SECOND and self._deadline is not None:
            seconds, self._paid = divmod(self._paid, BYTES_A_SECOND)
            when = self._deadline.when() + seconds
            self._deadline.cancel()
            self._deadline = self.loop.call_at(when, self._cut)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request has come whole."""
        self._settle()
        if not self._refusal:
            super().on_message_complete()
        elif not self.transport.is_closing():
            self.transport.write(self._refusal)
            self.waiting_since = self.loop.time()
            if not self.parser.should_keep_alive():
                self.transport.close()

    def on_response_complete(self) -> None:
        """Note that the client may ask anew, which makes it the first to go where others have no room."""
        super().on_response_complete()
        if not self.pipeline and not self.transport.is_closing():
            self.waiting_since = self.loop.time()

    def _wait(self) -> None:
        self.waiting_since = self.loop.time()
        self._set_deadline()

    def _set_deadline(self) -> None:
        self._paid = 0
        self._deadline = self.loop.call_later(PATIENCE, self._cut)

    def _settle(self) -> None:
        self.waiting_since = None
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _cut(self) -> None:
        if self.transport.is_closing():
            return
        if self._is_free or not self.cycle.response_started:
            self.transport.write(CUT)
        self.transport.close()
        self.loop.call_later(1.0, self.transport.abort)  # where the client does not read either
