"""Bodies of requests."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.datastructures import UploadFile
from starlette.requests import Request

from imprint.serve.problems import Problem


@dataclass(frozen=True)
class Upload:
    """A file of a request."""

    name: str
    content: bytes


async def read_uploads(request: Request, limit: int) -> list[Upload]:
    """Read the files of a multipart body, or the body as one file."""
    if not request.headers.get("content-type", "").startswith("multipart/"):
        return [Upload("", await request.body())]
    async with request.form(max_files=limit, max_fields=16) as form:
        files = [each for each in form.multi_items() if isinstance(each[1], UploadFile)]
        uploads = [Upload(file.filename or "", await file.read()) for _, file in files if isinstance(file, UploadFile)]
    if not uploads:
        raise Problem(422, "No file", "The form holds no file.")
    return uploads
