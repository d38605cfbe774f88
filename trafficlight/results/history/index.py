"""The index of verdicts over all sessions of a results folder.

It is derived: what is in it can be read again from the sessions' folders, and is, when it is missing.
Verdicts of sessions whose folders were removed stay until then.
"""

import contextlib
import json
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock

from trafficlight.results.case import Outcome
from trafficlight.results.catalog import read_summary, session_ids, session_sort_key
from trafficlight.results.history.database import Database, HistoryError, Row, key_of, opened, storable
from trafficlight.results.history.statistics import CaseHistory, Past
from trafficlight.results.history.verdicts import CaseVerdict, Series, read_verdicts, verdicts_of
from trafficlight.results.record import SessionRecord

FILE = "history.sqlite"
"""The index, in a results folder."""

_DEPTH = 10
"""Sessions that a case is compared with: the latest in which it has a verdict..."""
_SESSIONS = 50
"""... among so many, so that a long history does not make the end of a session slow."""

_SAMPLE = 20  # cases of a session that tell which one it continues
_KEPT = 2  # sessions whose cases' earlier verdicts are kept: some 30 MB each for 10,000 cases
_AT_ONCE = 500  # cases in one statement
_REMEMBERED = 60.0  # seconds for which a database that cannot be reached is not tried again
_ENDED = -1  # in place of the size of a log that still may grow
_COLUMNS = (
    "c.text, v.lab, v.id, v.started, v.host, v.revision, v.outcome, v.attempt, g.text, v.seconds, n.text,"
    " v.of_case, v.session"
)
_TEXTS = (
    "JOIN history_texts c ON c.key = v.of_case JOIN history_texts g ON g.key = v.signature"
    " JOIN history_texts n ON n.key = v.versions"
)
_VERDICTS = "history_verdicts v JOIN history_sessions s ON s.key = v.session"
_OF_CASE = (
    f"WITH v AS (SELECT v.*, s.lab, s.id, s.started, s.host, s.revision FROM {_VERDICTS} WHERE v.of_case = ?"
    f" AND s.started <= ? ORDER BY s.started DESC, s.id DESC LIMIT ?) SELECT {_COLUMNS} FROM v {_TEXTS}"
    " ORDER BY v.started DESC, v.id DESC"
)
_BEFORE = "SELECT key FROM history_sessions WHERE key <> ? AND started < ? ORDER BY started DESC LIMIT ?"
# Those of some cases, by their keys. Not those that started with it: a merged session starts with its
# first shard.
_EARLIER = (
    f"WITH v AS (SELECT v.*, s.lab, s.id, s.started, s.host, s.revision, ROW_NUMBER() OVER"
    f" (PARTITION BY v.of_case ORDER BY s.started DESC, s.id DESC) AS place FROM {_VERDICTS}"
    f" WHERE v.of_case IN ({{marks}}) AND v.session IN ({_BEFORE}))"
    f" SELECT {_COLUMNS} FROM v {_TEXTS} WHERE v.place <= ? ORDER BY v.place"
)
_SAME = (
    f"SELECT s.id FROM {_VERDICTS} WHERE v.of_case IN ({{marks}}) AND v.session IN ({_BEFORE}) AND s.lab = ?"
    " GROUP BY s.id, s.started ORDER BY COUNT(*) DESC, s.started DESC LIMIT 1"
)
# The session of a shard, and what it was merged into before.
_SHARD = (
    "SELECT key FROM history_sessions WHERE id = ? AND started = ?"
    " UNION SELECT whole FROM history_merged WHERE id = ? AND started = ?"
)
_WHOLE = (
    "SELECT s.id FROM history_merged m JOIN history_sessions s ON s.key = m.whole"
    " WHERE m.id = ? AND m.started = ? AND s.lab = ?"
)
_MEASURED = (
    "SELECT m.of_case, m.session, t.text, m.unit, m.number, m.p50, m.p95 FROM history_measurements m"
    " JOIN history_texts t ON t.key = m.name"
)


