"""The interface for programs as an OpenAPI 3.1 document: data, checked against the server by schemathesis."""

from __future__ import annotations

from typing import Any

JSON, PROBLEM = "application/json", "application/problem+json"


def _object(properties: dict[str, Any], *optional: str) -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required}


def _text(description: str) -> dict[str, Any]:
    return {"type": "string", "description": description}


def _share(description: str) -> dict[str, Any]:
    return {"type": "number", "minimum": 0, "maximum": 1.001, "description": description}


PREDICTION = _object(
    {
        "source": _text("The file's name, or its position from 1"),
        "label": _text("The likeliest class"),
        "confidence": _share("Its calibrated probability"),
        "unsure": {"type": "boolean", "description": "Whether it is not to be trusted"},
        "why": {"type": "string", "enum": ["", "strange", "low confidence"], "description": "Why it is not"},
        "probabilities": {"type": "object", "additionalProperties": _share("Of the class of this name")},
    }
)
SCHEMAS: dict[str, Any] = {
    "Prediction": PREDICTION,
    "Problem": _object(
        {
            "title": _text("What went wrong"),
            "status": {"type": "integer"},
            "detail": _text("What, where, why, and what helps"),
            "id": _text("What the server's log calls this request"),
        }
    ),
    "NoPrediction": _object(
        {
            "source": _text("The file's name, or its position from 1"),
            "title": _text("What went wrong"),
            "status": {"type": "integer"},
            "detail": _text("What, where, why, and what helps"),
        }
    ),
    "Predictions": _object(
        {
            "model": _text("SHA-256 of the .onnx file that answered"),
            "predictions": {
                "type": "array",
                "items": {
                    "anyOf": [{"$ref": f"#/components/schemas/{name}"} for name in ("Prediction", "NoPrediction")]
                },
            },
        }
    ),
    "Model": _object(
        {
            "model": _text("SHA-256 of the .onnx file"),
            "classes": {"type": "array", "items": {"type": "string"}},
            "recipe": _text("What it was trained by"),
            "image": _object({name: {"type": "integer"} for name in ("channels", "height", "width")}),
            "reads_glyphs": {"type": "boolean", "description": "Whether it looks for ink on paper"},
            "imprint": _text("The server's version"),
        }
    ),
    "Image": {
        "oneOf": [
            {**_object({"pixels": {"$ref": "#/components/schemas/Pixels"}, "source": {"type": "string"}}, "source")},
            {**_object({"base64": {"type": "string"}, "source": {"type": "string"}}, "source")},
        ]
    },
    "Pixels": {
        "type": "array",
        "minItems": 1,
        "description": "Numbers from 0 to 255 (or, as fractions, to 1): one row of all pixels, rows, or images",
        "items": {"anyOf": [{"type": "number"}, {"type": "array", "items": {}}]},
    },
    "Status": _object({"status": {"type": "string"}, "model": {"type": "string"}}, "model"),
}


def _answer(description: str, schema: str) -> dict[str, Any]:
    headers = {"X-Request-Id": {"schema": {"type": "string"}, "description": "What the log calls this request"}}
    content = {JSON: {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": description, "content": content, "headers": headers}


def _problems(**descriptions: str) -> dict[str, Any]:
    content = {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    told = {name.removeprefix("_"): text for name, text in descriptions.items()}
    common = {
        "401": "The token is missing or wrong.",
        "403": "A page of another site asked.",
        "421": "The server is not asked by that name.",
    }
    answers = {status: {"description": text, "content": content} for status, text in (common | told).items()}
    if "503" in answers:
        answers["503"]["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds to wait"}}
    return answers


def _get(name: str, summary: str, answers: dict[str, Any], description: str = "") -> dict[str, Any]:
    return {"get": {"operationId": name, "summary": summary, "description": description, "responses": answers}}


IMAGE_FILE = {"schema": {"type": "string", "format": "binary"}, "x-meaning": "the file of an image"}
PREDICT: dict[str, Any] = {
    "operationId": "predict",
    "summary": "Name the class of images",
    "description": "Each answer is that of `imprint predict`, whichever way the image comes. In a batch an image that "
    "cannot be used has a problem of its own, and the others are answered.",
    "parameters": [
        {
            "name": "shape",
            "in": "query",
            "required": False,
            "description": "Of raw bytes: their sides, such as 28,28 or 64,28,28,3. Without it, rows of pixels",
            "schema": {"type": "string"},
        }
    ],
    "requestBody": {
        "required": True,
        "content": {
            "image/png": IMAGE_FILE,
            "image/jpeg": IMAGE_FILE,
            "image/*": {**IMAGE_FILE, "x-meaning": "WebP, BMP, GIF, TIFF, PGM or AVIF"},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "file": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                            "minItems": 1,
                            "maxItems": 64,
                        }
                    },
                    "required": ["file"],
                },
                "x-meaning": "1 to 64 files of images",
            },
            JSON: {
                "schema": {
                    "anyOf": [
                        {"$ref": "#/components/schemas/Image"},
                        {
                            "type": "array",
                            "items": {"$ref": "#/components/schemas/Image"},
                            "minItems": 1,
                            "maxItems": 64,
                        },
                        _object(
                            {
                                "images": {
                                    "type": "array",
                                    "items": {"$ref": "#/components/schemas/Image"},
                                    "minItems": 1,
                                    "maxItems": 64,
                                }
                            }
                        ),
                    ]
                },
                "example": {"images": [{"pixels": [[0, 255], [255, 0]]}, {"base64": "iVBORw0K…", "source": "a.png"}]},
                "x-meaning": "pixels, or files in base64; images several of these",
            },
            "application/octet-stream": {**IMAGE_FILE, "x-meaning": "raw uint8 pixels, channels last"},
        },
    },
    "responses": {
        "200": _answer("The classes, in the order of the images", "Predictions"),
        **_problems(
            _400="The body cannot be read.",
            _413="It is too large.",
            _415="It has a type that is not taken.",
            _422="The image cannot be used.",
            _431="Headers are too large.",
            _503="No model is ready, or too much is queued.",
        ),
    },
}


def interface(version: str) -> dict[str, Any]:
    """Give the document."""
    plain = {"text/plain": {"schema": {"type": "string"}}}
    not_ready = _problems(_503="No model is ready.")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Imprint",
            "version": version,
            "description": "Names the class of images, and says when it is unsure. Errors are RFC 9457 problems.",
        },
        "security": [{}, {"token": []}],
        "paths": {
            "/v1/predict": {"post": PREDICT},
            "/v1/model": _get("model", "Tell what the model is", {"200": _answer("The model", "Model"), **not_ready}),
            "/healthz": _get(
                "health",
                "Tell that the process works",
                {"200": _answer("It does", "Status"), **_problems(_503="It does not.")},
            ),
            "/readyz": _get(
                "readiness",
                "Tell whether images would be answered now",
                {"200": _answer("They would", "Status"), **not_ready},
            ),
            "/metrics": _get(
                "metrics",
                "Give counts and times for Prometheus",
                {"200": {"description": "In its text format", "content": plain}, **_problems()},
            ),
        },
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }
