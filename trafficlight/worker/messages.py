"""The few messages between the coordinator and a worker, over one socket.

Both ends are the same program on the same machine, under the same user: messages are pickled. A frame is its
length in four bytes, big endian, and the message. What a worker sends is made of plain values and of a few
classes of this package, so that reading it never imports code of tests, and calls nothing but those.
"""

import asyncio
import pickle
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from trafficlight.protocol import JsonObject
from trafficlight.results.events import State
from trafficlight.suites.portable import PORTABLE
from trafficlight.suites.reading import FileRequest, Reading
from trafficlight.worker.assignment import Verdict
from trafficlight.worker.pickling import Classes, dumped, loaded

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
class Emit:
    """Worker to coordinator: record an event of the attempt.

    :param event: the event's own JSON.
    """

    event: JsonObject


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

    asked: FileRequest


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
    Ready | Run | CallOff | Call | Withdraw | Answer | Emit | Done | Read | Found | Match | Matched
)

_FROM_WORKERS = (Ready, Call, Withdraw, Emit, Done, Found, Matched)
# All that those hold, besides plain values.
_CLASSES = Classes((*_FROM_WORKERS, Verdict, State, *PORTABLE, type(Path())))


async def read_message(reader: asyncio.StreamReader, *, plain: bool = False) -> Message | None:
    """Return the next message; None when the other end is gone.

    :param plain: whether the other end runs code of tests, so that only what is known here is taken from it.
    :raises pickle.UnpicklingError: it sent something else; the message says what.
    """
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        raw = await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    message: Message = loaded(raw, _CLASSES) if plain else pickle.loads(raw)  # noqa: S301
    if plain and not isinstance(message, _FROM_WORKERS):
        raise pickle.UnpicklingError(f"a {type(message).__name__}: it is no message of a worker")
    return message


def write_message(writer: asyncio.StreamWriter, message: Message, *, plain: bool = False) -> None:
    """Send a message.

    :param plain: whether this end runs code of tests, so that the other one takes only what it knows.
    :raises Exception: it cannot be pickled, or would not be taken; nothing was sent then.
    """
    raw = dumped(message, _CLASSES) if plain else pickle.dumps(message)
    writer.write(_LENGTH.pack(len(raw)) + raw)
