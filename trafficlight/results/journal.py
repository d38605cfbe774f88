"""The append-only list of events and its readers, and the log of a session: ``events.jsonl``."""

import contextlib
import fcntl
import logging
import math
import mmap
import os
import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias, TypeVar

from trafficlight.clock import Clock
from trafficlight.results.events import Event, SessionEnded, event_line, line_head, parse_event
from trafficlight.text import EVENT_LIMIT, truncate

logger = logging.getLogger(__name__)

E = TypeVar("E", bound=Event)
Reader: TypeAlias = Callable[[Any], None]

# What the kernel calls `struct flock`: type, whence, start, length (0 for all of the file), process id.
_FLOCK = struct.Struct("hhqqi0q")
_SECRETS = frozenset({"password", "key_backup_passphrase", "passphrase", "token", "access_token"})


class _Copy:
    """Copies what an adapter, a test or the configuration put into an event.

    :param limit: characters to keep.
    :ivar complete: whether nothing was left out.
    """

    def __init__(self, limit: float) -> None:
        self._left = limit
        self.complete = True

    def of(self, data: Mapping[str, Any]) -> dict[str, Any]:
        copy: dict[str, Any] = {}
        for number, (key, value) in enumerate(data.items()):
            if self._left <= 0:
                self.complete = False
                copy["…"] = f"{len(data) - number:,} more left out"
                break
            secret = key.lower() in _SECRETS and value is not None
            copy[self._text(key)] = "***" if secret else self._value(value)
        return copy

    def _value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._text(value)
        self._left -= 2
        if isinstance(value, Mapping):
            return self.of(value)
        if not isinstance(value, list | tuple):
            return value
        copy: list[Any] = []
        for number, item in enumerate(value):
            if self._left <= 0:
                self.complete = False
                copy.append(f"… {len(value) - number:,} more left out")
                break
            copy.append(self._value(item))
        return copy

    def _text(self, text: str) -> str:
        if len(text) > self._left:
            self.complete = False
            text = truncate(text, max(100, int(self._left)))
        self._left -= len(text)
        return text


def redacted(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy without the values of secrets, at any depth."""
    return _Copy(math.inf).of(data)


def excerpt(data: Mapping[str, Any], limit: int = EVENT_LIMIT) -> dict[str, Any]:
    """Return what an event holds of an object: without secrets, and cut if it is large."""
    return _Copy(limit).of(data)


def fits(data: Mapping[str, Any]) -> bool:
    """Return whether an event holds all of an object: nothing is left out because it is too large."""
    copy = _Copy(EVENT_LIMIT)
    copy.of(data)
    return copy.complete


class _Subscription(NamedTuple):
    reader: Reader
    kinds: Collection[type[Event]] | None
    session: str | None

    def wants(self, kind: type[Event], session: str) -> bool:
        mine = self.session is None or session in ("", self.session)
        return mine and (self.kinds is None or kind in self.kinds)


class Journal:
    """Numbers events and hands each to the readers that want it, in the order of their subscription."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._next = 1
        self._subscriptions: list[_Subscription] = []
        # By kind and session; rebuilt after each change of the subscriptions.
        self._readers: dict[tuple[type[Event], str], tuple[Reader, ...]] = {}
        self._failures: dict[Reader, int] = {}  # in a row
        #: How many events of each kind were appended.
        self.counts: Counter[type[Event]] = Counter()

    def subscribe(
        self,
        reader: Reader,
        kinds: Collection[type[Event]] | None = None,
        *,
        session: str | None = None,
    ) -> Callable[[], None]:
        """Call a reader with each event from now on, and return the function that unsubscribes it.

        The reader runs on the coordinator's loop and must not block. An exception that it raises is logged.

        :param kinds: the event classes that it wants; None for all.
        :param session: the session whose events it wants, besides those of no session; None for all.
        """
        subscription = _Subscription(reader, None if kinds is None else frozenset(kinds), session)
        self._subscriptions.append(subscription)
        self._readers.clear()

        def unsubscribe() -> None:
            if subscription in self._subscriptions:
                self._subscriptions.remove(subscription)
                self._readers.clear()
                self._failures.pop(reader, None)

        return unsubscribe

    def append(self, event: E, **context: Any) -> E:
        """Record an event: set its number and time, replace secrets, and cut what is too large.

        :param event: a new one; it is completed in place.
        :param context: other fields to set, such as the session.
        :return: the event.
        """
        clean: dict[str, Any] = {name: excerpt(getattr(event, name)) for name in event.open_names}
        for name in event.text_names:
            if len(text := getattr(event, name)) > EVENT_LIMIT:
                clean[name] = truncate(text, EVENT_LIMIT)
        clean |= {"sequence": self._next, "time": self._clock.now(), **context}
        for name, value in clean.items():
            object.__setattr__(event, name, value)  # frozen from now on
        self._next += 1
        self.counts[type(event)] += 1
        key = (type(event), event.session)
        if (readers := self._readers.get(key)) is None:
            readers = tuple(one.reader for one in self._subscriptions if one.wants(*key))
            self._readers[key] = readers
        for reader in readers:
            try:
                reader(event)
            except Exception:
                self._failures[reader] = self._failures.get(reader, 0) + 1
                if self._failures[reader] == 1:  # a full disk fails thousands of events
                    logger.exception("a reader failed on event %d (%s)", event.sequence, event.kind)
            else:
                if self._failures and (failures := self._failures.pop(reader, 0)) > 1:
                    logger.error("a reader works again, after failing on %d events", failures)
        return event


class EventLog:
    """Appends events to a file, each with one unbuffered write.

    So no event is lost when the coordinator is killed, only when the machine loses power. While the log is
    open, :func:`is_written` is true in every process.

    :param path: the file; created if it does not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("a+b", buffering=0)
        self._torn = False  # whether the last line is incomplete: the next event ends it first
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
        line = b"\n" * self._torn + event_line(event, sequence)
        written = 0
        try:
            while written < len(line):  # a disk that becomes full takes a part of it first
                written += self._file.write(line[written:])
        finally:
            if written:
                self._torn = written < len(line)

    def misplaced(self) -> str:
        """Return what is wrong with the file if it is no longer where it was written; else nothing."""
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(self._file.fileno()), self._path.stat()):
                return ""
        return f"{self._path} was removed or replaced while it was written"

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
