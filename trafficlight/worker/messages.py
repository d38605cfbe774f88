"""The messages between the coordinator and a worker, as JSON over one socket.

A frame is its length in four bytes, big endian, and a JSON object: the fields of one of the dataclasses
below, and its name as ``message``. A test may make its process send anything: the coordinator accepts only
frames of at most :data:`MAX_FRAME` bytes that fit the types of these fields.
"""

import asyncio
import functools
import json
import socket
import struct
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError

from trafficlight import errors
from trafficlight.protocol import JsonObject
from trafficlight.suites.model import Case
from trafficlight.suites.planning import FileRequest, FileResult
from trafficlight.text import EVENT_LIMIT, first_problem, truncate
from trafficlight.worker.assignment import Assignment, Verdict

MAX_FRAME = 64 << 20
"""Bytes of one message: more than the largest response of an adapter, as JSON."""

EXIT_CODE = struct.Struct("i")
"""What a worker sends: 0 when it is ready, then the exit code of each process that it forked."""

LONGEST_REQUEST = 16 << 10
"""Bytes of a request for a process: the system may split a longer one."""

_LENGTH = struct.Struct(">I")
_ANY = b"{}"  # a request for a process that runs no case


class FrameError(Exception):
    """The other end sent something that is not a message; one line."""


@dataclass(frozen=True, slots=True)
class RunAttempt:
    """Coordinator to worker: run an attempt of a case, which the worker finds by its id."""

    assignment: Assignment


@dataclass(frozen=True, slots=True)
class Cancel:
    """Coordinator to worker: cancel the attempt; tear down, then send :class:`Finished`."""


@dataclass(frozen=True, slots=True)
class Request:
    """Worker to coordinator: call a method of the link.

    :param id: unique in the attempt.
    """

    id: int
    method: Literal["perform", "upload", "operate", "network"]
    arguments: list[Any]


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """Worker to coordinator: the test no longer waits for a request."""

    id: int


@dataclass(frozen=True, slots=True)
class Error:
    """An exception that a request raised.

    :param type: the name of its class.
    :param message: its text, without role, action and path.
    """

    type: str
    message: str
    role: str = ""
    action: str = ""
    path: str = ""


@dataclass(frozen=True, slots=True)
class Response:
    """Coordinator to worker: the result of a request, or the exception that it raised."""

    id: int
    result: Any = None
    error: Error | None = None


@dataclass(frozen=True, slots=True)
class Notification:
    """Worker to coordinator: record an event of the attempt.

    :param event: the event's own JSON.
    """

    event: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cancelling:
    """Worker to coordinator: :class:`Cancel` has arrived. Not sent while the test blocks its process."""


@dataclass(frozen=True, slots=True)
class Finished:
    """Worker to coordinator: the attempt has ended.

    :param verdict: how; None if it was cancelled.
    """

    verdict: Verdict | None


@dataclass(frozen=True, slots=True)
class CollectFile:
    """Coordinator to worker: import a test file, and return what it contains."""

    request: FileRequest


@dataclass(frozen=True, slots=True)
class Collected:
    """Worker to coordinator: what a test file contains, in parts.

    :param last: whether it is the last part.
    """

    part: FileResult
    last: bool = False


@dataclass(frozen=True, slots=True)
class MatchRequest:
    """Coordinator to worker: evaluate the `match` of a client type of a test file.

    :param path: the test file.
    :param class_name: a Test class that uses the type.
    :param role: a role that the type may fill there.
    :param type_name: its name.
    :param registration: the adapter's registration.
    """

    path: Path
    class_name: str
    role: str
    type_name: str
    registration: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class MatchResponse:
    """Worker to coordinator: whether the type matches.

    :param problem: why that is not known; empty if it is.
    """

    matches: bool
    problem: str = ""


FromWorker: TypeAlias = (
    Request | CancelRequest | Notification | Cancelling | Finished | Collected | MatchResponse
)
ToWorker: TypeAlias = RunAttempt | Cancel | Response | CollectFile | MatchRequest

_FROM_WORKER = {kind.__name__: kind for kind in get_args(FromWorker)}
_TO_WORKER = {kind.__name__: kind for kind in get_args(ToWorker)}


async def read_from_worker(reader: asyncio.StreamReader) -> FromWorker | None:
    """Return the next message of a worker; None at the end of the connection.

    :raises FrameError: it sent something else.
    """
    message: FromWorker | None = await _read(reader, _FROM_WORKER)
    return message


async def read_from_coordinator(reader: asyncio.StreamReader) -> ToWorker | None:
    """Return the next message of the coordinator; None at the end of the connection."""
    message: ToWorker | None = await _read(reader, _TO_WORKER)
    return message


def write_message(writer: asyncio.StreamWriter, message: FromWorker | ToWorker) -> None:
    """Send a message.

    :raises TypeError: a value in it is not JSON; nothing was sent.
    :raises ValueError: a number in it is not finite; nothing was sent.
    :raises LabError: it is too large; nothing was sent.
    """
    content = {"message": type(message).__name__, **_fields(message)}
    # Not Pydantic's encoder: it fails on lone surrogates, which file names and texts of tests may contain.
    raw = json.dumps(
        content,
        # The data of an action must be JSON; our own classes are only in the other messages.
        default=None if isinstance(message, Request | Notification) else _encoded,
        allow_nan=not isinstance(message, Request),
    ).encode()
    if len(raw) > MAX_FRAME:
        raise errors.LabError(_too_large(len(raw)))
    writer.write(_LENGTH.pack(len(raw)) + raw)


