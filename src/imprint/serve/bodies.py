"""Bodies of requests: read within limits, and parsed into images of any of the four forms."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn
from urllib.parse import parse_qs

import numpy as np
from jaxtyping import Shaped, UInt8
from numpy import ndarray
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request
from starlette.types import Message, Receive, Scope

from imprint.core.errors import DataError
from imprint.data.decoding.decode import decode_in_thread, read_header
from imprint.preprocessing.transparency import WHITE
from imprint.serve.problems import Problem

MAX_BODY = 32 * 2**20  # bytes of one request
MAX_HELD = 64 * 2**20  # bytes of all requests that are being answered
STREAMED = {"/api/project/open": 2**30}  # bytes of bodies that go to disk while they come
MAX_FILES, MAX_FIELDS = 64, 16
MAX_FIELD = 2**16  # bytes
MAX_PART_HEADERS = 2**13  # bytes
MAX_NUMBERS = 2**20  # in a JSON body: 60 ms of parsing, in which nothing else runs
MAX_IMAGES = 1024  # of numbers, in one request
ACCEPTED = "image/png, image/jpeg, multipart/form-data, application/json or application/octet-stream"


@dataclass(frozen=True)
class Upload:
    """An image as a file: its name, "" where it has none, and its content."""

    name: str
    content: bytes


@dataclass(frozen=True)
class Numbers:
    """Images as numbers: one image, rows of pixels, or a stack, as `imprint.load` takes them."""

    name: str
    array: Shaped[ndarray, ...]


@dataclass(frozen=True)
class Form:
    """A multipart body: its files, and its other fields by name."""

    uploads: list[Upload] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)


class Held:
    """Counts the bytes of bodies that are in memory, over all requests."""

    def __init__(self, limit: int = MAX_HELD) -> None:
        self.limit, self.bytes = limit, 0


class Counted:
    """Receives a request's body and counts it while it comes, whatever its Content-Length claims.

    Those that are streamed to disk have a limit of their own and are not held in memory.
    """

    def __init__(self, receive: Receive, scope: Scope, headers: Mapping[bytes, bytes], held: Held) -> None:
        self._receive, self._held, self._mine, self._size = receive, held, 0, 0
        self._streamed = scope["path"] in STREAMED
        self._limit = STREAMED.get(scope["path"], MAX_BODY)
        claimed = headers.get(b"content-length", b"0")
        if not claimed.isdigit() or int(claimed[:20]) > self._limit:
            raise _too_large(self._limit)

    async def receive(self) -> Message:
        """Receive the next part; raises a `Problem` where it is too much, for this request or for all."""
        message = await self._receive()
        size = len(message.get("body", b""))
        if size:
            self._size += size
            if self._size > self._limit:
                raise _too_large(self._limit)
            if not self._streamed:
                self._hold(size)
        return message

    def _hold(self, size: int) -> None:
        if self._held.bytes + size > self._held.limit:
            detail = "The bodies of other requests fill the memory set aside for them. Try again in a second."
            raise Problem(503, "Too much at once", detail, {"Retry-After": "1", "Connection": "close"})
        self._held.bytes += size
        self._mine += size

    def release(self) -> None:
        """Let go of what the request held, once it is answered."""
        self._held.bytes -= self._mine
        self._mine = 0


async def read_body(request: Request) -> bytes:
    """Read a body whole; once, since it is not kept."""
    parts = list[bytes]()
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise Problem(400, "The request was cut short", "The connection ended before the whole body came.")
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def read_form(request: Request, limit: int = MAX_FILES) -> Form:
    """Read the files and fields of a multipart body; any other body is one file without a name."""
    body, kind = await read_body(request), request.headers.get("content-type", "")
    return parse_form(kind, body, limit) if is_multipart(kind) else Form([Upload("", body)])


async def read_uploads(request: Request, limit: int = MAX_FILES) -> list[Upload]:
    """Read the files of a multipart body, or the body as one file; there is at least one."""
    uploads = (await read_form(request, limit)).uploads
    if not uploads:
        raise Problem(422, "No file", "The form holds no file. Send one with a file name.")
    return uploads


def is_multipart(kind: str) -> bool:
    """Tell a form with files by its Content-Type."""
    return kind.partition(";")[0].strip().lower() == "multipart/form-data"


class _Collector:
    """Takes what the parser of multipart bodies finds, within limits."""

    def __init__(self, max_files: int) -> None:
        self.form, self._max_files, self._parts, self.ended = Form(), max_files, 0, False
        self._names, self._headers, self._data, self._size = b"", dict[bytes, bytes](), list[bytes](), 0
        self._value = b""

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_part_data": self._part_data,
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        self._headers, self._data, self._size = {}, [], 0
        self._names = self._value = b""
        self._parts += 1
        if self._parts > self._max_files + MAX_FIELDS:
            raise _too_many(self._max_files)

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._names += data[start:end]
        self._count(end - start)

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._count(end - start)

    def _count(self, size: int) -> None:
        self._size += size
        if self._size > MAX_PART_HEADERS:
            raise Problem(431, "Headers too large", f"The headers of a part have more than {MAX_PART_HEADERS} bytes.")

    def _header_end(self) -> None:
        self._headers[self._names.lower()] = self._value
        self._names = self._value = b""

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self._data.append(data[start:end])

    def _end(self) -> None:
        kind, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if kind != b"form-data" or b"name" not in options:
            raise Problem(400, "The form cannot be read", "A part has no Content-Disposition with a name.")
        content = self._data[0] if len(self._data) == 1 else b"".join(self._data)
        name = options[b"name"].decode("utf-8", "replace")
        if b"filename" in options:
            self.form.uploads.append(Upload(options[b"filename"].decode("utf-8", "replace"), content))
            if len(self.form.uploads) > self._max_files:
                raise _too_many(self._max_files)
            return
        if len(content) > MAX_FIELD or len(self.form.fields) == MAX_FIELDS:
            raise Problem(413, "The form is too large", f"A form has at most {MAX_FIELDS} fields of 64 kB.")
        self.form.fields[name] = content.decode("utf-8", "replace")

    def _finish(self) -> None:
        self.ended = True


def parse_form(kind: str, body: bytes, max_files: int = MAX_FILES) -> Form:
    """Parse a multipart body that has come whole."""
    _, options = parse_options_header(kind)
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise Problem(400, "The form cannot be read", "Its Content-Type names no boundary.")
    collector = _Collector(max_files)
    try:
        parser = MultipartParser(boundary, collector.callbacks())
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise Problem(400, "The form cannot be read", f"It is no multipart/form-data: {error}.") from None
    if not collector.ended:
        raise Problem(400, "The form cannot be read", "It is cut short: its last boundary is missing.")
    return collector.form


def parse_images(kind: str, query: bytes, body: bytes) -> list[Upload | Numbers]:
    """Parse the images of a request to predict, in any of the forms that its Content-Type may name."""
    media = kind.partition(";")[0].strip().lower()
    if media.startswith("image/"):
        return [Upload("", body)]
    if media == "multipart/form-data":
        uploads = parse_form(kind, body).uploads
        if not uploads:
            raise Problem(422, "No image", "The form holds no file. Send one with a file name.")
        return list(uploads)
    if media == "application/json":
        return _parse_json_images(body)
    if media == "application/octet-stream":
        return [_parse_raw(query, body)]
    raise Problem(415, "Unsupported media type", f"The body is {media or 'of no type'}. Send {ACCEPTED}.")


def _parse_raw(query: bytes, body: bytes) -> Numbers:
    array = np.frombuffer(body, dtype=np.uint8)
    given = parse_qs(query.decode("latin-1")).get("shape", [""])[-1]
    if not given:
        return Numbers("image", array[None])
    try:
        shape = tuple(int(side) for side in given.replace("x", ",").split(","))
        if not 1 <= len(shape) <= 4 or min(shape) < 1 or math.prod(shape) != len(body):
            raise ValueError
    except ValueError:
        detail = f"shape={given[:80]} and {len(body):,} bytes do not fit. Name the sides, such as shape=64,28,28."
        raise Problem(422, "The data cannot be used", detail) from None
    return Numbers("image", array[None] if len(shape) == 1 else array.reshape(shape))


def parse_json(body: bytes) -> Any:
    """Parse JSON strictly: UTF-8, no NaN, no number beyond a double's, each key once, not too deep."""
    if body.count(b",") > MAX_NUMBERS:
        detail = f"The JSON has more than {MAX_NUMBERS:,} values. Send images as files, base64 or raw bytes."
        raise Problem(413, "The body is too large", detail)
    try:
        return _DECODER.decode(body.decode("utf-8"))
    except RecursionError:
        raise _no_json("it is nested too deeply") from None
    except (ValueError, OverflowError) as error:
        raise _no_json(" ".join(str(error).split())[:200]) from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in an object")
    return found


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


