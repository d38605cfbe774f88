"""``events.jsonl``: the log of a session's events, one JSON object on each line."""

import contextlib
import fcntl
import logging
import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from trafficlight.results.events import Event, SessionEnded, event_line, line_head, parse_event

logger = logging.getLogger(__name__)

# What the kernel calls `struct flock`: type, whence, start, length (0 for all of the file), process id.
_FLOCK = struct.Struct("hhqqi0q")


class EventLog:
    """Appends events to a file, each with one unbuffered write.

    So no event is lost when the coordinator is killed, only when the machine loses power. While the log is
    open, :func:`is_written` is true in every process.

    :param path: the file; created if it does not exist.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+b", buffering=0)
        with contextlib.suppress(OSError):  # some network file systems have no locks
            _share(self._file)
        if self._file.seek(0, os.SEEK_END):
            self._file.seek(-1, os.SEEK_END)
            if self._file.read(1) != b"\n":
                self._file.write(b"\n")  # ends the torn line of a killed coordinator

    def append(self, event: Event, sequence: int | None = None) -> None:
        """Write an event.

        :param sequence: its position in this log; by default the event's own.
        :raises OSError: the file cannot be written.
        """
        self._file.write(event_line(event, sequence))

    def close(self) -> None:
        """Close the file; may be called again."""
        self._file.close()


def read_events(path: Path) -> Iterator[Event]:
    """Read a session's events, in order.

    Lines that are no events are skipped, such as the torn last line of a killed session; the first is logged.

    :raises OSError: the file cannot be read.
    """
    skipped = 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if (event := parse_event(line)) is not None:
                yield event
                continue
            skipped += 1
            if skipped == 1:
                logger.warning("%s:%d is not an event that this version knows, skipped", path, number)
    if skipped > 1:
        logger.warning("%s: %d such lines were skipped", path, skipped)


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


def last_sequence(path: Path) -> int:
    """Return the number of the last event of a log; 0 if it has none."""
    with path.open("rb") as file, contextlib.suppress(ValueError):  # an empty file cannot be mapped
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            end = len(content)
            while end > 0:
                begin = content.rfind(b"\n", 0, end) + 1
                if (head := line_head(content[begin:end])) is not None:
                    return head.sequence
                end = begin - 1
    return 0


def is_written(path: Path) -> bool:
    """Return whether a process, including this one, has a session's log open for writing.

    Concurrent calls do not mistake each other for a writer.
    """
    try:
        with path.open("rb") as file:
            return _is_shared(file, path.parent)
    except OSError:
        return False


def _share(file: BinaryIO) -> None:
    """Take a shared lock on an open file, until it is closed.

    The lock belongs to the open file, not to the process: closing another descriptor does not release it.
    """
    if _has_queries():
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0))
    else:
        fcntl.flock(file, fcntl.LOCK_SH)  # waits for a concurrent is_written() only


def _is_shared(file: BinaryIO, folder: Path) -> bool:
    """Return whether a lock is held on a file.

    :param folder: the folder of the file.
    """
    if _has_queries():
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = fcntl.fcntl(file, fcntl.F_OFD_GETLK, asked)  # takes no lock, only tests for a conflict
        return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)
    # Without such a query, try to take the lock, one caller at a time.
    turn = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(turn, fcntl.LOCK_EX)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        # The file's lock first: the next caller must not see it.
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)
        os.close(turn)
    return False


def _has_queries() -> bool:
    """Return whether the platform can query locks of open files; Linux can."""
    return hasattr(fcntl, "F_OFD_GETLK")
