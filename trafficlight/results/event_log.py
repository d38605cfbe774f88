"""``events.jsonl``: every event of a session, one JSON object a line, appended as it happens."""

import contextlib
import json
import logging
import math
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from trafficlight.results.events import Event, EventKind

__all__ = ["EventLog", "as_line", "jsonable", "read_events"]

logger = logging.getLogger(__name__)


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
        torn = path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
        self._file = path.open("ab", buffering=0)
        if torn:
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
            event = None
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                event = _event(json.loads(line))
            if event is None:
                logger.warning("%s:%d is not an event, left out", path, number)
            else:
                yield event


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
