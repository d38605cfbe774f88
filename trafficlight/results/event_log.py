"""``events.jsonl``: every event of a session, one JSON object a line, appended as it happens."""

import contextlib
import fcntl
import json
import logging
import math
import os
import struct
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from trafficlight.results.events import Event, EventKind

__all__ = ["EventLog", "as_line", "event_of", "is_written", "jsonable", "read_events", "read_events_after"]

logger = logging.getLogger(__name__)

# Bytes that are read from the end of a log at first.
_BLOCK = 64 << 10


def as_line(event: Event) -> bytes:
    """Return an event as one line of ASCII, whatever its data hold."""
    content = event.as_json()
    try:
        text = json.dumps(content, allow_nan=False, separators=(",", ":"), default=str)
    except (ValueError, TypeError):
        # Infinities are no JSON, and keys may be anything in Python.
        text = json.dumps(jsonable(content), allow_nan=False, separators=(",", ":"), default=str)
    return text.encode("ascii") + b"\n"


def jsonable(value: Any) -> Any:
    """Return a value as JSON can hold it: keys as texts, infinities by their names."""
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


class EventLog:
    """Appends to a file; each event is handed to the operating system before the next one comes.

    So a coordinator that is killed loses nothing; only a machine that loses power does. While it is open,
    every process can see that somebody writes the file: :func:`is_written`.

    :param path: the file; created, or continued behind its last whole line.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+b", buffering=0)
        with contextlib.suppress(OSError):  # some network file systems have no locks
            _lock(self._file)
        if self._file.seek(0, os.SEEK_END):
            self._file.seek(-1, os.SEEK_END)
            if self._file.read(1) != b"\n":
                self._file.write(b"\n")  # the half line of a killed predecessor stays one of its own

    def append(self, event: Event) -> None:
        """Write an event.

        :raises OSError: if the disk refuses.
        """
        self._file.write(as_line(event))

    def close(self) -> None:
        """Close the file; may be called again."""
        self._file.close()


def read_events(path: Path) -> Iterator[Event]:
    """Read a session's events in order, those of a killed session too.

    A line that is no event (the torn last one of a killed session, usually) is logged and left out.

    :raises OSError: if the file cannot be read.
    """
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            event = event_of(line)
            if event is None:
                logger.warning("%s:%d is not an event, left out", path, number)
            else:
                yield event


def read_events_after(path: Path, sequence: int) -> list[Event]:
    """Read the events behind one from the end of a log: only those cost time, however long it is.

    :param sequence: the number of the last event that is known already.
    :raises OSError: if the file cannot be read.
    """
    with path.open("rb") as file:
        end, length = file.seek(0, os.SEEK_END), _BLOCK
        while True:
            start = max(0, end - length)
            file.seek(start)
            lines = file.read(end - start).split(b"\n")
            whole = lines[1:] if start else lines
            events = [event for line in whole if (event := event_of(line)) is not None]
            if start == 0 or (events and events[0].sequence <= sequence):
                return [event for event in events if event.sequence > sequence]
            length *= 4


def is_written(path: Path) -> bool:
    """Return whether some process has a session's log open to write to it."""
    try:
        with path.open("rb") as file:
            return _is_locked(file)
    except OSError:
        return False


if sys.platform == "linux":
    # struct flock: type, whence, start, length (0: to the end), and 0, because no process but an open file
    # has the lock. One can ask for it without taking one, so that those who look do not see each other.
    _FLOCK = struct.Struct("hhqqi4x")

    def _lock(file: IO[bytes]) -> None:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0))

    def _is_locked(file: IO[bytes]) -> bool:
        wanted = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind = _FLOCK.unpack(fcntl.fcntl(file, fcntl.F_OFD_GETLK, wanted))[0]
        return bool(kind != fcntl.F_UNLCK)

else:

    def _lock(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_SH)  # waits only for those who look, and they look briefly

    def _is_locked(file: IO[bytes]) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def event_of(line: bytes) -> Event | None:
    """Return the event that a line holds; None where it holds none."""
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
        return _event(json.loads(line))
    return None


def _event(content: dict[str, Any]) -> Event:
    return Event(
        sequence=int(content["sequence"]),
        time=datetime.fromisoformat(content["time"]),
        kind=EventKind(content["kind"]),
        session=str(content.get("session", "")),
        case=content.get("case"),
        attempt=content.get("attempt"),
        role=content.get("role"),
        adapter=content.get("adapter"),
        data=dict(content.get("data", {})),
    )
