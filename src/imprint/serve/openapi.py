"""The interface for programs as an OpenAPI 3.1 document: data, checked against the server by schemathesis."""

from __future__ import annotations

from typing import Any


def interface(version: str) -> dict[str, Any]:
    """Give the document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Imprint",
            "version": version,
            "description": "Names the class of images, and says when it is unsure. Errors are RFC 9457 problems.",
        },
        "paths": {},
        "components": {"schemas": {}},
    }