class History:
    """The verdicts of earlier sessions. Its methods block.

    :param root: the folder of all sessions' results.
    :param url: of a PostgreSQL database that several labs share; empty for SQLite in the results folder.
    """

    def __init__(self, root: Path, url: str = "") -> None:
        self._root = root.absolute()
        self._url = url
        #: Names the results folder among those of all labs that share the index.
        self.lab = f"{socket.gethostname()}:{self._root}" if url else ""
        self._failure: tuple[float, HistoryError] | None = None  # until when it counts
        self._lock = Lock()  # held for microseconds
        self._taken_in = 0  # sessions: one whose cases ran again is there before
        self._before: dict[tuple[str, int, int], str] = {}
        self._kept: dict[str, tuple[Row, dict[str, CaseHistory]]] = {}  # with what they depend on

    def take_in(self, record: SessionRecord) -> dict[str, CaseHistory]:
        """Add a session that has ended.

        :return: the verdicts of its cases before it, see :meth:`before`.
        :raises HistoryError: the index cannot be used.
        """
        self._failure = None  # this is worth waiting for
        with self._opened() as database:
            self._add(database, record, verdicts_of(record), _ENDED)
            before = self._earlier(database, record)
        self._taken_in += 1  # after the commit
        return before

    def before(self, record: SessionRecord) -> dict[str, CaseHistory]:
        """Return the latest verdicts of a session's cases before it, in all labs; cases without are left out.

        A second or so for 10,000 cases. Answers are kept for a few sessions, while the index stays the same.

        :raises HistoryError: the index cannot be used.
        """
        if not self._url and not (self._root / FILE).exists():  # such as an artifact of CI: leave it as it is
            return {}
        taken_in = self._taken_in
        with self._opened() as database:
            (sessions,) = database.rows("SELECT COUNT(*), SUM(size) FROM history_sessions")
            state = (len(record.cases), taken_in, *sessions)
            with self._lock:
                if (known := self._kept.pop(record.id, None)) is not None and known[0] == state:
                    self._kept[record.id] = known
                    return known[1]
            found = self._earlier(database, record)
        with self._lock:
            self._kept[record.id] = state, found
            while len(self._kept) > _KEPT:
                del self._kept[next(iter(self._kept))]
        return found

    def session_before(self, record: SessionRecord) -> str:
        """Return the newest of the sessions of this lab before one that share most of its cases.

        A sample of its cases decides. Empty if there is none. Kept while the index stays the same.

        :raises HistoryError: the index cannot be used.
        """
        cases = list(record.cases)
        some = [key_of(case) for case in cases[:: len(cases) // _SAMPLE + 1]]
        if not some or not (self._url or (self._root / FILE).exists()):
            return ""
        state = record.id, len(cases), self._taken_in
        if (known := self._before.get(state)) is not None:
            return known
        marks = ",".join("?" * len(some))
        values = self._key(record), _started(record), _SESSIONS, storable(self.lab)
        with self._opened() as database:
            rows = database.rows(_SAME.format(marks=marks), *some, *values)
        with self._lock:
            self._before[state] = str(rows[0][0]) if rows else ""
            while len(self._before) > _SESSIONS:
                del self._before[next(iter(self._before))]
            return self._before[state]

    def update(self, seconds: float = float("inf")) -> None:
        """Add the sessions of the results folder that are not in the index yet, newest first.

        :param seconds: after which no more are read.
        :raises HistoryError: the index cannot be used.
        """
        until = time.monotonic() + seconds
        if not (ids := session_ids(self._root)):
            return
        with self._opened() as database:
            sizes = "SELECT id, size FROM history_sessions WHERE lab = ?"
            known: dict[str, int] = dict(database.rows(sizes, storable(self.lab)))
        for folder in (self._root / id for id in ids):
            if time.monotonic() > until:
                return
            size = known.get(folder.name)
            with contextlib.suppress(OSError):  # removed meanwhile, or half of it is missing
                if size == _ENDED or size == (now := (folder / "events.jsonl").stat().st_size):
                    continue
                summary = read_summary(folder)
                if summary is None or summary.status == "running":
                    continue
                record, verdicts = read_verdicts(folder)
                with self._opened() as database:
                    self._add(database, record, verdicts, now if record.ended is None else _ENDED)

    def of_case(self, case: str, limit: int = 20, *, until: datetime | None = None) -> CaseHistory:
        """Return the latest verdicts of a case, of all labs.

        :param until: only those of sessions that had started then.
        :raises HistoryError: the index cannot be used.
        """
        with self._opened() as database:
            rows = database.rows(_OF_CASE, key_of(case), _text_of(until) if until is not None else "9", limit)
            measured = database.rows(f"{_MEASURED} WHERE m.of_case = ?", key_of(case)) if rows else []
        return _histories(rows, measured).get(case, CaseHistory(()))

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Database]:
        failure = self._failure  # another thread may forget it
        if failure is not None and time.monotonic() < failure[0]:
            raise failure[1].with_traceback(None)
        try:
            with opened(self._root / FILE, self._url) as database:
                yield database
        except HistoryError as error:
            if self._url:  # each attempt takes seconds, and pages ask again and again
                self._failure = time.monotonic() + _REMEMBERED, error
            raise

    def _add(
        self, database: Database, record: SessionRecord, verdicts: Sequence[CaseVerdict], size: int
    ) -> None:
        key = self._key(record)
        for table, column in (("measurements", "session"), ("verdicts", "session"), ("sessions", "key")):
            database.rows(f"DELETE FROM history_{table} WHERE {column} = ?", key)
        lab, host, revision = map(storable, (self.lab, record.host, record.revision))
        database.insert("sessions", [(key, lab, record.id, _started(record), host, size, revision)])
        for id, when in record.merged:
            shard = storable(id), _text_of(when)
            wholes = [whole for (whole,) in database.rows(_WHOLE, *shard, lab)]
            if any(session_sort_key(whole) > session_sort_key(record.id) for whole in wholes):
                verdicts = ()  # the shard was merged again later
                continue
            for table in ("measurements", "verdicts"):
                database.rows(f"DELETE FROM history_{table} WHERE session IN ({_SHARD})", *shard, *shard)
            database.rows("DELETE FROM history_merged WHERE id = ? AND started = ?", *shard)
            database.insert("merged", [(*shard, key)])
        whole = "SELECT whole FROM history_merged WHERE id = ? AND started = ?"
        if database.rows(whole, record.id, _started(record)):
            verdicts = ()  # the merged session has them
        versions = {verdict.case: json.dumps(verdict.versions) for verdict in verdicts}
        texts = {text for verdict in verdicts for text in (verdict.case, verdict.signature)}
        texts |= {series.name for verdict in verdicts for series in verdict.measurements}
        texts |= set(versions.values())
        # In one order, so that two labs do not wait for each other.
        database.insert("texts", sorted((key_of(text), storable(text)) for text in texts))
        database.insert(
            "verdicts",
            [
                (
                    key_of(one.case),
                    key,
                    one.attempt,
                    one.outcome.value,
                    key_of(one.signature),
                    one.seconds,
                    key_of(versions[one.case]),
                )
                for one in verdicts
            ],
        )
        database.insert(
            "measurements",
            [
                (key_of(one.case), key, key_of(it.name), storable(it.unit), it.number, it.p50, it.p95)
                for one in verdicts
                for it in one.measurements
            ],
        )

    def _earlier(self, database: Database, record: SessionRecord) -> dict[str, CaseHistory]:
        sessions = self._key(record), _started(record), _SESSIONS
        found: dict[str, CaseHistory] = {}
        keys = [key_of(case) for case in list(record.cases)]
        for some in (keys[at : at + _AT_ONCE] for at in range(0, len(keys), _AT_ONCE)):
            marks = ",".join("?" * len(some))
            rows = database.rows(_EARLIER.format(marks=marks), *some, *sessions, _DEPTH)
            measured = f"{_MEASURED} WHERE m.of_case IN ({marks}) AND m.session IN ({_BEFORE})"
            found |= _histories(rows, database.rows(measured, *some, *sessions) if rows else [])
        return found

    def _key(self, record: SessionRecord) -> int:
        return key_of(f"{self.lab}\n{record.id}")


def _started(record: SessionRecord) -> str:
    return _text_of(record.started or record.last_time or datetime.now(UTC))


def _text_of(when: datetime) -> str:
    """Return a text that sorts by time."""
    return when.astimezone(UTC).isoformat(timespec="microseconds")


def _histories(rows: Iterable[Row], measured: Iterable[Row]) -> dict[str, CaseHistory]:
    """Return the histories of cases.

    :param rows: of the verdicts, the newest first.
    """
    series: dict[tuple[int, int], list[Series]] = {}
    for of_case, in_session, *values in measured:
        series.setdefault((of_case, in_session), []).append(Series(*values))
    versions: dict[str, dict[str, str]] = {}
    sessions: dict[int, tuple[str, str, datetime, str, str]] = {}  # shared: there are few
    found: dict[str, list[Past]] = {}
    for row in rows:
        case, *there, outcome, attempt, sign, seconds, text, of_case, in_session = row
        if text not in versions:
            versions[text] = json.loads(text)
        verdict = CaseVerdict(
            case,
            Outcome(outcome),
            attempt=attempt,
            signature=sign,
            seconds=seconds,
            versions=versions[text],
            measurements=tuple(series.get((of_case, in_session), ())),
        )
        if in_session not in sessions:
            lab, session, started, host, revision = there
            sessions[in_session] = lab, session, datetime.fromisoformat(started), host, revision
        lab, session, when, host, revision = sessions[in_session]
        found.setdefault(case, []).append(Past(lab, session, when, host, verdict, revision))
    return {case: CaseHistory(past) for case, past in found.items()}
