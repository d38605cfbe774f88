"""Reading request bodies: with a limit, as JSON, as what a model says."""

import json
import math
import re
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from quart import request

from trafficlight.http.errors import ApiError
from trafficlight.protocol import JsonObject

M = TypeVar("M", bound=BaseModel)

# How deep a body may be nested. Whoever reads it later may do so recursively.
_DEPTH = 64
_HALVES = re.compile("[\ud800-\udfff]")

# What is not JSON for sure. Anything else is read as JSON: old clients call it text, or nothing at all.
_OTHER_TYPES = frozenset(
    {"multipart/form-data", "application/x-www-form-urlencoded", "application/xml", "text/xml", "text/html"}
)


async def chunks(limit: int) -> AsyncIterator[bytes]:
    """Give the body as it comes.

    :param limit: bytes that it may have.
    :raises Refusal: it has more (413).
    """
    read = 0
    if (request.content_length or 0) > limit:
        raise _too_large(limit)
    async for chunk in request.body:
        read += len(chunk)
        if read > limit:
            raise _too_large(limit)
        yield chunk


async def json_object(limit: int) -> JsonObject:
    """Return the body, which must be a JSON object.

    :param limit: bytes that it may have.
    :raises Refusal: it is too large (413), of another type (415), or no JSON object (400).
    """
    if request.mimetype in _OTHER_TYPES:
        message = f"the body must be application/json, not {request.mimetype}"
        raise ApiError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message)
    raw = b"".join([chunk async for chunk in chunks(limit)])
    try:
        read: Any = json.loads(raw.decode("utf-8-sig"), parse_constant=_no_constant, parse_float=_finite)
        read = _sound(read, _DEPTH)
    except (ValueError, RecursionError) as error:
        what = "empty" if not raw else f"not JSON: {error}"
        raise ApiError(HTTPStatus.BAD_REQUEST, "malformed_json", f"the body is {what}") from None
    if not isinstance(read, dict):
        kind = {list: "a list", str: "a string", type(None): "null"}.get(type(read), "a number or boolean")
        message = f"the body must be a JSON object, not {kind}"
        raise ApiError(HTTPStatus.BAD_REQUEST, "not_an_object", message)
    return read


def validated(model: type[M], body: JsonObject) -> M:
    """Return the body as a model.

    :raises Refusal: it does not fit (400); the message names the field.
    """
    try:
        return model.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the body"
        message = f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}"
        raise ApiError(HTTPStatus.BAD_REQUEST, "invalid_body", message) from None


def _sound(value: Any, depth: int) -> Any:
    """Return a value without lone halves of surrogate pairs, which JSON can spell and nothing can encode.

    :raises ValueError: it is nested too deeply.
    """
    if isinstance(value, str):
        return value if value.isascii() else _HALVES.sub("\ufffd", value)
    if isinstance(value, dict | list):
        if depth == 0:
            raise ValueError(f"it is nested deeper than {_DEPTH} levels")
        if isinstance(value, dict):
            return {_sound(key, depth): _sound(item, depth - 1) for key, item in value.items()}
        return [_sound(item, depth - 1) for item in value]
    return value


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:40]} is too large a number")
    return number


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _too_large(limit: int) -> ApiError:
    return ApiError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large", f"more than {limit} bytes")
