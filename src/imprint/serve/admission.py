"""Admission: which requests to predict are let in, decided when a request's head has come.

An overloaded server refuses many times what it answers, so a refusal passes neither the application nor its task: it is
put together here from bytes that are ready. It tells nothing but that there is too much work.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable
from itertools import count
from secrets import token_hex

from imprint.serve.batching import Batcher
from imprint.serve.metrics import Metrics
from imprint.serve.problems import MEDIA_TYPE
from imprint.serve.security import HEADERS, Door, Headers

PREDICT = "/v1/predict"
# Requests that are let in at once, so that half of all connections stay to be refused. That many may come together; but
# where more come than are answered, two batches of tiny images are enough: with more, all wait longer and no more are
# answered (docs/log/serving.md).
MAX_ADMITTED, MAX_TINY = 128, 32
CALM = 0.5  # seconds without a refusal until more than two batches may come together again
RETRY_AFTER = 1  # seconds, the least that can be said: the queue of tiny images is shorter
REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class RequestIds:
    """Names of requests in answers and log: the client's own, or one that nobody else has."""

    def __init__(self) -> None:
        self._prefix, self._numbers = token_hex(8).encode(), count(1)

    def of(self, headers: Headers) -> bytes:
        """Give the id of a request."""
        given = headers.get(b"x-request-id", b"")
        return given if REQUEST_ID.fullmatch(given) else b"%s-%x" % (self._prefix, next(self._numbers))


class Admission:
    """Counts the requests to predict that have come whole and are not answered; there is room for so many."""

    def __init__(self, batcher: Batcher, counted: Metrics, door: Door, ids: RequestIds) -> None:
        self.admitted = 0
        self._calm_at = 0.0
        self._batcher, self._metrics, self._door, self._ids = batcher, counted, door, ids
        detail = f"Too much work is queued. Try again in {RETRY_AFTER} s."
        self._problem = json.dumps({"title": "Overloaded", "status": 503, "detail": detail})[:-1].encode()
        fixed = [(b"content-type", MEDIA_TYPE.encode()), (b"retry-after", b"%d" % RETRY_AFTER), *HEADERS]
        self._head = b"HTTP/1.1 503 Service Unavailable\r\n" + _lines(fixed)

    @property
    def is_full(self) -> bool:
        """Whether any further request is one too many."""
        if self.admitted >= MAX_ADMITTED or not self._batcher.has_room:
            return True
        return self.admitted - self._batcher.heavy.held >= MAX_TINY and time.monotonic() < self._calm_at

    def refusal(self, headers: Iterable[tuple[bytes, bytes]] = (), closes: bool = False) -> bytes:
        """Count a request that is one too many, and give its whole answer; `closes` where the connection then ends."""
        self._calm_at = time.monotonic() + CALM
        given = dict(headers)
        request_id = self._ids.of(given)
        self._metrics.observe(PREDICT, 503, 0.0)
        body = b'%s, "id": "%s"}' % (self._problem, request_id)
        own = [(b"x-request-id", request_id), (b"content-length", b"%d" % len(body)), *self._door.cors(given)]
        return b"%s%s%s\r\n%s" % (self._head, _lines(own), b"connection: close\r\n" * closes, body)


def _lines(headers: list[tuple[bytes, bytes]]) -> bytes:
    return b"".join(b"%s: %s\r\n" % header for header in headers)
