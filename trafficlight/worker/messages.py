"""The few messages between the coordinator and a worker, over one socket.

Both ends are the same program on the same machine, under the same user: messages are pickled. A frame is its
length in four bytes, big endian, and the message. What a worker sends is made of plain values and of classes
of this package, so that reading it never imports code of tests.
"""

import asyncio
import builtins
import io
import pathlib
import pickle
import struct
from dataclasses import dataclass, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeAlias

from trafficlight.client_types import ClientType
from trafficlight.errors import TrafficlightError
from trafficlight.protocol import JsonObject
from trafficlight.server_types import ServerType
from trafficlight.suites.reading import Asked, Reading
from trafficlight.suites.selection import TypeFilter
from trafficlight.worker.assignment import Verdict

__all__ = [
    "Answer",
    "Call",
    "CallOff",
    "Done",
    "Found",
    "Match",
    "Matched",
    "Message",
    "Read",
    "Ready",
    "Run",
    "Tell",
    "Withdraw",
    "read_message",
    "write_message",
]

_LENGTH = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class Ready:
    """Worker to coordinator: it can take an assignment."""

    pid: int


@dataclass(frozen=True, slots=True)
class Run:
    """Coordinator to worker: run an attempt.

    :param path: the test file: its module must be there before the assignment can be read.
    :param class_name: the test class in it.
    :param assignment: the assignment, pickled.
    """

    path: Path
    class_name: str
    assignment: bytes


@dataclass(frozen=True, slots=True)
class CallOff:
    """Coordinator to worker: end the attempt; tear down, then be done."""


@dataclass(frozen=True, slots=True)
class Call:
    """Worker to coordinator: call a method of the link and answer what comes of it."""

    number: int
    method: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Worker to coordinator: nobody waits for a call any more."""

    number: int


@dataclass(frozen=True, slots=True)
class Answer:
    """Coordinator to worker: what came of a call."""

    number: int
    value: Any = None
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Tell:
    """Worker to coordinator: call a method of the link; nobody waits for it."""

    method: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """Worker to coordinator: the attempt has ended.

    :param verdict: how; None: it was called off.
    :param reusable: whether nothing of the test is left in the process.
    """

    verdict: Verdict | None
    reusable: bool = True


@dataclass(frozen=True, slots=True)
class Read:
    """Coordinator to worker: read a test file, and tell what is in it."""

    asked: Asked


@dataclass(frozen=True, slots=True)
class Found:
    """Worker to coordinator: a part of what is in the test file, or the last part.

    :param spoiled: whether reading it broke what the process had before.
    """

    part: Reading
    last: bool = False
    spoiled: bool = False


@dataclass(frozen=True, slots=True)
class Match:
    """Coordinator to worker: say whether a client type of a test file matches an adapter.

    :param path: the test file.
    :param kind: the client type, pickled.
    """

    path: Path
    kind: bytes
    registration: JsonObject


@dataclass(frozen=True, slots=True)
class Matched:
    """Worker to coordinator: whether it does.

    :param problem: why that cannot be said; empty where it can.
    """

    matches: bool
    problem: str = ""


Message: TypeAlias = (
    Ready | Run | CallOff | Call | Withdraw | Answer | Tell | Done | Read | Found | Match | Matched
)

# What plain values are made of, as far as pickles name it.
_PLAIN = frozenset({"str", "int", "float", "complex", "set", "frozenset", "bytearray"})
_OURS = "trafficlight."
_VALUES = (Enum, ClientType, ServerType, TypeFilter, TrafficlightError)
_PATHS = frozenset({"pathlib", "pathlib._local"})  # where it is in Python 3.13
_PLAIN_PATHS = frozenset({"Path", "PosixPath", "PurePath", "PurePosixPath"})


class _Pickler(pickle.Pickler):
    """Makes texts and numbers of a class of their own plain ones: the class may be one of a test's."""

    def reducer_override(self, value: object) -> Any:
        if type(value).__module__.startswith(_OURS):
            return NotImplemented
        match value:
            case str():
                return str, (str.__str__(value),)
            case int():
                return int, (int.__int__(value),)
            case float():
                return float, (float.__float__(value),)
            case _:
                return NotImplemented


class _Unpickler(pickle.Unpickler):
    """Knows only the classes of values: those of this package, paths, and plain ones.

    So no code of tests is imported, and nothing that does something can be made.
    """

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith(_OURS) and not module.startswith(f"{_OURS}tests."):
            found = super().find_class(module, name)
            if isinstance(found, type) and (is_dataclass(found) or issubclass(found, _VALUES)):
                return found
        elif module in _PATHS and name in _PLAIN_PATHS:
            return getattr(pathlib, name)
        elif module == builtins.__name__ and name in _PLAIN:
            return getattr(builtins, name)
        raise pickle.UnpicklingError(f"{module}.{name} is none of what a worker can send")


async def read_message(reader: asyncio.StreamReader, *, plain: bool = False) -> Message | None:
    """Return the next message; None when the other end is gone.

    :param plain: whether the other end runs code of tests, so that only what is known here is taken from it.
    :raises pickle.UnpicklingError: it sent something else.
    """
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        raw = await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    message: Message = (_Unpickler if plain else pickle.Unpickler)(io.BytesIO(raw)).load()
    return message


def write_message(writer: asyncio.StreamWriter, message: Message) -> None:
    """Send a message.

    :raises Exception: it cannot be pickled; nothing was sent then.
    """
    raw = io.BytesIO()
    _Pickler(raw).dump(message)
    writer.write(_LENGTH.pack(raw.tell()) + raw.getvalue())
