"""All sessions of a results folder, whichever process ran them.

A session that this process runs is in memory. Every other one is read from its folder, in three sizes: a
summary is one small file, a record leaves out what happened inside of attempts, a case is one case in full.
"""

import asyncio
import json
import os
import re
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

from trafficlight.errors import UsageError
from trafficlight.results.case import AttemptRecord, CaseRecord, Outcome
from trafficlight.results.events import (
    LINE_BEGINNING,
    AdapterLeased,
    CaseCancelled,
    CaseEnded,
    CasePlanned,
    CaseRerun,
    CaseState,
    CaseWaits,
    Event,
    Problem,
    Returned,
    ServerReady,
    SessionEnded,
    SessionStarted,
    SessionStopped,
    State,
    parse_event,
)
from trafficlight.results.journal import is_written
from trafficlight.results.record import SessionRecord

SCHEMA = 1
"""Of ``session.json`` and ``report.json``: incremented when a field changes its meaning or is removed."""

SessionStatus: TypeAlias = Literal["running", "ended", "abandoned"]
T = TypeVar("T")
_Stamp: TypeAlias = tuple[int, int, int]

_ID = re.compile(r"(\d{4}-\d\d-\d\d)--(\d{3,9})")
# Bytes of logs whose records are cached; a record takes a few times as much memory.
_CACHE_BYTES = 16 << 20
OUTLINE: tuple[type[Event], ...] = (
    SessionStarted,
    SessionStopped,
    SessionEnded,
    Problem,
    CasePlanned,
    CaseWaits,
    CaseState,
    CaseEnded,
    CaseCancelled,
    CaseRerun,
    AdapterLeased,
    ServerReady,
    Returned,
)
"""The events that a record without the inside of attempts is made of, but for what they ran with."""


def line_of_other(kinds: Iterable[type[Event]]) -> re.Pattern[bytes]:
    """Return a pattern for the beginning of lines that hold events of other kinds."""
    return re.compile(LINE_BEGINNING + rb'(?!(?:%s)")' % "|".join(event.kind for event in kinds).encode())


_INSIDE_ATTEMPT = line_of_other(OUTLINE)


class ProblemSummary(BaseModel):
    """A test file or class that cannot run."""

    file: str
    line: int | None
    problem: str
    hint: str


class AdapterCount(BaseModel):
    """How often adapters of one type and version registered."""

    type: str
    version: str
    registrations: int


class SessionSummary(BaseModel):
    """A session without its cases: what lists and the API show, and what ``session.json`` holds.

    :ivar status: ``running``, in any process; ``ended``; ``abandoned``: its coordinator exited first, and
        none has resumed it.
    """

    model_config = ConfigDict(frozen=True)

    id: str = ""
    status: SessionStatus = Field(default="ended", exclude=True)
    started: datetime | None
    ended: datetime | None
    seconds: float = 0.0
    command: str
    host: str = ""
    user: str = ""
    seed: int | None = None
    warnings: tuple[str, ...] = ()
    strict: bool = False
    commit: str = ""
    dirty: bool = False
    job: str = ""
    versions: dict[str, Any] = {}
    configuration: dict[str, Any] = {}
    exit_code: int | None
    interrupted: bool
    incomplete: str = ""
    stopped: str = ""
    counts: dict[State, int]
    outcomes: dict[Outcome, int]
    problems: list[ProblemSummary] = []
    adapters: list[AdapterCount] = []

    @classmethod
    def of(cls, record: SessionRecord, status: SessionStatus = "running") -> "SessionSummary":
        """Return the summary of a record."""
        content = {name: getattr(record, name, None) for name in cls.model_fields}
        problems = [ProblemSummary(**problem.content()) for problem in list(record.problems)]
        adapters = [
            AdapterCount(type=kind, version=version, registrations=number)
            for (kind, version), number in list(record.adapter_types.items())
        ]
        changed = {"seconds": round(record.seconds, 3), "problems": problems, "adapters": adapters}
        return cls(**content | changed | {"status": status})

    @field_validator("counts", "outcomes", mode="before")
    @classmethod
    def _complete(cls, value: object, info: Any) -> object:
        """Add the states that a file leaves out."""
        names: Any = State if info.field_name == "counts" else Outcome
        return dict.fromkeys(names, 0) | value if isinstance(value, dict) else value

    @property
    def cases(self) -> int:
        """How many cases it has."""
        return sum(self.counts.values())

    def as_json(self) -> dict[str, Any]:
        """Return the content of ``session.json``."""
        times = {"started": self.started, "ended": self.ended}
        content = self.model_dump() | {name: time and time.isoformat() for name, time in times.items()}
        return {"schema": SCHEMA, **content}


@dataclass(frozen=True, slots=True)
class SessionView:
    """A session that can be looked at.

    :ivar record: of a session that this process does not run, without what happened inside of attempts;
        treat it as read-only.
    """

    id: str
    folder: Path
    record: SessionRecord
    status: SessionStatus

    @property
    def over(self) -> bool:
        """Whether nothing of it changes any more."""
        return self.status != "running"

    @property
    def until(self) -> datetime | None:
        """The time of the last event of an abandoned session; None for all others."""
        return self.record.last_time if self.status == "abandoned" else None


