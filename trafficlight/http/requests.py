"""Requests: their lab and session; bodies read within limits, parsed as JSON, validated by a model."""

import asyncio
import json
import math
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import parse_qs

from pydantic import BaseModel, ValidationError
from quart import Response, current_app, request

from trafficlight.coordinator.lab import Lab
from trafficlight.coordinator.session import Session
from trafficlight.errors import UsageError
from trafficlight.http.responses import ApiError
from trafficlight.protocol import JsonObject
from trafficlight.results.catalog import SessionView
from trafficlight.results.traffic import period_of
from trafficlight.text import first_problem

LATEST = "latest"
"""Names the session that started last."""

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

# The type of the bodies that forms of pages send.
_FORM = "application/x-www-form-urlencoded"
# Seconds without a byte of a body that has not ended.
_STALLED = 60.0
# Seconds that a body has as a whole, and the bytes per second for which it has more.
_GRACE, _RATE = 20.0, 16 << 10
LARGE = 256 << 10
"""Bytes of a body that take the loop too long to parse."""

# Bytes of a body that is read however many others there are.
_TINY = 16 << 10
# Bytes in memory of all bodies between tiny and large.
_TOGETHER = 128 << 20
# Large bodies in memory, and the seconds for which the senders of others wait for one of these places.
_LARGE_AT_ONCE = 12
_TURN = 15.0
# Seconds for which a large body may keep its place, and the bytes per second for which it has more.
_LARGE_GRACE, _LARGE_RATE = 10.0, 256 << 10
# Large bodies and recordings are parsed one at a time: one takes 20 times its size.
_PARSER = ThreadPoolExecutor(1, "parse")
# Lists and objects in a body.
_CONTAINERS = 1_000_000
# Later readers may be recursive.
_DEPTH = 64
_SAFE = frozenset({int, float, bool, type(None)})
_SURROGATES = re.compile("[\ud800-\udfff]")

# What cannot be JSON. Anything else is parsed as JSON: old clients send it as text, or without a type.
_OTHER_TYPES = frozenset(
    {"multipart/form-data", "application/x-www-form-urlencoded", "application/xml", "text/xml", "text/html"}
)


def asked_period() -> tuple[float, float]:
    """Return the period that `between` in the query names.

    :raises ApiError: it is not a time range (400).
    """
    try:
        return period_of(request.args.get("between", ""))
    except UsageError as error:
        raise ApiError(HTTPStatus.BAD_REQUEST, "invalid_request", str(error)) from None


def current_lab() -> Lab:
    """Return the lab of the application that handles the current request."""
    lab: Lab = current_app.config["LAB"]
    return lab


async def session_folder(name: str) -> Path:
    """Return the folder of a session; its name is the session's id.

    :param name: its id, or `latest`; any text.
    :raises ApiError: there is no such session (404).
    """
    catalog = current_lab().catalog
    latest = await catalog.latest() if name == LATEST else name
    if latest is None:
        raise ApiError(HTTPStatus.NOT_FOUND, "unknown_session", "no session has run yet")
    if (folder := await catalog.folder(latest)) is None:
        raise unknown_session()
    return folder


async def session_id(name: str) -> str:
    """Return the id of a session, see :func:`session_folder`."""
    return (await session_folder(name)).name


@asynccontextmanager
async def open_session(name: str) -> AsyncIterator[SessionView]:
    """Open a session until this is left.

    :param name: its id, or `latest`; any text.
    :raises ApiError: there is no such session (404).
    """
    async with AsyncExitStack() as stack:
        try:
            view = await stack.enter_async_context(current_lab().catalog.record(await session_id(name)))
        except OSError:
            raise unknown_session() from None
        yield view


def running(id: str) -> Session | None:
    """Return a session that this process runs; None for all others."""
    return current_lab().engine.sessions.get(id)


def unknown_session() -> ApiError:
    """Return the error for a name that no session has."""
    return ApiError(HTTPStatus.NOT_FOUND, "unknown_session", "there is no such session")


async def chunks(limit: int) -> AsyncIterator[bytes]:
    """Iterate over the body of the current request.

    :param limit: the most bytes that it may have.
    :raises ApiError: it has more (413), or stalls (408).
    """
    check_size(request.content_length or 0, limit)
    read, body, began = 0, aiter(request.body), time.monotonic()
    with suppress(StopAsyncIteration):
        while True:
            chunk = await before_stall(anext(body), began, read)
            read += len(chunk)
            check_size(read, limit)
            yield chunk


