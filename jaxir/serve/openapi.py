"""The OpenAPI 3.1 description of the API."""

from typing import Any

from jaxir.runtime.versions import VERSION
from jaxir.serve.requests import Limits

REFUSALS = {
    "400": "not HTTP, not UTF-8 or not JSON",
    "408": "the request arrived too slowly",
    "413": "the body is too large",
    "415": "the content type is not application/json",
    "421": "the Host header does not name this server",
    "422": "a field is missing, unknown, of the wrong type or beyond its limits",
    "503": "too many requests, or no answer in time; Retry-After says when to try again",
}


def describe(limits: Limits) -> dict[str, Any]:
    """Return the OpenAPI description of a server with these limits."""
    result = _object(
        id={"type": "string"},
        text={"type": "string"},
        language={"type": "string", "description": "empty: unknown"},
        score={"type": "number"},
    )
    results = _object(
        results={"type": "array", "items": result},
        languages=_COUNTS | {"description": "number of results in each language"},
        milliseconds={"type": "number"},
    )
    embedding = {"type": "array", "items": {"type": "number"}}
    embeddings = _object(embeddings={"type": "array", "items": embedding})
    health = _object(
        status={"const": "ok"},
        version={"type": "string"},
        model={"type": "string"},
        width={"type": "integer", "description": "length of an embedding"},
        passages={"type": "integer"},
        languages=_COUNTS | {"description": "number of passages in each language"},
        queued_texts={"type": "integer", "description": "texts waiting to be encoded"},
    )
    search, encode = _search_request(limits), _encode_request(limits)
    return {
        "openapi": "3.1.0",
        "info": {"title": "jaxir", "version": VERSION},
        "paths": {
            "/search": {"post": _post("The best passages for a query", search, results)},
            "/encode": {"post": _post("Embeddings of texts", encode, embeddings)},
            "/health": {"get": {"summary": "Model, index and load", "responses": _answers(health)}},
        },
    }


_COUNTS = {"type": "object", "additionalProperties": {"type": "integer"}}


def _search_request(limits: Limits) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["query"],
        "additionalProperties": False,
        "properties": {
            "query": _text(limits),
            "k": {"type": "integer", "minimum": 1, "maximum": limits.results, "default": 10},
            "language": {
                "type": ["string", "null"],
                "default": None,
                "description": "only search passages in this language; null: all",
            },
        },
    }


def _encode_request(limits: Limits) -> dict[str, Any]:
    texts = {"type": "array", "items": _text(limits), "minItems": 1, "maxItems": limits.texts}
    return {
        "type": "object",
        "required": ["texts"],
        "additionalProperties": False,
        "properties": {
            "texts": texts,
            "kind": {"type": "string", "enum": ["query", "passage"], "default": "query"},
        },
    }


def _text(limits: Limits) -> dict[str, Any]:
    return {"type": "string", "minLength": 1, "maxLength": limits.characters}


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
