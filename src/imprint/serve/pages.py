"""What a browser loads: a fixed table of files, read when the server starts, and the page about the interface."""

from __future__ import annotations

import gzip
import html
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json",
    "svg": "image/svg+xml",
    "png": "image/png",
    "webmanifest": "application/manifest+json",
    "txt": "text/plain; charset=utf-8",
}
NO_PAGE = b"<!doctype html><title>Imprint</title><p>This Imprint has no page. <a href=/docs>Its interface</a> answers."


@dataclass(frozen=True)
class Page:
    """A file as it is sent."""

    content: bytes
    media_type: str

    @property
    def etag(self) -> str:
        """Changes with its content."""
        return f'"{sha256(self.content).hexdigest()[:32]}"'


def static_files() -> dict[str, Page]:
    """Read the page's files into a table by address; no request ever reaches the file system."""
    table = {}
    folder = files("imprint.serve") / "static"
    if folder.is_dir():
        for file in folder.iterdir():
            if (ending := file.name.rpartition(".")[2]) in TYPES:
                table[f"/static/{file.name}"] = Page(file.read_bytes(), TYPES[ending])
    table["/"] = table.get("/static/index.html", Page(NO_PAGE, TYPES["html"]))
    if icon := table.get("/static/icon.svg"):
        table["/favicon.ico"] = icon
    return table


def routes(table: Mapping[str, Page]) -> Iterator[Route]:
    """Make a route for each address of a table."""
    for address, page in table.items():
        yield Route(address, _sender(page), methods=["GET"], include_in_schema=False)


def _sender(page: Page) -> Any:
    plain = {"ETag": page.etag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
    packed = {**plain, "ETag": f'{page.etag[:-1]}-gzip"', "Content-Encoding": "gzip"}
    content = gzip.compress(page.content, mtime=0)

    async def send(request: Request) -> Response:
        packs = "gzip" in request.headers.get("accept-encoding", "")
        headers = packed if packs else plain
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        return Response(content if packs else page.content, headers=headers, media_type=page.media_type)

    return send


def interface_page(document: Mapping[str, Any]) -> Page:
    """Write the page about the interface from its OpenAPI document; it needs no script."""
    parts = list[str]()
    for address, methods in document["paths"].items():
        for method, operation in methods.items():
            parts.append(_operation(f"{method.upper()} {address}", operation))
    title, version = document["info"]["title"], document["info"]["version"]
    text = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        '<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="/static/style.css"></head>'
        f"<body><main><h1>{html.escape(title)} {html.escape(version)}</h1>"
        f'<p>{html.escape(document["info"]["description"])} <a href="/openapi.json">openapi.json</a></p>'
        f"{''.join(parts)}</main></body></html>"
    )
    return Page(text.encode(), TYPES["html"])


def _operation(name: str, operation: Mapping[str, Any]) -> str:
    lines = [f"<section class=card><h2><code>{html.escape(name)}</code></h2>"]
    lines.append(f"<p>{html.escape(operation['summary'])}. {html.escape(operation.get('description', ''))}</p>")
    lines += [
        f"<p>Parameter <code>{html.escape(one['name'])}</code>: {html.escape(one['description'])}</p>"
        for one in operation.get("parameters", [])
    ]
    kinds = operation.get("requestBody", {}).get("content", {})
    for kind, content in kinds.items():
        lines.append(f"<p>Body <code>{html.escape(kind)}</code>: {html.escape(content.get('x-meaning', ''))}</p>")
        if "example" in content:
            lines.append(f"<pre>{html.escape(json.dumps(content['example']))}</pre>")
    lines += [
        f"<p><code>{html.escape(status)}</code> {html.escape(answer['description'])}</p>"
        for status, answer in operation["responses"].items()
    ]
    return "".join(lines) + "</section>"
