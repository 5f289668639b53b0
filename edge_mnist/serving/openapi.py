"""The OpenAPI document: what the framework knows, and ``/predict``, which it does not."""

from collections.abc import Container
from typing import Any

from fastapi import FastAPI

from edge_mnist.serving.limits import Limits

REASONS = {
    400: "The request is malformed.",
    401: "The API key is wrong or missing.",
    408: "The request took too long to arrive.",
    409: "Shape and data contradict each other.",
    413: "Too many bytes, pixels or pictures.",
    415: "The body is neither a picture nor a form.",
    422: "The request is not of the form described here.",
    429: "Too many pictures wait already.",
    431: "The head of the request is too large.",
    500: "The server failed.",
    503: "Not answered in time, or too many connections.",
}
ERROR = {
    "type": "object",
    "properties": {"error": {"type": "string"}},
    "required": ["error"],
}
BINARY = {"type": "string", "format": "binary"}
PICTURE_TYPES = ("image/*", "application/octet-stream")
PROBABILITY = {"type": "number", "minimum": 0, "maximum": 1.0001}  # a float32 may round up
ITEM = {
    "type": "object",
    "properties": {
        "path": {"type": "string"},
        "status": {"enum": ["ok", "rejected", "error"]},
        "error": {"type": "string"},
        "reason": {"type": "string"},
        "digit": {"type": "integer"},
        "name": {"type": "string"},
        "confidence": PROBABILITY,
        "probabilities": {"type": "array", "items": PROBABILITY},
        "top": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "digit": {"type": "integer"},
                    "name": {"type": "string"},
                    "probability": PROBABILITY,
                },
                "required": ["digit", "name", "probability"],
            },
        },
        "seen": {"type": "string", "description": "784 bytes, base64, row after row."},
    },
    "required": ["path", "status"],
}
REPORT = {
    "type": "object",
    "properties": {
        "schema_version": {"type": "integer"},
        "model": {"type": "string"},
        "model_sha256": {"type": "string"},
        "provider": {"type": "string"},
        "items": {"type": "array", "items": ITEM},
    },
    "required": ["schema_version", "model", "model_sha256", "provider", "items"],
}


def error_responses(*codes: int) -> dict[int | str, dict[str, Any]]:
    """Describe answers that are errors."""
    content = {"application/json": {"schema": ERROR}}
    return {code: {"description": REASONS[code], "content": content} for code in codes}


def install_document(app: FastAPI, limits: Limits, *, open_paths: Container[str] | None) -> None:
    """Have an app serve its own document with ``/predict`` in it.

    Args:
        app: The app.
        limits: Named in the document.
        open_paths: What answers without the API key; None if there is no key.
    """
    make_framework_document = app.openapi

    def make_document() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = make_framework_document()
            document["paths"] = {
                "/predict": {"post": describe_predict(limits)},
                **document["paths"],
            }
            document["components"]["schemas"]["InferInput"] = describe_infer_input()
            if open_paths is not None:
                add_key(document, open_paths)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = make_document  # type: ignore[method-assign]


def describe_predict(limits: Limits) -> dict[str, Any]:
    """Describe ``POST /predict``."""
    report = {"application/json": {"schema": REPORT}}
    errors = error_responses(400, 401, 408, 413, 415, 429, 431, 500, 503)
    return {
        "summary": "Read the digit in each picture of the request.",
        "description": (
            "The answer is the report of `edge-mnist predict --json`. A picture that shows no "
            "single digit has status `rejected`, one that cannot be read `error`. "
            f"At most {limits.max_bytes:,} bytes, {limits.max_pixels:,} pixels and "
            f"{limits.max_pictures} pictures."
        ),
        "tags": ["pictures"],
        "operationId": "predict",
        "parameters": [
            _query(
                "top_k", {"type": "integer", "minimum": 1, "maximum": 999}, "Likeliest classes."
            ),
            _query("seen", {"type": "boolean", "default": False}, "Add what the model saw."),
        ],
        "requestBody": {"required": True, "content": _predict_bodies()},
        "responses": {
            "200": {"description": "What was seen, in the order sent.", "content": report},
            **{str(code): answer for code, answer in errors.items()},
        },
    }


def describe_infer_input() -> dict[str, Any]:
    """Describe the input of an inference.

    That there are as many levels as the shape says is beyond JSON Schema: see 409.
    """
    level = {"type": "integer", "minimum": 0, "maximum": 255}
    row = {"type": "array", "items": level, "minItems": 28, "maxItems": 28}
    image = {"type": "array", "items": row, "minItems": 28, "maxItems": 28}
    flat = {"type": "array", "items": level, "minItems": 28 * 28}
    n_images = {"type": "integer", "minimum": 1}
    shape = [n_images, {"const": 28}, {"const": 28}]
    return {
        "type": "object",
        "description": "Images: 0 is background, 255 full ink; row after row, flat or nested.",
        "properties": {
            "name": {"const": "images"},
            "datatype": {"const": "UINT8"},
            "shape": {"type": "array", "prefixItems": shape, "minItems": 3, "maxItems": 3},
            "data": {"anyOf": [flat, {"type": "array", "items": image, "minItems": 1}]},
        },
        "required": ["name", "shape", "datatype", "data"],
    }


def add_key(document: dict[str, Any], open_paths: Container[str]) -> None:
    """Say that an API key is wanted, and where it is not."""
    schemes = {
        "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        "bearer": {"type": "http", "scheme": "bearer"},
    }
    document.setdefault("components", {})["securitySchemes"] = schemes
    document["security"] = [{"key": []}, {"bearer": []}]
    for path, operations in document["paths"].items():
        if path in open_paths:
            for operation in operations.values():
                operation["security"] = []


def _query(name: str, schema: dict[str, Any], about: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema, "description": about}


def _predict_bodies() -> dict[str, Any]:
    pictures = {"type": "array", "items": BINARY, "minItems": 1}
    form = {"type": "object", "properties": {"picture": pictures}, "required": ["picture"]}
    raw = {name: {"schema": BINARY | {"minLength": 1}} for name in PICTURE_TYPES}
    return {**raw, "multipart/form-data": {"schema": form}}