def _int(text: str) -> int:
    if len(text) > 19:
        raise ValueError("a whole number is too large")
    return int(text)


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_constant, parse_float=_float, parse_int=_int)


def _no_json(cause: str) -> Problem:
    return Problem(400, "The JSON cannot be read", f"The body is no JSON that is taken: {cause}.")


def _parse_json_images(body: bytes) -> list[Upload | Numbers]:
    """Read {"pixels": numbers}, {"base64": text}, {"images": [either, …]}, or a list of these objects."""
    content = parse_json(body)
    if isinstance(content, dict) and "images" in content:
        _only(content, "images")
        content = content["images"]
    images = content if isinstance(content, list) else [content]
    if not 1 <= len(images) <= MAX_FILES:
        raise Problem(422, "The data cannot be used", f"Give 1 to {MAX_FILES} images, and not {len(images):,}.")
    return [_json_image(one) for one in images]


def _json_image(one: Any) -> Upload | Numbers:
    if not isinstance(one, dict):
        raise _no_image('each image is an object such as {"pixels": [[0, 255]]} or {"base64": "iVBORw0K"}')
    name = one.get("source", "")
    if not isinstance(name, str):
        raise _no_image("source is a text")
    if "base64" in one:
        _only(one, "base64", "source")
        return Upload(name, _from_base64(one["base64"]))
    if "pixels" in one:
        _only(one, "pixels", "source")
        return Numbers(name, _as_array(one["pixels"]))
    raise _no_image("an image has pixels or base64")


