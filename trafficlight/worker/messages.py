"""The few messages between the coordinator and a worker, over one socket.

Both ends are the same program on the same machine, under the same user: messages are pickled. A frame is its
length in four bytes, big endian, and the message.
"""

import asyncio
import pickle
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from trafficlight.worker.assignment import Verdict

__all__ = [
    "Answer",
    "Call",
    "CallOff",
    "Done",
    "Message",
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


Message: TypeAlias = Ready | Run | CallOff | Call | Withdraw | Answer | Tell | Done


async def read_message(reader: asyncio.StreamReader) -> Message | None:
    """Return the next message; None when the other end is gone."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        message: Message = pickle.loads(await reader.readexactly(length))  # noqa: S301
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return message


def write_message(writer: asyncio.StreamWriter, message: Message) -> None:
    """Send a message.

    :raises Exception: it cannot be pickled; nothing was sent then.
    """
    raw = pickle.dumps(message)
    writer.write(_LENGTH.pack(len(raw)) + raw)
