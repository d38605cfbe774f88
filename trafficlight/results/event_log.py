"""``events.jsonl``: every event of a session, one JSON object a line, appended as it happens."""

import json
import logging
import math
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from trafficlight.results.events import Event, EventKind

__all__ = ["EventLog", "as_line", "jsonable", "read_events", "read_events_after"]

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

    So a coordinator that is killed loses nothing; only a machine that loses power does.

    :param path: the file; created, or continued behind its last whole line.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab+", buffering=0)
        if self._file.tell() and not _ends_with_newline(self._file):
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
            event = _event_in(line)
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
        end, length = file.seek(0, 2), _BLOCK
        while True:
            start = max(0, end - length)
            file.seek(start)
            lines = file.read(end - start).split(b"\n")
            whole = lines[1:] if start else lines
            events = [event for line in whole if (event := _event_in(line)) is not None]
            if start == 0 or (events and events[0].sequence <= sequence):
                return [event for event in events if event.sequence > sequence]
            length *= 4


def _ends_with_newline(file: BinaryIO) -> bool:
    file.seek(-1, 2)
    return file.read(1) == b"\n"


def _event_in(line: bytes) -> Event | None:
    try:
        return _event(json.loads(line))
    except (ValueError, KeyError, TypeError, AttributeError):
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
