"""``events.jsonl``: every event of a session, one JSON object a line, appended as it happens."""

import contextlib
import fcntl
import logging
import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from trafficlight.results.events import Event, SessionEnded, event_line, parse_event

logger = logging.getLogger(__name__)

# What the kernel calls `struct flock`: type, whence, start, length (0 for all of the file), process id.
_FLOCK = struct.Struct("hhqqi0q")


class EventLog:
    """Appends to a file; each event is handed to the operating system before the next one comes.

    So a coordinator that is killed loses nothing; only a machine that loses power does. While it is open,
    every process can see that somebody writes the file: :func:`is_written`.

    :param path: the file; created, or continued behind its last whole line.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+b", buffering=0)
        with contextlib.suppress(OSError):  # some network file systems have no locks
            _share(self._file)
        if self._file.seek(0, os.SEEK_END):
            self._file.seek(-1, os.SEEK_END)
            if self._file.read(1) != b"\n":
                self._file.write(b"\n")  # the half line of a killed predecessor stays one of its own

    def append(self, event: Event) -> None:
        """Write an event.

        :raises OSError: if the disk refuses.
        """
        self._file.write(event_line(event))

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
            event = parse_event(line)
            if event is None:
                logger.warning("%s:%d is not an event, left out", path, number)
            else:
                yield event


def session_end(path: Path) -> SessionEnded | None:
    """Return the event that ended a session; None if there is none.

    Searches from the end, where it is followed by late uploads at most.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            begin = len(content)
            while (found := content.rfind(b'"session_ended"', 0, begin)) >= 0:
                begin = content.rfind(b"\n", 0, found) + 1
                end = content.find(b"\n", found)
                event = parse_event(content[begin : end if end >= 0 else len(content)])
                if isinstance(event, SessionEnded):
                    return event
    except (OSError, ValueError):  # no file, or an empty one
        pass
    return None


def is_written(path: Path) -> bool:
    """Return whether some process has a session's log open to write to it; this one counts, too.

    Whoever looks is not taken for a writer by others that look at the same time.
    """
    try:
        with path.open("rb") as file:
            return _is_shared(file, path.parent)
    except OSError:
        return False


def _share(file: BinaryIO) -> None:
    """Hold a lock on an open file, beside others that hold one, until it is closed.

    It belongs to this opening of the file, not to the process: closing another one does not lose it.
    """
    if _has_queries():
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0))
    else:
        fcntl.flock(file, fcntl.LOCK_SH)  # waits only for one who looks, which is brief


def _is_shared(file: BinaryIO, folder: Path) -> bool:
    """Return whether somebody holds a lock on a file.

    :param folder: where it is.
    """
    if _has_queries():
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = fcntl.fcntl(file, fcntl.F_OFD_GETLK, asked)  # takes nothing: says who would be in the way
        return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)
    # Here one can only try to take the lock: those who look take turns, lest they see each other.
    turn = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(turn, fcntl.LOCK_EX)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        # The turn ends last: closed before the file's lock is gone, the next one would see that.
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)
        os.close(turn)
    return False


def _has_queries() -> bool:
    """Return whether locks of open files can be asked about: on Linux they can."""
    return hasattr(fcntl, "F_OFD_GETLK")