def session_sort_key(session: str) -> tuple[str, int]:
    """Return the key that sorts the ids of sessions by their start."""
    found = _ID.fullmatch(session)
    return (found[1], int(found[2])) if found is not None else (session, 0)


def session_ids(root: Path) -> list[str]:
    """Return the ids of the sessions that have a folder, newest first.

    :param root: the folder of all sessions' results.
    """
    try:
        found = [name for name in os.listdir(root) if _ID.fullmatch(name)]
    except OSError:
        return []
    return sorted(found, key=session_sort_key, reverse=True)


def session_in(folder: Path) -> Path | None:
    """Return a folder that is that of a session, or else its newest session; None if it has none.

    :raises UsageError: there is no such folder.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}: name the folder of a session's results")
    if (folder / "events.jsonl").is_file():
        return folder
    found = (folder / id for id in session_ids(folder))
    return next((one for one in found if (one / "events.jsonl").is_file()), None)


def named_session(name: str, root: Path) -> Path:
    """Return the folder of a session that a command line names.

    :param name: the id of a session, ``latest``, or a folder: of a session, or of results, for its latest.
    :param root: the results folder of sessions that are named by their ids.
    :raises UsageError: there is no such session.
    """
    for path in (Path(name), root / name):
        for folder in (path, path / "latest", path / "current"):
            if (folder / "events.jsonl").exists():
                return folder.resolve()
    where = f"{root} has no such session" if root.is_dir() else f"there is no results folder {root}"
    raise UsageError(f"{name} is not the folder of a session, and {where}")


def read_durations(log: Path) -> dict[str, float]:
    """Return the seconds that each case of a session took, all attempts together.

    :raises OSError: the log cannot be read.
    """
    record, _ = read_record(log)
    return {case.id: round(case.seconds, 3) for case in record.cases.values() if case.ended}


def read_summary(folder: Path) -> SessionSummary | None:
    """Read ``session.json`` of a session that this process does not run; None if it is missing or broken.

    That of a session that has not ended may be a few seconds behind its log.
    """
    try:
        content = json.loads((folder / "session.json").read_bytes())
        status = _status(folder, ended=bool(content["ended"]))
        return SessionSummary.model_validate({**content, "id": folder.name, "status": status})
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def read_record(log: Path) -> tuple[SessionRecord, int]:
    """Read a session without what happened inside of attempts; a second or so for 10,000 cases.

    :return: the record, and how many bytes of the log are in it.
    :raises OSError: it cannot be read.
    """
    record, weight = SessionRecord(), 0
    nothing: list[Any] = []
    shared: dict[tuple[str, ...], Any] = {}  # few adapters and homeservers differ in what is kept of them
    skipped = b""
    with log.open("rb") as lines:
        for line in lines:
            if _INSIDE_ATTEMPT.match(line):  # most lines: do not parse them
                skipped = line
            elif (event := parse_event(line)) is not None and isinstance(event, OUTLINE):
                skipped = b""
                record.apply(event)
                weight += len(line)
                case = record.cases.get(event.case) if event.case is not None else None
                if case is not None and (attempt := case.attempt) is not None:
                    attempt.traceback = ""
                    # One shared list: the garbage collector visits every list while everything else waits.
                    attempt.timeline = attempt.uploads = attempt.attachments = attempt.measurements = nothing
                    nothing.clear()
                    if isinstance(event, AdapterLeased | ServerReady):
                        _share(attempt, event, shared)
    # An abandoned session was last alive at its very last event.
    if (last := parse_event(skipped)) is not None:
        record.last_time = last.time
    return record, weight


def _share(
    attempt: AttemptRecord, event: AdapterLeased | ServerReady, shared: dict[tuple[str, ...], Any]
) -> None:
    """Keep only what tells versions and hosts of adapters and homeservers, once for all attempts."""
    role = event.role or ""
    if isinstance(event, ServerReady):
        kept = ("server", event.type, event.version)
        attempt.servers[role] = shared.setdefault(
            kept, replace(event, server_name="", cs_api="", image="", shared=False)
        )
    else:
        fields = {key: str(event.registration.get(key) or "") for key in ("type", "version", "instance")}
        attempt.adapters[role] = shared.setdefault(("adapter", *fields.values()), fields)
        attempt.adapter_ids.clear()


def read_case(log: Path, case: str) -> CaseRecord | None:
    """Read one case with all that happened in its attempts; None if there is no such case.

    :raises OSError: it cannot be read.
    """
    named, record = json.dumps(case).encode(), SessionRecord()
    with log.open("rb") as lines:
        for line in lines:
            if named in line and (event := parse_event(line)) is not None and case in event.case_ids:
                record.apply(event)
    return record.cases.get(case)


class SessionCatalog:
    """The sessions of a results folder, for the event loop; a thread reads.

    One record is read at a time, and the next one only when the caller has finished with it: requests for
    many sessions at once cannot fill the memory.

    :param root: the folder of all sessions' results.
    :param running: returns the records of the sessions that this process runs, by their ids.
    :param keep: how many records of other sessions are cached.
    :param cache_bytes: bytes of logs whose records are cached; the last one is in any case.
    """

    def __init__(
        self,
        root: Path,
        running: Callable[[], Mapping[str, SessionRecord]] = dict,
        *,
        keep: int = 20,
        cache_bytes: int = _CACHE_BYTES,
    ) -> None:
        self._root = root.absolute()
        self._running = running
        self._keep = keep
        self._cache_bytes = cache_bytes
        self._lock = threading.Lock()  # held for microseconds
        self._cached: OrderedDict[str, tuple[_Stamp, SessionRecord, int]] = OrderedDict()
        self._turn = asyncio.Lock()
        # One thread, so that cancelled requests do not leave several readers at work.
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="catalog")

    def close(self) -> None:
        """Read nothing more."""
        self._reader.shutdown(wait=False, cancel_futures=True)

    async def ids(self) -> list[str]:
        """Return the ids of all sessions, newest first."""
        return await asyncio.to_thread(session_ids, self._root)

    async def latest(self) -> str | None:
        """Return the id of the session that started last; None if there is none yet."""
        ids = await self.ids()
        return await asyncio.to_thread(lambda: next((id for id in ids if self._folder(id) is not None), None))

    async def folder(self, session: str) -> Path | None:
        """Return the folder of a session; None if there is no such session.

        :param session: any text.
        """
        return await asyncio.to_thread(self._folder, session)

    async def summary(self, session: str) -> SessionSummary | None:
        """Return the summary of a session; None if there is no such session."""
        found = await self.summaries([session])
        if found and (found[0].status == "ended" or session in self._running()):
            return found[0]
        # The log is ahead of the file.
        try:
            async with self.record(session) as view:
                return await asyncio.to_thread(SessionSummary.of, view.record, view.status)
        except FileNotFoundError:
            return None

    async def summaries(self, sessions: Sequence[str]) -> list[SessionSummary]:
        """Return the summaries of sessions in the order given, without those whose folder has none."""
        running = self._running()

        def read(session: str) -> SessionSummary | None:
            if (record := running.get(session)) is not None:
                return SessionSummary.of(record)
            folder = self._folder(session)
            return read_summary(folder) if folder is not None else None

        return await asyncio.to_thread(lambda: [one for id in sessions if (one := read(id)) is not None])

    @asynccontextmanager
    async def record(self, session: str) -> AsyncIterator[SessionView]:
        """Open a session until this is left.

        :param session: any text.
        :raises FileNotFoundError: there is no such session.
        """
        if (live := self._running().get(session)) is not None:
            yield SessionView(session, self._root / session, live, "running")
            return
        folder, cached = await asyncio.to_thread(lambda: (self._folder(session), self._from_cache(session)))
        if folder is None:
            raise FileNotFoundError(f"there is no session {session}")
        if cached is not None:
            yield await self._view(folder, cached)
            return
        async with self._turn:
            yield await self._view(folder, await self._read(lambda: self._record(session)))

    async def case(self, session: str, case: str) -> CaseRecord | None:
        """Return one case with all that happened in its attempts; None if there is no such case.

        :raises OSError: the session's log cannot be read.
        """
        if (live := self._running().get(session)) is not None:
            return live.cases.get(case)
        return await self._read(lambda: read_case(self._log(session), case))

    async def _view(self, folder: Path, record: SessionRecord) -> SessionView:
        status = await asyncio.to_thread(_status, folder, ended=record.ended is not None)
        return SessionView(folder.name, folder, record, status)

    async def _read(self, read: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._reader, read)

    def _folder(self, session: str) -> Path | None:
        known = _ID.fullmatch(session) is not None and self._log(session).is_file()
        return self._root / session if known else None

    def _log(self, session: str) -> Path:
        return self._root / session / "events.jsonl"

    def _from_cache(self, session: str) -> SessionRecord | None:
        """Return a cached record; None if its log has changed since."""
        with self._lock:
            known = self._cached.get(session)
            if known is None or known[0] != _stamp(self._log(session)):
                return None
            self._cached.move_to_end(session)
            return known[1]

    def _record(self, session: str) -> SessionRecord:
        if (cached := self._from_cache(session)) is not None:
            return cached
        stamp = _stamp(self._log(session))
        record, weight = read_record(self._log(session))
        record.id = record.id or session
        with self._lock:
            self._cached[session] = (stamp, record, weight)
            self._cached.move_to_end(session)
            while len(self._cached) > self._keep or (
                len(self._cached) > 1 and sum(one[2] for one in self._cached.values()) > self._cache_bytes
            ):
                self._cached.popitem(last=False)
        return record


def _status(folder: Path, *, ended: bool) -> SessionStatus:
    return "ended" if ended else "running" if is_written(folder / "events.jsonl") else "abandoned"


def _stamp(path: Path) -> _Stamp:
    try:
        status = path.stat()
    except OSError:
        return (0, 0, 0)
    return (status.st_ino, status.st_mtime_ns, status.st_size)
