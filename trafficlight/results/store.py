"""The journal on the disk, so that a coordinator that ends without warning can go on where it was.

Nothing else speaks SQL. The embedded engine is SQLite; the statements are SQLAlchemy's, so that another can
follow.
"""

import asyncio
import json
import logging
import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Integer,
    MetaData,
    Row,
    String,
    Table,
    Text,
    create_engine,
    delete,
    event,
    func,
    insert,
    select,
    update,
)

from trafficlight.errors import LabError
from trafficlight.protocol import JsonObject
from trafficlight.results.events import AdapterRegistered, Event, SessionEnded, event_line, event_of

logger = logging.getLogger(__name__)

# Events that one transaction takes at most.
_BATCH = 5000
# How many events back those are kept that belong to no session, such as registrations.
_KEPT = 100_000

_metadata = MetaData()
_sessions = Table(
    "sessions",
    _metadata,
    Column("id", String(64), primary_key=True),
    Column("folder", Text, nullable=False),
    Column("request", Text, nullable=False),
    Column("ended", Boolean, nullable=False, default=False),
)
_events = Table(
    "events",
    _metadata,
    Column("sequence", Integer, primary_key=True),
    Column("time", String(40), nullable=False),
    Column("kind", String(40), nullable=False),
    Column("session", String(64), nullable=False, index=True),
    Column("case_id", Text),
    Column("attempt", Integer),
    Column("role", Text),
    Column("adapter", String(100)),
    Column("data", Text, nullable=False),
)
# The coordinators in a row that did not end in good order, by the number of the first event of each.
_coordinators = Table("coordinators", _metadata, Column("first", Integer, primary_key=True))


@dataclass(frozen=True, slots=True)
class StoredSession:
    """A session, as far as it must be known to go on with it.

    :param folder: where its results are.
    :param request: what was asked for, JSON-able.
    """

    id: str
    folder: Path
    request: JsonObject


@dataclass(frozen=True, slots=True)
class EndedSession:
    """A session that has ended, though its coordinator did not live to say so.

    :param exit_code: what the coordinator was to exit with for it.
    """

    session: StoredSession
    exit_code: int


