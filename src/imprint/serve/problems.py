"""Problems: errors of the HTTP interface as RFC 9457 has them."""

from __future__ import annotations

from typing import Any


class Problem(Exception):  # noqa: N818
    """An error to be answered as application/problem+json."""

    def __init__(self, status: int, title: str, detail: str = "", **members: Any) -> None:
        super().__init__(title)
        self.status, self.title, self.detail, self.members = status, title, detail, members
