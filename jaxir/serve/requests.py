"""Requests: read and validated from bytes that anybody may have sent."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect, Request

from jaxir.data.checks import check_unicode
from jaxir.errors import UserError
from jaxir.serve.engine import RESULT_COUNTS, EncodeRequest, SearchRequest


@dataclass(frozen=True)
class Limits:
    """Bounds on a request, and on all requests together."""

    body_bytes: int = 65_536
    body_seconds: float = 10.0  # from the headers to the end of the body
    texts: int = 32  # of an encode request
    characters: int = 4_096  # of a text
    results: int = RESULT_COUNTS[-1]
    requests: int = 256  # at the same time
    connections: int = 512  # at the same time
    answer_seconds: float = 30.0  # in the queue and the engine
    read_seconds: float = 20.0  # for the client to read the answer

    @property
    def seconds(self) -> float:
        """Seconds after which a request is abandoned."""
        return self.body_seconds + self.answer_seconds + self.read_seconds


class Refused(Exception):  # noqa: N818, the mistake is the client's
    """A refused request: HTTP status, one line with the reason, and headers of the response."""

    def __init__(self, status: int, message: str, **headers: str):
        super().__init__(message)
        self.status, self.headers = status, headers


async def read_json(request: Request, limits: Limits) -> dict[str, Any]:
    """Read the JSON object in a request's body.

    Raises:
        Refused: the body is too large, too slow or not a JSON object.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused(415, "content-type: must be application/json")
    length = request.headers.get("content-length", "0")
    if not length.isascii() or not length.isdigit():
        raise Refused(400, "content-length: must be a number")
    too_large = Refused(413, f"the body is over {limits.body_bytes:,} bytes", connection="close")
    # int() raises for thousands of digits, so their number is checked first
    if len(length) > 12 or int(length) > limits.body_bytes:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for part in request.stream():
                body += part
                if len(body) > limits.body_bytes:
                    raise too_large
    except TimeoutError:
        message = f"the body did not arrive within {limits.body_seconds:g} seconds"
        raise Refused(408, message, connection="close") from None
    except ClientDisconnect:
        raise Refused(400, "the body ended early") from None
    return _parse(bytes(body))


def _parse(body: bytes) -> dict[str, Any]:
    def refuse_constant(name: str) -> None:
        raise ValueError(f"{name} is not valid JSON")

    try:
        value = json.loads(body.decode("utf-8"), parse_constant=refuse_constant)
    except UnicodeDecodeError as error:
        raise Refused(400, f"the body is not UTF-8: byte {error.start}") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise Refused(400, f"the body is not valid JSON: {error.msg}, {where}") from None
    except RecursionError:
        raise Refused(400, "the body is nested too deeply") from None
    except ValueError as error:  # NaN, or an integer of thousands of digits
        raise Refused(400, f"the body is not valid JSON: {str(error).split(';')[0]}") from None
    if not isinstance(value, dict):
        raise Refused(422, f"the body is {_type(value)}; it must be an object")
    return value


def parse_search(
    fields: Mapping[str, Any], limits: Limits, languages: Mapping[str, int]
) -> SearchRequest:
    """Validate the JSON object of a search request.

    Args:
        fields: `query`, and optionally `k` and `language`.
        limits: bounds on the fields.
        languages: of the index, with their numbers of passages.

    Raises:
        Refused: a field is missing, unknown, of the wrong type or beyond its limits.
    """
    _check_names(fields, ("query",), ("k", "language"))
    query = _check_text("query", fields["query"], limits)
    k, language = fields.get("k", 10), fields.get("language")
    if isinstance(k, bool) or not isinstance(k, int):
        raise Refused(422, f"k: is {_type(k)}; it must be an integer")
    if not 1 <= k <= limits.results:
        raise Refused(422, f"k: must be from 1 to {limits.results}")
    if language is not None and not isinstance(language, str):
        raise Refused(422, f"language: is {_type(language)}; it must be a string or null")
    if language is not None and language not in languages:
        known = ", ".join(filter(None, languages)) or "none"
        raise Refused(422, f"language: no passage is in {language[:20]!a}; the index has: {known}")
    return SearchRequest((query,), k, language)


def parse_encode(fields: Mapping[str, Any], limits: Limits) -> EncodeRequest:
    """Validate the JSON object of an encode request.

    Args:
        fields: `texts`, and optionally `kind`: query or passage.
        limits: bounds on the fields.

    Raises:
        Refused: a field is missing, unknown, of the wrong type or beyond its limits.
    """
    _check_names(fields, ("texts",), ("kind",))
    texts, kind = fields["texts"], fields.get("kind", "query")
    if kind not in ("query", "passage"):
        raise Refused(422, 'kind: must be "query" or "passage"')
    if not isinstance(texts, list):
        raise Refused(422, f"texts: is {_type(texts)}; it must be a list of strings")
    if not 1 <= len(texts) <= limits.texts:
        raise Refused(422, f"texts: has {len(texts)} texts; must have from 1 to {limits.texts}")
    checked = [_check_text(f"texts[{i}]", text, limits) for i, text in enumerate(texts)]
    return EncodeRequest(tuple(checked), kind)


def _check_names(
    fields: Mapping[str, Any], required: tuple[str, ...], optional: tuple[str, ...]
) -> None:
    for name in required:
        if name not in fields:
            raise Refused(422, f"{name}: is missing")
    for name in fields:
        if name not in (*required, *optional):
            allowed = ", ".join((*required, *optional))
            raise Refused(422, f"{name[:20]!a}: unknown field; the fields are {allowed}")


def _check_text(name: str, text: Any, limits: Limits) -> str:
    if not isinstance(text, str):
        raise Refused(422, f"{name}: is {_type(text)}; it must be a string")
    if len(text) > limits.characters:
        raise Refused(
            422, f"{name}: has {len(text):,} characters; {limits.characters:,} are allowed"
        )
    if not text.strip():
        raise Refused(422, f"{name}: is empty")
    try:
        return check_unicode(text, f"{name}:")
    except UserError as error:
        raise Refused(422, str(error)) from None


def _type(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return "null" if value is None else names.get(type(value), "a number")