def _too_large(size: int) -> str:
    return f"the message has {size:,} bytes, and the limit between test and coordinator is {MAX_FRAME:,}"


async def _read(reader: asyncio.StreamReader, kinds: Mapping[str, type[Any]]) -> Any:
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        if length > MAX_FRAME:
            raise FrameError(_too_large(length))
        raw = await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    try:
        content = json.loads(raw)
        name = content.pop("message")
        kind: Any = kinds[name]
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError):
        raise FrameError(f"not a message: {raw[:40]!r}") from None
    try:
        return _adapter(kind).validate_python(content, context={})
    except ValidationError as error:
        where, problem = first_problem(error)
        raise FrameError(f"{name}{where and '.'}{where}: {problem}") from None


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def request_process(control: socket.socket, fd: int, case: Case | None) -> None:
    """Request a process from a worker.

    :param control: the coordinator's end of the worker's socket.
    :param fd: the socket for the process.
    :param case: what the process will run, so that its file is imported ahead; None for other work.
    """
    request = _ANY if case is None else json.dumps(case, default=_encoded).encode()
    socket.send_fds(control, [request if len(request) <= LONGEST_REQUEST else _ANY], [fd])


def case_of(request: bytes) -> Case | None:
    """Return the case that a process is requested for; None for other work."""
    if request == _ANY:
        return None
    case: Case = _adapter(Case).validate_python(json.loads(request))
    return case


def prepare() -> None:
    """Do ahead what the first message of each kind would have to wait for."""
    for kind in (*_TO_WORKER.values(), Case):
        _adapter(kind)


@functools.cache
def _defaults(kind: Any) -> dict[str, Any]:
    return {
        one.name: one.default if one.default_factory is MISSING else one.default_factory()
        for one in fields(kind)
        if one.init
    }


def _fields(value: Any) -> dict[str, Any]:
    """Return the fields that differ from their defaults: there may be very many cases."""
    kind: Any = type(value)
    stated = _defaults(kind).items()
    return {name: found for name, default in stated if (found := getattr(value, name)) != default}


def _encoded(value: Any) -> Any:
    match value:
        case _ if is_dataclass(value):
            return _fields(value)
        case Path():
            return str(value)
        case set() | frozenset():
            return list(value)
        case errors.TestFileError():
            return {name: getattr(value, name) for name in ("path", "line", "problem", "hint")}
        case BaseModel():
            return value.model_dump()
        case _:
            raise TypeError(f"{type(value).__qualname__} is not JSON")


def error_of(raised: Exception) -> Error:
    """Return an exception as JSON."""
    if type(raised) in (errors.ActionError, errors.AdapterError):
        about = {name: getattr(raised, name) for name in ("message", "role", "action", "path")}
        return Error(type(raised).__name__, **about)
    known = type(raised).__name__ in _ERRORS
    return Error(type(raised).__name__ if known else "LabError", str(raised) if known else _named(raised))


def exception_of(error: Error) -> Exception:
    """Return the exception that :func:`error_of` encoded."""
    if error.type in ("ActionError", "AdapterError"):
        kind = errors.ActionError if error.type == "ActionError" else errors.AdapterError
        return kind(error.message, role=error.role, action=error.action, path=error.path)
    return _ERRORS.get(error.type, errors.LabError)(error.message)


_ERRORS: Mapping[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (
        errors.LabError,
        errors.DeadlineError,
        errors.DeployError,
        errors.ShuttingDownError,
        errors.UnsupportedError,
    )
}


def _named(raised: Exception) -> str:
    return f"{type(raised).__name__}: {raised}"


def ensure_json(action: str, data: Mapping[str, Any]) -> JsonObject:
    """Return an action's data as JSON holds them.

    :raises TypeError: a value is not JSON; names it.
    """
    try:
        found: JsonObject = json.loads(json.dumps(data, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise not_json(action, data, error) from None
    return found


def as_json(value: object, limit: int = EVENT_LIMIT - 100, depth: int = 50) -> tuple[Any, str]:
    """Return a value as JSON holds it, and why it cannot be kept; empty if it can.

    :param limit: characters of JSON.
    :param depth: levels of lists and objects; more of them exceed the recursion limit of later readers.
    """
    parts, size = [], 0
    try:
        # In pieces, so that a huge value costs no more than the limit.
        for part in json.JSONEncoder(allow_nan=False).iterencode(value):
            parts.append(part)
            size += len(part)
            if size > limit:
                return None, f"it has more than {limit:,} characters of JSON; self.attach() keeps any file"
        kept = json.loads("".join(parts))
        if _depth(kept) > depth:
            return None, f"it is nested more than {depth} levels deep"
    except Exception as error:  # noqa: BLE001 - code of a test file
        return None, f"it is not JSON: {truncate(str(error), 300) or type(error).__name__}"
    return kept, ""


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(_depth, inner), default=0)


def not_json(action: str, data: Mapping[str, Any], error: Exception) -> TypeError:
    """Return the error for data that are not JSON, with the values that are to blame."""
    culprits = ", ".join(f"{name}={value!r}" for name, value in data.items() if not _is_json(value))
    return TypeError(f"{action}: cannot be sent as JSON: {culprits or error}")


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True