class SqlStore:
    """The store in a database; events are committed in groups by a thread of its own.

    :param url: the database, as SQLAlchemy spells it, e.g. ``sqlite:////var/lib/lab.sqlite``.
    """

    def __init__(self, url: str) -> None:
        self._engine = create_engine(url)
        if self._engine.dialect.name == "sqlite":
            event.listen(self._engine, "connect", _tune)
        _metadata.create_all(self._engine)
        with self._engine.connect() as connection:
            self._last = connection.execute(select(func.max(_events.c.sequence))).scalar() or 0
        self._queue: queue.SimpleQueue[Event | _Flush | None] = queue.SimpleQueue()
        self._broken: str | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._write, name="store", daemon=True)
        self._thread.start()

    @property
    def last_sequence(self) -> int:
        """The sequence number of the last event; 0 where there is none."""
        return self._last

    @property
    def backlog(self) -> int:
        """How many events wait to be committed."""
        return self._queue.qsize()

    def append(self, event: Event) -> None:
        """Take an event; a reader of the journal. Never waits."""
        self._last = max(self._last, event.sequence)
        self._queue.put(event)

    async def flushed(self) -> None:
        """Return when everything that was appended before is on the disk.

        :raises LabError: the disk refuses.
        """
        flush = _Flush(asyncio.get_running_loop(), asyncio.Event())
        self._queue.put(flush)
        await flush.done.wait()
        if self._broken is not None:
            raise LabError(f"the journal cannot be written: {self._broken}")

    def add_session(self, session: StoredSession) -> None:
        """Remember a session before its first event."""
        row = {"id": session.id, "folder": str(session.folder), "request": json.dumps(session.request)}
        with self._engine.begin() as connection:
            connection.execute(insert(_sessions), [{**row, "ended": False}])

    def session(self, id: str) -> StoredSession | None:
        """Return a session, ended or not; None where it is not known."""
        with self._engine.connect() as connection:
            row = connection.execute(select(_sessions).where(_sessions.c.id == id)).one_or_none()
        return _stored(row) if row is not None else None

    def remove_session(self, id: str) -> None:
        """Forget a session that did not come to begin."""
        with self._engine.begin() as connection:
            connection.execute(delete(_sessions).where(_sessions.c.id == id))

    def unfinished(self) -> list[StoredSession]:
        """Return the sessions that have not ended, oldest first."""
        wanted = select(_sessions).where(_sessions.c.ended.is_(False)).order_by(_sessions.c.id)
        with self._engine.connect() as connection:
            return [_stored(row) for row in connection.execute(wanted)]

    def begin(self) -> None:
        """Remember that a coordinator is at work, until :meth:`settle`."""
        with self._engine.begin() as connection:
            known = connection.execute(select(_coordinators.c.first)).scalars().all()
            if self._last + 1 not in known:  # an earlier one may have come to no event at all
                connection.execute(insert(_coordinators), [{"first": self._last + 1}])

    def ended_unsaid(self) -> list[EndedSession]:
        """Return what ended since a coordinator last came to its own end, in the order of the ends."""
        wanted = (
            select(_sessions, _events.c.data)
            .join(_events, _events.c.session == _sessions.c.id)
            .where(_events.c.kind == SessionEnded.kind)
            .where(_events.c.sequence >= select(func.min(_coordinators.c.first)).scalar_subquery())
            .order_by(_events.c.sequence)
        )
        with self._engine.connect() as connection:
            return [
                EndedSession(_stored(row), int(json.loads(row.data)["exit_code"]))
                for row in connection.execute(wanted)
            ]

    def settle(self) -> None:
        """Remember that this coordinator came to its end: nothing is left to be said."""
        with self._engine.begin() as connection:
            connection.execute(delete(_coordinators))

    def events(self, session: str) -> Iterator[Event]:
        """Return the events of a session, in order."""
        wanted = select(_events).where(_events.c.session == session).order_by(_events.c.sequence)
        with self._engine.connect() as connection:
            for row in connection.execute(wanted):
                content = {**row._mapping, "case": row.case_id, "data": json.loads(row.data)}
                if (found := event_of(content)) is not None:
                    yield found

    def adapters(self, most: int) -> list[str]:
        """Return the uuids that registered last, newest first."""
        wanted = (
            select(_events.c.adapter)
            .where(_events.c.kind == AdapterRegistered.kind)
            .order_by(_events.c.sequence.desc())
            .limit(most)
        )
        with self._engine.connect() as connection:
            return list(dict.fromkeys(connection.execute(wanted).scalars()))

    def recover(self, events: Iterable[Event]) -> int:
        """Take events in that reached a session's own log, but no commit, before the process ended.

        :return: how many were new.
        """
        missing = [event for event in events if event.sequence > self._last]
        with self._engine.begin() as connection:
            _insert(connection, missing)
        self._last = max((self._last, *(event.sequence for event in missing)))
        return len(missing)

    def close(self) -> None:
        """Write what is left, and close. Idempotent."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
            self._thread.join()
            self._engine.dispose()

    def _write(self) -> None:
        """Commit what has gathered, again and again: the thread."""
        over = False
        batch: list[Event] = []
        while not over:
            flushes: list[_Flush] = []
            item = self._queue.get()
            while True:
                if item is None:
                    over = True
                elif isinstance(item, _Flush):
                    flushes.append(item)
                else:
                    batch.append(item)
                if over or self._queue.empty() or len(batch) >= _BATCH:
                    break
                item = self._queue.get()
            # What cannot be committed now is tried again with what comes next.
            batch = [] if self._commit(batch) else batch
            for flush in flushes:
                flush.tell()

    def _commit(self, batch: list[Event]) -> bool:
        if not batch:
            return True
        try:
            with self._engine.begin() as connection:
                _insert(connection, batch)
        except Exception as error:
            # The sessions' own event logs still hold every event, until it succeeds.
            if self._broken is None:  # once, not for every try
                logger.exception("%d events are not in the store, which is tried again and again", len(batch))
            self._broken = str(getattr(error, "orig", None) or error)
            return False
        if self._broken is not None:
            logger.warning("the store can be written again")
        self._broken = None
        return True


def _stored(row: Row[Any]) -> StoredSession:
    return StoredSession(row.id, Path(row.folder), json.loads(row.request))


@dataclass(frozen=True, slots=True)
class _Flush:
    loop: asyncio.AbstractEventLoop
    done: asyncio.Event

    def tell(self) -> None:
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.done.set)


def _insert(connection: Connection, batch: list[Event]) -> None:
    if not batch:
        return
    connection.execute(
        insert(_events),
        [
            {
                "sequence": one.sequence,
                "time": one.time.isoformat(),
                "kind": one.kind,
                "session": one.session,
                "case_id": one.case,
                "attempt": one.attempt,
                "role": one.role,
                "adapter": one.adapter,
                "data": json.dumps(json.loads(event_line(one))["data"]),
            }
            for one in batch
        ],
    )
    ended = [one.session for one in batch if isinstance(one, SessionEnded)]
    if ended:
        connection.execute(update(_sessions).where(_sessions.c.id.in_(ended)).values(ended=True))
        _forget(connection, ended, batch[-1].sequence)


def _forget(connection: Connection, ended: list[str], last: int) -> None:
    """Drop what nobody goes on with: the session's own log has all of it, and the store must not only grow.

    :param ended: sessions.
    :param last: the number of the latest event.
    """
    of_ended = _events.c.session.in_(ended) & (_events.c.kind != SessionEnded.kind)
    of_long_ago = (_events.c.session == "") & (_events.c.sequence < last - _KEPT)
    connection.execute(delete(_events).where(of_ended | of_long_ago))


def _tune(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    # A commit survives the end of the process; only the end of the machine can take the last ones.
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=10000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
