"""Hostile and broken bodies, asked of a real server and of the parsers: refused in words, never a failure."""

import json
import socket
import struct
import threading
import time
import zlib
from contextlib import suppress

import numpy as np
import pytest

from imprint.core.errors import DataError
from imprint.serve.bodies import MAX_BODY, check_pixels, decode, parse_form, parse_images, parse_json
from imprint.serve.metrics import resident_bytes
from imprint.serve.problems import Problem
from serve_helpers import form, png

IMAGE = png(np.zeros((8, 8), dtype=np.uint8))
JSON = "application/json"


def huge_png(side):
    """A PNG whose header claims many pixels."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return head + struct.pack(">I", 4) + b"IDAT" + b"\0" * 8


# 13


def test_a_body_over_the_limit_is_refused_before_it_is_sent(server):
    head = f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: {MAX_BODY + 1}"
    answer, _ = server.raw(head.encode() + b"\r\nExpect: 100-continue\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"100 Continue" not in answer


def test_a_body_is_counted_whatever_its_length_claims(server):
    """Chunked, it claims nothing."""
    chunk = b"100000\r\n" + b"\0" * 2**20 + b"\r\n"
    head = (
        b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    try:
        answer, _ = server.raw(head + chunk * (MAX_BODY // 2**20 + 1) + b"0\r\n\r\n")
    except ConnectionError:  # it was cut before all was sent
        answer = b"HTTP/1.1 413"
    assert answer.startswith(b"HTTP/1.1 413")
    assert server.get("/readyz").status == 200


def test_a_length_that_lies_is_no_request(server):
    head = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nConnection: close\r\n"
    for claimed in (b"-1", b"1e3", b"99999999999999999999999", b"abc"):
        assert server.raw(head + b"Content-Length: " + claimed + b"\r\n\r\nx")[0][9:12] in (b"400", b"413")


def test_too_many_pixels_are_refused_by_the_header(server):
    before = resident_bytes(server.process.pid)
    started = time.perf_counter()
    answer = server.predict(huge_png(6400))  # 40.96 million
    taken = time.perf_counter() - started
    assert answer.status == 422
    assert "6,400×6,400 pixels are more than the 40 million" in answer.json["detail"]
    assert taken < 5  # it is some milliseconds; machines that test are busy
    assert resident_bytes(server.process.pid) - before < 20e6
    with pytest.raises(DataError, match=r"more than the 0\.5 million"):
        check_pixels(png(np.zeros((1000, 1000), dtype=np.uint8)), 500_000)


def test_fewer_pixels_can_be_allowed(started, onnx_file):
    server = started(onnx_file, "--max-pixels", 100)
    assert server.predict(IMAGE).status == 200
    assert server.predict(png(np.zeros((11, 10), dtype=np.uint8))).status == 422


# 14


def test_forms_have_limits():
    kind = "multipart/form-data; boundary=x"
    assert len(parse_form(kind, form([("a", b"1")] * 64)).uploads) == 64
    assert parse_form(kind, form([("a", b"1")], fields=[("class", "c1")])).fields == {"class": "c1"}
    refused = {
        422: [form([("a", b"")] * 65)],
        413: [form([], fields=[(f"f{i}", "") for i in range(17)]), form([], fields=[("f", "x" * 2**17)])],
        431: [b"--x\r\n" + b"".join(b"X-%d: %s\r\n" % (i, b"y" * 3000) for i in range(4)) + b"\r\n\r\n--x--\r\n"],
        400: [
            b"--x\r\nContent-Disposition: form-data; name=a; filename=b\r\n\r\ncut",
            b"--x\r\n\r\n\r\n--x--\r\n",
            b"",
            b"--y--\r\n",
        ],
    }
    for status, bodies in refused.items():
        for body in bodies:
            with pytest.raises(Problem) as problem:
                parse_form(kind, body)
            assert problem.value.status == status
    for wrong in (
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + "y" * 999,
    ):
        with pytest.raises(Problem) as problem:
            parse_form(wrong, form([("a", b"1")]))
        assert problem.value.status == 400


@pytest.mark.parametrize(
    "body", [b"-" * 2**20, b"\r\n" * 2**19, b"--x\r\n" * 2**17, b"--x" + b"-" * 2**20, b"\r\n--" * 2**18]
)
def test_a_megabyte_of_dashes_ends_soon(body):
    """One that is scanned again and again would take minutes."""
    for whole in (body, b'--x\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n' + body):
        started = time.process_time()
        with suppress(Problem):  # some of them end a form
            parse_form("multipart/form-data; boundary=x", whole)
        assert time.process_time() - started < 2  # alone, it is below 0.1


# 15


def test_a_request_that_does_not_come_is_cut(server):
    head = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 100\r\n"
    results = {}

    def ask(name, content):
        results[name] = server.raw(content, timeout=30)

    waiting = [
        threading.Thread(target=ask, args=one)
        for one in (
            ("nothing", b""),
            ("half a head", head),
            ("half a body", head + b"\r\nxx"),
            ("a second one", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" + head),
        )
    ]
    for thread in waiting:
        thread.start()
    assert server.predict(IMAGE).status == 200  # others are answered meanwhile
    for thread in waiting:
        thread.join()
    for name, (answer, taken) in results.items():
        assert b"HTTP/1.1 408" in answer, name
        assert answer.startswith(b"HTTP/1.1 200" if name == "a second one" else b"HTTP/1.1 408"), name
        assert 9 < taken < 25, name


def test_a_head_has_a_limit(server):
    long = b"X-Long: " + b"y" * 2**17 + b"\r\n"
    for content in (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + long, b"GET /" + b"y" * 2**17):
        try:
            answer, _ = server.raw(content)
        except ConnectionError:
            continue
        assert answer[9:12] in (b"431", b"400")


def test_slow_connections_hold_up_nobody(started, onnx_file):
    server = started(onnx_file)
    slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(400)]
    try:
        for one in slow:
            with suppress(ConnectionError):  # it made room for another
                one.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        for _ in range(20):
            assert server.predict(IMAGE).status == 200
    finally:
        for one in slow:
            one.close()


# 16


DEEP = b'{"pixels": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"


@pytest.mark.parametrize(
    "body",
    [
        DEEP, b"[" * 10_000, b'{"pixels": [NaN]}', b'{"pixels": [Infinity]}', b'{"pixels": [1e400]}',
        b'{"pixels": [' + b"9" * 10_000 + b"]}", b'{"pixels": [-' + b"9" * 30 + b"]}",
        b'{"pixels": [1], "pixels": [2]}', b'{"pixels": ["\xff"]}', b"\xff\xfe{}", b"", b"null", b"[]", b"{}", b"7",
        b'"text"', b'{"pixels": "text"}', b'{"pixels": []}', b'{"pixels": [[]]}', b'{"pixels": [[1, 2], [3]]}',
        b'{"pixels": [true, false]}', b'{"pixels": [null]}', b'{"pixels": [{}]}', b'{"pixels": [[[[[1]]]]]}',
        b'{"pixels": [-1]}', b'{"pixels": [256]}', b'{"pixels": [1e308]}', b'{"base64": "not base64!"}',
        b'{"base64": 7}', b'{"base64": ""}', b'{"images": {}}', b'{"images": [7]}', b'{"images": [], "x": 1}',
        b'{"pixels": [1], "path": "/etc/passwd"}', b'{"pixels": [1], "source": 7}',
        json.dumps([{"pixels": [1]}] * 65).encode(),
    ],
)  # fmt: skip
def test_odd_json_is_refused_in_words(server, body):
    answer = server.predict(body, JSON)
    assert 400 <= answer.status < 500
    assert answer.kind == "application/problem+json"
    assert answer.json["title"]
    assert answer.json["detail"]


def test_strict_json():
    assert parse_json(b'{"a": [1, 2.5, -3, true, null, "\\u00e9"]}') == {"a": [1, 2.5, -3, True, None, "é"]}
    with pytest.raises(Problem, match="too large") as problem:
        parse_json(b"[" + b"1," * 2**20 + b"1, 1]")
    assert problem.value.status == 413


@pytest.mark.parametrize(
    ("kind", "query", "body", "status"),
    [
        ("", "", IMAGE, 415),
        ("text/plain", "", IMAGE, 415),
        ("image/svg+xml", "", b"<svg xmlns='http://www.w3.org/2000/svg'/>", 422),
        ("image/png", "", b"", 422),
        ("image/png", "", IMAGE[:40], 422),
        ("image/png", "", b"<html><script>alert(1)</script>", 422),
        ("application/octet-stream", "", b"", 422),
        ("application/octet-stream", "?shape=8,8", b"x" * 63, 422),
        ("application/octet-stream", "?shape=0,8", b"", 422),
        ("application/octet-stream", "?shape=-1,-64", b"x" * 64, 422),
        ("application/octet-stream", "?shape=1,1,1,1,64", b"x" * 64, 422),
        ("application/octet-stream", "?shape=" + "9," * 5000, b"x" * 64, 422),
        ("application/octet-stream", "?shape=%FF", b"x" * 64, 422),
        ("multipart/form-data", "", IMAGE, 400),
        ("multipart/form-data; boundary=x", "", form([], fields=[("a", "b")]), 422),
    ],
)
def test_other_bodies_are_refused_in_words(server, kind, query, body, status):
    answer = server.predict(body, kind, query)
    assert (answer.status, answer.kind) == (status, "application/problem+json")
    assert answer.json["detail"].endswith((".", ".)"))


def test_a_bad_image_never_ends_the_process(server):
    for content in (
        IMAGE[:-5],
        IMAGE[:30] + b"\xff" * 40,
        b"GIF89a" + b"\xff" * 99,
        b"II*\0" + b"\xff" * 99,
        b"\0" * 999,
    ):
        assert server.predict(content).status == 422
    assert server.predict(IMAGE).status == 200


def test_uploads_are_decoded_upright_and_within_limits():
    assert decode(IMAGE, 100).shape == (8, 8, 1)
    with pytest.raises(DataError):
        decode(IMAGE, 63)


def test_raw_bytes_are_rows_where_no_shape_is_given():
    (numbers,) = parse_images("application/octet-stream", b"", bytes(range(6)))
    assert numbers.array.shape == (1, 6)