async def json_object(limit: int) -> JsonObject:
    """Return the body of the current request, which must be a JSON object.

    :param limit: bytes.
    :raises ApiError: the body is too large (413), of another type (415), or not a JSON object (400), or there
        are too many (503).
    """
    check_json_type(request.mimetype)
    bodies: Bodies = current_app.config["BODIES"]
    return await bodies.read_object(chunks(limit))


def is_form() -> bool:
    """Return whether the current request was sent by a form of a page: programs send JSON."""
    return request.mimetype == _FORM


async def form_or_object(limit: int) -> JsonObject:
    """Return the body of the current request, a form or a JSON object; see the functions for each."""
    return await (form_fields if is_form() else json_object)(limit)


async def form_fields(limit: int) -> dict[str, str]:
    """Return the fields of the current request's URL-encoded form, the first of each name.

    :param limit: bytes.
    :raises ApiError: the body is too large (413) or not a form (400).
    """
    raw = b"".join([chunk async for chunk in chunks(limit)])
    try:
        form = parse_qs(raw.decode("utf-8", "replace"), max_num_fields=20)
    except ValueError as error:
        message = f"the form is malformed: {error}"
        raise ApiError(HTTPStatus.BAD_REQUEST, "malformed_form", message) from None
    return {name: values[0] for name, values in form.items()}


def json_response(body: BaseModel, status: HTTPStatus = HTTPStatus.OK) -> Response:
    """Return a response that holds a model."""
    return Response(body.model_dump_json(), status=status, content_type="application/json")


async def one_at_a_time(function: Callable[[], T]) -> T:
    """Call a function that parses much in a thread, after all other such calls."""
    return await asyncio.get_running_loop().run_in_executor(_PARSER, copy_context().run, function)


async def before_stall(coming: Awaitable[T], began: float, read: int) -> T:
    """Return the next piece of a body.

    :param began: the monotonic time at which the body began.
    :param read: the bytes of it that have come.
    :raises ApiError: it does not come in time, or the body is too slow (408).
    """
    left = began + _GRACE + read / _RATE - time.monotonic()
    try:
        async with asyncio.timeout(min(_STALLED, left)):
            return await coming
    except TimeoutError:
        slow = f"only {read} bytes of the body in {time.monotonic() - began:.0f} s"
        message = slow if left < _STALLED else f"no byte of the body for {_STALLED:g} s"
        raise _too_slow(message) from None


class DisconnectedError(Exception):
    """The client closed the connection before its request was complete."""


@dataclass(slots=True)
class Chunks:
    """The body of an ASGI request; not a generator, because the event loop keeps track of those.

    :param receive: of ASGI.
    :param limit: the most bytes that it may have.
    """

    receive: Callable[[], Awaitable[Any]]
    limit: int
    read: int = 0
    more: bool = True
    began: float = field(default_factory=time.monotonic)

    def __aiter__(self) -> Self:
        """Return the iterator itself."""
        return self

    async def __anext__(self) -> bytes:
        """Return the next piece.

        :raises DisconnectedError: the client has closed the connection.
        :raises ApiError: the body is too large (413), or stalls (408).
        """
        if not self.more:
            raise StopAsyncIteration
        message = await before_stall(self.receive(), self.began, self.read)
        if message["type"] == "http.disconnect":
            raise DisconnectedError
        chunk: bytes = message.get("body", b"")
        self.more = message.get("more_body", False)
        self.read += len(chunk)
        check_size(self.read, self.limit)
        return chunk


def check_size(size: int, limit: int) -> None:
    """Refuse a body that is too large.

    :raises ApiError: it has more bytes than the limit (413).
    """
    if size > limit:
        raise ApiError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large", f"more than {limit} bytes")


def check_json_type(mimetype: str) -> None:
    """Refuse a body whose type says that it is not JSON.

    :raises ApiError: it does (415).
    """
    if mimetype in _OTHER_TYPES:
        message = f"the body must be application/json, not {mimetype}"
        raise ApiError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message)


class Bodies:
    """The memory that the bodies of an application's requests take together."""

    def __init__(self) -> None:
        self.together = 0
        self.large = asyncio.Semaphore(_LARGE_AT_ONCE)

    async def read_object(self, body: AsyncIterator[bytes]) -> JsonObject:
        """Read a body and return the JSON object in it; a large one is parsed in a thread.

        :raises ApiError: there is none (400), a large one is too slow (408), or there are too many (503).
        """
        pieces, size, share, began = [], 0, _Share(self), 0.0
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None) as limit:
                async for piece in body:
                    size += len(piece)
                    await share.grow(size)
                    pieces.append(piece)
                    if share.large:
                        began = began or loop.time()
                        limit.reschedule(began + _LARGE_GRACE + (size - LARGE) / _LARGE_RATE)
            raw = b"".join(pieces)
            if len(raw) <= LARGE:
                return parse_object(raw)
            return await one_at_a_time(lambda: parse_object(raw))
        except TimeoutError:
            raise _too_slow(f"only {size} bytes of a large body in {loop.time() - began:.0f} s") from None
        finally:
            share.release()


