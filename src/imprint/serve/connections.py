"""Connections: how many, and how long a request may take to come, so that slow clients hold up nobody."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from imprint.serve.admission import PREDICT, Admission

MAX_CONNECTIONS = 256
PATIENCE = 10.0  # seconds for a whole request
BYTES_A_SECOND = 2**20  # each megabyte of it adds a second
PROTECTED = PREDICT.encode()
PLAIN = re.compile(rb"POST %s(\?[!-~]*)? HTTP/1\.1\r\n" % re.escape(PROTECTED))
LENGTH = re.compile(rb"\r\ncontent-length: ?(\d{1,9})\r\n", re.IGNORECASE)
SPECIAL = re.compile(rb"\n(transfer-encoding|connection|expect|origin|x-request-id)[ \t]*:", re.IGNORECASE)
MAX_HEAD = 2**15  # bytes of a request's line and headers
FULL = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
CUT = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
HEAD_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


def is_plain_predict(data: bytes) -> bool:
    """Tell one whole request to predict that says nothing that a refusal depends on, without parsing it."""
    if PLAIN.match(data) is None:
        return False
    end = data.find(b"\r\n\r\n")
    length = LENGTH.search(data, 0, end + 2)
    return length is not None and end + 4 + int(length[1]) == len(data) and SPECIAL.search(data, 0, end) is None


class PatientProtocol(HttpToolsProtocol):
    """HTTP as uvicorn speaks it; a request that has not come whole in time is cut.

    When all connections are taken, the one that has kept the server waiting longest makes room for a new one. What is
    one request too many to predict is refused here, before anything is made for it.
    """

    admission: Admission

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        self._head, self._in_head = 0, False  # bytes of a head, and whether it is still coming
        self._paid = 0  # bytes of the body for which time was added
        self._coming = False  # a request has begun, and is not whole
        self._refused = self._predicts = self._admitted = False  # the present request
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
        self._leave()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes of a request."""
        if not self._coming and self._is_free and self.admission.is_full and is_plain_predict(data):
            self._settle()
            self._refuse()
            return
        super().data_received(data)
        if self._coming and self._deadline is None:
            self._set_deadline()
            if self._is_free:
                self.waiting_since = self.loop.time()
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
        place = self.url.partition(b"?")[0]
        self._predicts = self._is_free and place == PROTECTED and self.parser.get_method() == b"POST"
        self._refused = self._predicts and self.admission.is_full
        if not self._refused:
            super().on_headers_complete()
        elif self.expect_100_continue:  # the body never comes
            self._refuse(self.headers, closes=True)

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._coming = self._in_head = True
        self._head = 0
        super().on_message_begin()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body, which earns it time."""
        if self._refused:
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
        self._coming = False
        self._settle()
        if self._refused:
            if not self.transport.is_closing():
                keeps = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
                self._refuse(self.headers, closes=not keeps)
            return
        super().on_message_complete()
        if self._predicts and not self.cycle.response_complete:
            self._admitted = True
            self.admission.admitted += 1

    def _refuse(self, headers: Iterable[tuple[bytes, bytes]] = (), closes: bool = False) -> None:
        """Answer a request that is one too many; its body, if any, has been passed over."""
        if self.flow.write_paused:  # the client asks and asks, and reads nothing
            self.transport.abort()
            return
        self.transport.write(self.admission.refusal(headers, closes))
        self.waiting_since = self.loop.time()
        if closes:
            self.transport.close()
        elif self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_handler()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that has been idle for long; a refusal sets no timer of its own."""
        left = 0.0 if self.waiting_since is None else self.waiting_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self.timeout_keep_alive_task = self.loop.call_later(left, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()

    def on_response_complete(self) -> None:
        """Note that the client may ask anew, which makes it the first to go where others have no room."""
        self._leave()
        super().on_response_complete()
        if not self.pipeline and not self.transport.is_closing():
            self.waiting_since = self.loop.time()

    def _leave(self) -> None:
        if self._admitted:
            self._admitted = False
            self.admission.admitted -= 1

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
