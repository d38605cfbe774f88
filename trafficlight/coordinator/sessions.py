"""The sessions that a coordinator has in memory: those that wait and run, and the latest that have ended."""

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from weakref import WeakSet

from trafficlight.coordinator.session import Session
from trafficlight.results.events import Log, Upload
from trafficlight.results.writer import ResultsWriter, append_late

# Cases of ended sessions, however few sessions they are. Each has all that happened in it: about 25 kB, and
# 50 objects that the interpreter's garbage collector looks at while everything else waits.
_MOST_CASES = 2_000
# What can still come for a case when its session has ended.
LATE = (Upload, Log)


class Sessions(Mapping[str, Session]):
    """Sessions by id, in the order in which they were taken in.

    What has ended is dropped when it is too much: its results are complete in its folder, and are read from
    there. What waits or runs stays.

    :param keep: how many that have ended are kept.
    :param cases: how many cases they may have in all.
    """

    def __init__(self, keep: int, *, cases: int = _MOST_CASES) -> None:
        self._keep = keep
        self._cases = cases
        self._known: dict[str, Session] = {}

    def __getitem__(self, id: str) -> Session:
        return self._known[id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def add(self, session: Session) -> None:
        """Take a session in."""
        self._known[session.id] = session

    def drop_ended(self) -> None:
        """Drop what has ended and is too much, the one that ended first before the others."""
        ended = [one for one in self._known.values() if one.ended.is_set() and one.record.ended is not None]
        ended.sort(key=lambda one: (one.record.ended, one.id))
        cases = sum(len(one.record.cases) for one in ended)
        for number, session in enumerate(ended):
            if len(ended) - number <= self._keep and cases <= self._cases:
                return
            cases -= len(session.record.cases)
            del self._known[session.id]


class LateFiles:
    """Files what comes for a session that has ended, such as the log that an adapter uploads at its exit.

    A reader of the journal. Where the session is in memory its reports are written anew; in any case the
    event is in its log.

    :param root: the folder of all sessions' results.
    """

    def __init__(self, root: Path, sessions: Sessions) -> None:
        self._root = root
        self._sessions = sessions
        # Also those of sessions that have left the memory: they live as long as they have something to write.
        self._told: WeakSet[ResultsWriter] = WeakSet()

    def __call__(self, event: Upload | Log) -> None:
        """Take in an event; those of sessions that go on are left to their own writers."""
        if not event.session:
            return
        session = self._sessions.get(event.session)
        if session is None:
            append_late(self._root / event.session / "events.jsonl", event)
        elif session.closing:
            self._told.add(session.writer)
            session.writer.late(event)

    async def close(self) -> None:
        """Wait until the reports have what came late."""
        for writer in list(self._told):
            await asyncio.to_thread(writer.settle)