class _Share:
    """What one body takes of the memory for the bodies of all requests."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self._counted = 0
        self.large = False

    async def grow(self, size: int) -> None:
        """Let the body have this many bytes.

        :raises ApiError: others have all the memory (503).
        """
        if self.large or size <= _TINY:
            return
        if size <= LARGE:
            if self._bodies.together + size - self._counted > _TOGETHER:
                raise _too_busy("too many request bodies; retry later")
            self._count(size)
            return
        try:
            async with asyncio.timeout(_TURN):
                await self._bodies.large.acquire()
        except TimeoutError:
            raise _too_busy("too many large request bodies; retry later") from None
        self.large = True
        self._count(0)

    def _count(self, size: int) -> None:
        self._bodies.together += size - self._counted
        self._counted = size

    def release(self) -> None:
        """Give it back."""
        self._count(0)
        if self.large:
            self._bodies.large.release()


def _too_busy(message: str) -> ApiError:
    later = {"Retry-After": "5"}
    return ApiError(HTTPStatus.SERVICE_UNAVAILABLE, "too_many_bodies", message, headers=later)


def _too_slow(message: str) -> ApiError:
    close = {"Connection": "close"}
    return ApiError(HTTPStatus.REQUEST_TIMEOUT, "request_timeout", message, headers=close)


def parse_object(raw: bytes) -> JsonObject:
    """Return the JSON object in a body.

    :raises ApiError: there is none (400).
    """
    containers = raw.count(b"[") + raw.count(b"{")
    try:
        if containers > _CONTAINERS:
            raise ValueError(f"more than {_CONTAINERS} lists and objects")
        read: Any = _DECODER.decode(raw.decode("utf-8-sig"))
        # Looking at five million numbers takes seconds, and is of no use if there are neither half surrogate
        # pairs nor enough brackets to nest too deeply.
        if containers > _DEPTH or b"\\ud" in raw or b"\\uD" in raw:
            read = _sanitized(read, _DEPTH)
    except (ValueError, RecursionError) as error:
        what = "empty" if not raw else f"not JSON: {error}"
        raise ApiError(HTTPStatus.BAD_REQUEST, "malformed_json", f"the body is {what}") from None
    if not isinstance(read, dict):
        kind = {list: "a list", str: "a string", type(None): "null"}.get(type(read), "a number or boolean")
        message = f"the body must be a JSON object, not {kind}"
        raise ApiError(HTTPStatus.BAD_REQUEST, "not_an_object", message)
    return read


def validated(model: type[M], body: JsonObject) -> M:
    """Return a body as a model.

    :raises ApiError: it does not validate (400); the message names the field.
    """
    try:
        return model.model_validate(body)
    except ValidationError as error:
        where, problem = first_problem(error)
        message = f"{where or 'the body'}: {problem}"
        raise ApiError(HTTPStatus.BAD_REQUEST, "invalid_body", message) from None


def hold_time(wait: str | None, hold: float, name: str = "wait") -> float:
    """Return the seconds to hold a poll.

    :param wait: the query parameter.
    :param hold: the coordinator's hold time.
    :param name: the parameter's name.
    :raises ApiError: the parameter is not a number of seconds (400).
    """
    if wait is None:
        return hold
    try:
        seconds = float(wait)
    except ValueError:
        seconds = float("nan")
    if not seconds >= 0:
        message = f"{name} must be a number of seconds from 0, not {wait[:40]!r}"
        raise ApiError(HTTPStatus.BAD_REQUEST, "invalid_wait", message)
    return min(seconds, hold)


def _sanitized(value: Any, depth: int) -> Any:
    """Return a value without lone surrogates, which JSON can spell and UTF-8 cannot encode.

    :raises ValueError: it is nested too deeply.
    """
    if isinstance(value, str):
        return value if value.isascii() else _SURROGATES.sub("\ufffd", value)
    if isinstance(value, dict | list):
        if depth == 0:
            raise ValueError(f"it is nested deeper than {_DEPTH} levels")
        if isinstance(value, dict):
            return {_sanitized(key, depth): _sanitized(item, depth - 1) for key, item in value.items()}
        return [item if type(item) in _SAFE else _sanitized(item, depth - 1) for item in value]
    return value


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:40]} is too large a number")
    return number


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite)
