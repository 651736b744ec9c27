"""Refusals of an overloaded server: made at the head, before the application, and as correct as its other answers."""

import asyncio
import json

import numpy as np
import pytest
from uvicorn.server import ServerState

from imprint.serve.admission import CALM, MAX_ADMITTED, MAX_TINY
from imprint.serve.app import create_app
from imprint.serve.connections import is_plain_predict
from imprint.serve.engine import Served
from imprint.serve.security import HEADERS, Settings
from imprint.serve.server import _config
from serve_helpers import png

IMAGE = png(np.zeros((8, 8), dtype=np.uint8))
SETTINGS = Settings(token="t" * 20, allow_origins=("https://good.test",))


class Transport(asyncio.Transport):
    """A connection without a network, which keeps what is written to it."""

    def __init__(self):
        super().__init__()
        self.written, self.closed = b"", False

    def write(self, content):
        self.written += content

    def close(self):
        self.closed = True

    abort = close

    def is_closing(self):
        return self.closed

    def get_extra_info(self, name, default=None):
        return default

    def pause_reading(self):
        pass

    resume_reading = pause_reading


def request(*headers, method="POST", path="/v1/predict", body=IMAGE, version="1.1", host="localhost:8000"):
    lines = [f"{method} {path} HTTP/{version}", f"Host: {host}", "Content-Type: image/png", *headers]
    if not any("chunked" in one for one in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def answers(written):
    """Split what was written into (status, headers, body)."""
    found = []
    while written:
        head, _, rest = written.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        length = int(headers["content-length"])
        found.append((int(first.split()[1]), headers, rest[:length]))
        written = rest[length:]
    return found


def connected(work, full=True, served=None):
    """Run something with a connection to the application, which is full unless told otherwise."""

    async def run():
        app = create_app(served or Served(), SETTINGS)
        if full:
            app.state.admission.admitted = MAX_ADMITTED
        config, state = _config(app, SETTINGS), ServerState()
        protocol = config.http_protocol_class(config=config, server_state=state, app_state={})
        protocol.connection_made(Transport())
        app.state.batcher.start()
        try:
            await asyncio.wait_for(work(protocol, protocol.transport, app), 20)
        finally:
            protocol.connection_lost(None)
            app.state.batcher.stop()

    asyncio.run(run())


async def answered(protocol):
    while not protocol.cycle.response_complete:
        await asyncio.sleep(0.001)


def test_one_too_many_is_refused_at_once_and_the_connection_stays():
    async def work(protocol, transport, app):
        protocol.data_received(request())
        ((status, headers, body),) = answers(transport.written)
        assert (status, headers["content-type"], int(headers["retry-after"])) == (503, "application/problem+json", 1)
        assert all(headers[name.decode()] == value.decode() for name, value in HEADERS)
        assert "access-control-allow-origin" not in headers
        problem = json.loads(body)
        assert (problem["title"], problem["status"], problem["id"]) == ("Overloaded", 503, headers["x-request-id"])
        assert protocol.cycle is None  # nothing was made for it
        assert not protocol.tasks
        assert app.state.metrics.requests["/v1/predict", 503] == 1
        protocol.data_received(request())
        assert answers(transport.written)[1][1]["x-request-id"] != headers["x-request-id"]
        assert not transport.closed
        app.state.admission.admitted = 0
        protocol.data_received(request())  # which is not refused any more; there is no model
        await answered(protocol)
        assert json.loads(answers(transport.written)[2][2])["title"] == "No model"

    connected(work)


@pytest.mark.parametrize(
    ("content", "closes"),
    [
        (request("Transfer-Encoding: chunked", body=b"3\r\nabc\r\n0\r\n\r\n"), False),
        (request("X-Something: " + "x" * 5000), False),
        (request(path="/v1/predict?shape=8,8"), False),
        (request("Connection: close"), True),
        (request(version="1.0"), True),
        (request("Connection: keep-alive", version="1.0"), True),
        (request("Expect: 100-continue", body=b"x" * 2000)[:-2000], True),  # the body would come after "100 Continue"
        (request(host="evil.test"), False),  # an answer it never gets
        (request("Origin: https://evil.test", "Sec-Fetch-Site: cross-site"), False),
        (request(body=bytes(300_000)), False),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_every_form_of_request_is_refused_once(content, closes, at_once):
    async def work(protocol, transport, app):
        step = len(content) if at_once else 1 + len(content) // 40
        for start in range(0, len(content), step):
            protocol.data_received(content[start : start + step])
        ((status, headers, body),) = answers(transport.written)
        assert status == 503
        assert json.loads(body)["title"] == "Overloaded"
        assert "access-control-allow-origin" not in headers
        assert (headers.get("connection") == "close", transport.closed) == (closes, closes)
        assert protocol.cycle is None
        if not closes:
            protocol.data_received(request())
            assert len(answers(transport.written)) == 2

    connected(work)


def test_requests_that_come_together_are_refused_in_order():
    async def work(protocol, transport, app):
        protocol.data_received(request("X-Request-Id: a") + request("X-Request-Id: b") + request()[:30])
        assert [headers["x-request-id"] for _, headers, _ in answers(transport.written)] == ["a", "b"]
        protocol.data_received(request()[30:])
        assert len(answers(transport.written)) == 3

    connected(work)


def test_a_refusal_behind_an_answer_waits_for_it(onnx_file):
    served = Served()
    served.swap(onnx_file)

    async def work(protocol, transport, app):
        protocol.data_received(request("X-Request-Id: a"))
        app.state.admission.admitted = MAX_ADMITTED
        protocol.data_received(request("X-Request-Id: b"))
        assert not transport.written
        await answered(protocol)
        found = answers(transport.written)
        assert [(status, headers["x-request-id"]) for status, headers, _ in found] == [(200, "a"), (200, "b")]

    connected(work, full=False, served=served)


def test_a_page_of_an_allowed_origin_may_read_its_refusal():
    async def work(protocol, transport, app):
        protocol.data_received(request("Origin: https://good.test", "Sec-Fetch-Site: cross-site"))
        ((_, headers, _),) = answers(transport.written)
        assert headers["access-control-allow-origin"] == "https://good.test"

    connected(work)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/healthz", 200),
        ("GET", "/v1/model", 503),
        ("GET", "/", 200),
        ("GET", "/readyz", 503),
        ("POST", "/v1/predictions", 404),
        ("PUT", "/v1/predict", 405),
        ("POST", "/v1/predict/", 404),
    ],
)
def test_other_addresses_are_answered_meanwhile(method, path, status):
    async def work(protocol, transport, app):
        protocol.data_received(request(method=method, path=path, body=b""))
        await answered(protocol)
        assert protocol.cycle.response_started
        ((found, _, body),) = answers(transport.written)
        assert found == status
        assert b"Overloaded" not in body

    connected(work)


def test_only_whole_requests_count_until_they_are_answered_or_gone(onnx_file):
    served = Served()
    served.swap(onnx_file)

    async def work(protocol, transport, app):
        admission = app.state.admission
        protocol.data_received(request()[:-5])
        assert admission.admitted == 0  # slow clients take no room
        protocol.data_received(request()[-5:])
        assert admission.admitted == 1
        await answered(protocol)
        assert (answers(transport.written)[0][0], admission.admitted) == (200, 0)
        protocol.data_received(request(method="GET", path="/healthz", body=b""))
        assert admission.admitted == 0
        await answered(protocol)
        protocol.data_received(request())
        protocol.connection_lost(None)
        assert admission.admitted == 0

    connected(work, full=False, served=served)


def test_many_may_come_together_but_two_batches_of_tiny_images_once_some_were_refused():
    async def work(protocol, transport, app):
        admission = app.state.admission
        admission.admitted = MAX_ADMITTED - 1
        assert not admission.is_full
        admission.admitted = MAX_ADMITTED
        assert admission.is_full
        protocol.data_received(request())  # which is refused
        admission.admitted = MAX_TINY
        assert admission.is_full
        admission.admitted = MAX_TINY - 1
        assert not admission.is_full
        admission.admitted = MAX_ADMITTED - 1
        app.state.batcher.heavy.held = MAX_ADMITTED - MAX_TINY  # large ones have room of their own
        assert not admission.is_full
        app.state.batcher.heavy.held = 0
        assert admission.is_full
        await asyncio.sleep(CALM)
        assert not admission.is_full

    connected(work, full=False)


def test_a_connection_closes_once_it_has_been_idle_since_its_last_refusal():
    async def work(protocol, transport, app):
        protocol.timeout_keep_alive = 0.1
        for _ in range(4):
            protocol.data_received(request())
            await asyncio.sleep(0.05)
            assert not transport.closed
        await asyncio.sleep(0.3)
        assert transport.closed

    connected(work)


def test_a_client_that_reads_no_refusals_is_cut():
    async def work(protocol, transport, app):
        protocol.data_received(request())
        protocol.pause_writing()
        protocol.data_received(request())
        assert (len(answers(transport.written)), transport.closed) == (1, True)

    connected(work)


def test_what_needs_no_parser_is_told_apart():
    assert is_plain_predict(request())
    assert is_plain_predict(request(path="/v1/predict?shape=1,2"))
    assert is_plain_predict(request(body=b"\r\n\r\n"))
    one = request()
    others = [one[:-1], one + b"P", one[1:], one.replace(b"\r\n\r\n", b"\n\n"), b"", request("expect: 100-continue")]
    others += [
        request(method="GET"),
        request(path="/v1/predict/"),
        request(path="/v1/predicted"),
        request(version="1.0"),
    ]
    others += [request(f"{name}: x") for name in ("Origin", "X-Request-ID", "connection", "Transfer-Encoding ")]
    assert not any(map(is_plain_predict, others))
