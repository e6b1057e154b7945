"""What the API says of itself, in OpenAPI 3.1."""

from typing import Any

from jaxir import __version__
from jaxir.serve.requests import Limits

REFUSALS = {
    "400": "no HTTP, no UTF-8 or no JSON",
    "408": "the request came too slowly",
    "413": "the body is too large",
    "415": "the content type is not application/json",
    "421": "the Host header names another server",
    "422": "a field is missing, unknown, of another type or beyond its limits",
    "503": "too many requests; Retry-After says when to try again",
}


def describe(limits: Limits) -> dict[str, Any]:
    """The OpenAPI description of a server with such limits."""
    text = {"type": "string", "minLength": 1, "maxLength": limits.characters}
    number = {"type": "integer", "minimum": 1, "maximum": limits.results, "default": 10}
    result = _object(
        id={"type": "string"},
        text={"type": "string"},
        language={"type": "string", "description": "empty: unknown"},
        score={"type": "number"},
    )
    counts = {"type": "object", "additionalProperties": {"type": "integer"}}
    search = {
        "type": "object",
        "required": ["query"],
        "additionalProperties": False,
        "properties": {
            "query": text,
            "k": number,
            "language": {
                "type": ["string", "null"],
                "default": None,
                "description": "search the passages of this language alone; null: all",
            },
        },
    }
    encode = {
        "type": "object",
        "required": ["texts"],
        "additionalProperties": False,
        "properties": {
            "texts": {"type": "array", "items": text, "minItems": 1, "maxItems": limits.texts},
            "kind": {"type": "string", "enum": ["query", "passage"], "default": "query"},
        },
    }
    found = _object(
        results={"type": "array", "items": result},
        languages=counts | {"description": "results of each language"},
        milliseconds={"type": "number"},
    )
    row = {"type": "array", "items": {"type": "number"}}
    health = _object(
        status={"const": "ok"},
        version={"type": "string"},
        model={"type": "string"},
        width={"type": "integer", "description": "length of an embedding"},
        passages={"type": "integer"},
        languages=counts | {"description": "passages of each language"},
        waiting={"type": "integer", "description": "texts that wait to be encoded"},
    )
    embeddings = _object(embeddings={"type": "array", "items": row})
    return {
        "openapi": "3.1.0",
        "info": {"title": "jaxir", "version": __version__},
        "paths": {
            "/search": {"post": _post("Passages that answer a query", search, found)},
            "/encode": {"post": _post("Embeddings of texts", encode, embeddings)},
            "/health": {"get": {"summary": "What is served", "responses": _answers(health)}},
        },
    }


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


def _post(summary: str, body: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": _json(body)},
        "responses": _answers(answer),
    }


def _answers(answer: dict[str, Any]) -> dict[str, Any]:
    error = _object(error={"type": "string"})
    refusals = {
        status: {"description": reason, "content": _json(error)}
        for status, reason in REFUSALS.items()
    }
    return {"200": {"description": "the answer", "content": _json(answer)}} | refusals


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
