"""The verb serve: the page and the HTTP service."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from imprint.core.errors import UsageError

COMMAND = "pip install starlette uvicorn httptools python-multipart segno onnx onnxruntime"
NEEDED = ("starlette", "uvicorn", "httptools", "python_multipart", "segno", "onnx", "onnxruntime")


def serve(
    model: Annotated[
        Path | None,
        typer.Argument(metavar="MODEL", help="An exported .onnx, model file or run folder. Left out, teach one."),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen at; 0.0.0.0 for all of this machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes any that is free.")] = 8000,
    token: Annotated[
        str,
        typer.Option(
            envvar="IMPRINT_TOKEN", show_default=False, help="What programs must send: Authorization: Bearer."
        ),
    ] = "",
    allow_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A further name that the server may be asked by.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(metavar="ORIGIN", help="An origin whose pages may ask, with the token.")
    ] = None,
    cert: Annotated[Path | None, typer.Option(metavar="FILE", help="A certificate (PEM), for https.")] = None,
    key: Annotated[Path | None, typer.Option(metavar="FILE", help="Its private key (PEM).")] = None,
    project: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the project lies. Left out, in the user's data folder.")
    ] = None,
    max_pixels: Annotated[int, typer.Option(min=1, help="The most pixels of an image.")] = 40_000_000,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
) -> None:
    """Show a page in the browser that tries, teaches and checks a model, and answer programs over HTTP."""
    for package in NEEDED:
        if find_spec(package) is None:
            remedy = f"Install what it needs: {COMMAND}."
            raise UsageError(f"package {package}", "this Python", "it is missing, and serve needs it", remedy)
    if (cert is None) != (key is None):
        raise UsageError("certificate", "--cert and --key", "one needs the other", "Give both, or neither.")
    from imprint.serve.security import Settings, check_origin, is_loopback
    from imprint.serve.server import serve as run

    settings = Settings(
        host,
        port,
        token,
        tuple(allow_host or ()),
        tuple(check_origin(one) for one in allow_origin or ()),
        max_pixels,
        cert,
        key,
        demands_token=bool(token) or not is_loopback(host),
    )
    run(settings, model, project, browser=browser)