def _only(given: Mapping[str, Any], *known: str) -> None:
    for key in given:
        if key not in known:
            raise _no_image(f"key {key[:40]!r} is not known; {', '.join(known)} are")


def _no_image(cause: str) -> Problem:
    return Problem(422, "The data cannot be used", f"images at the JSON: {cause}.")


def _from_base64(text: Any) -> bytes:
    if not isinstance(text, str):
        raise _no_image("base64 is a text")
    _, comma, rest = text.partition(",")
    try:
        return base64.b64decode(rest if comma and text.startswith("data:") else text, validate=True)
    except (binascii.Error, ValueError):
        raise _no_image("base64 cannot be decoded") from None


def _as_array(pixels: Any) -> Shaped[ndarray, ...]:
    if not isinstance(pixels, list) or not pixels:
        raise _no_image("pixels are a list of numbers, of rows, or of images")
    try:
        array = np.array(pixels)
    except (ValueError, OverflowError):
        raise _no_image("the rows of pixels have different lengths, or are no numbers") from None
    if array.dtype.kind not in "uif" or not 1 <= array.ndim <= 4 or not array.size:
        raise _no_image("pixels are numbers, in at most four dimensions")
    return array[None] if array.ndim == 1 else array


def decode(content: bytes, max_pixels: int) -> UInt8[ndarray, "h w k"]:
    """Decode an image file, upright, grey or colour; refused by its header where it has too many pixels."""
    check_pixels(content, max_pixels)
    return decode_in_thread(content, background=WHITE).pixels


def check_pixels(content: bytes, max_pixels: int, name: str = "its content") -> None:
    """Refuse an image by its header, before it is decoded; raises `DataError`."""
    height, width = png_size(content) or read_header(content).size
    if height * width > max_pixels:
        cause = f"{width:,}×{height:,} pixels are more than the {max_pixels / 1e6:g} million that this server decodes"
        raise DataError("image", name, cause, "Make it smaller, or start the server with --max-pixels.")


def png_size(content: bytes) -> tuple[int, int] | None:
    """Read height and width of a PNG from its first bytes (PNG 1.2, section 4.1.1); None for other formats."""
    if content[:8] != b"\x89PNG\r\n\x1a\n" or content[12:16] != b"IHDR" or len(content) < 24:
        return None
    return int.from_bytes(content[20:24]), int.from_bytes(content[16:20])


def _too_large(limit: int) -> Problem:
    detail = f"A body has at most {limit / 2**20:g} MB. Send fewer images, or smaller ones."
    return Problem(413, "The body is too large", detail, {"Connection": "close"})


def _too_many(files: int) -> Problem:
    return Problem(422, "Too many parts", f"A form has at most {files} files and {MAX_FIELDS} fields.")
