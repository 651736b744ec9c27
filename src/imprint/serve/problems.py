"""Problems: what goes wrong with a request, as RFC 9457 has it, in the words of the command line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from imprint.core.errors import DataError, ImprintError, UsageError, spelled

MEDIA_TYPE = "application/problem+json"


class Problem(Exception):  # noqa: N818
    """An error that is answered as application/problem+json; `members` are further keys, `headers` of the answer."""

    def __init__(
        self, status: int, title: str, detail: str = "", headers: Mapping[str, str] | None = None, **members: Any
    ) -> None:
        super().__init__(title)
        self.status, self.title, self.detail, self.members = status, title, spelled(detail), members
        self.headers = dict(headers or {})

    @classmethod
    def of(cls, error: ImprintError, where: str = "") -> Problem:
        """Make a problem of an error that Imprint raised on purpose; `where` replaces its place, as a file's name."""
        status = 422 if isinstance(error, DataError) else 400 if isinstance(error, UsageError) else 500
        detail = f"{error.what} at {where or error.where}: {error.cause}. {error.remedy}"
        return cls(status, _TITLES.get(status, "The server failed"), detail)

    def to_dict(self) -> dict[str, Any]:
        """Give the members of RFC 9457, section 3.1, and further ones."""
        return {"title": self.title, "status": self.status, "detail": self.detail, **self.members}

    def response(self, request_id: str) -> Response:
        """Answer with it; the id is what the log calls this request."""
        content = json.dumps({**self.to_dict(), "id": request_id}, ensure_ascii=False).encode("utf-8", "replace")
        return Response(content, self.status, self.headers, MEDIA_TYPE)


_TITLES = {400: "The request cannot be understood", 422: "The data cannot be used"}


def http_problem(status: int, headers: Mapping[str, str] | None = None) -> Problem:
    """Make the problem for a status that the router found: no such place, or another method."""
    details = {404: "There is nothing at this address. /docs lists what is.", 405: "This address has other methods."}
    return Problem(status, HTTPStatus(status).phrase, details.get(status, ""), headers)
