"""The sessions that lie in a results folder, whoever ran them: which there are, and what became of them.

Everything here reads the disk. Lists cost a look at the names of the folders and one small file for each
session that is shown; a session is read as a whole only when somebody asks for it.
"""

import json
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias

from trafficlight.results.case import CaseRecord, Outcome
from trafficlight.results.event_log import is_written
from trafficlight.results.events import State
from trafficlight.results.outline import Outline, case_in_full, outline
from trafficlight.results.record import SessionRecord

_ID = re.compile(r"(\d{4}-\d\d-\d\d)--(\d{3,9})")
_MOST_WEIGHT = 16 << 20
"""Bytes of logs whose outlines are kept; the latest one is kept in any case."""

Standing: TypeAlias = Literal["running", "ended", "abandoned"]
_Stamp: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class SessionSummary:
    """What lists say of a session.

    :ivar standing: ``running``: another process runs it. ``abandoned``: its coordinator ended before it did,
        and none has gone on with it.
    """

    id: str
    standing: Standing
    counts: Mapping[State, int]
    outcomes: Mapping[Outcome, int]
    started: datetime | None
    ended: datetime | None
    exit_code: int | None
    interrupted: bool
    command: str

    @classmethod
    def of(cls, id: str, record: SessionRecord, standing: Standing) -> "SessionSummary":
        """Return what a record says."""
        return cls(
            id=id,
            standing=standing,
            counts=record.counts,
            outcomes=record.outcomes,
            started=record.started,
            ended=record.ended,
            exit_code=record.exit_code,
            interrupted=record.interrupted,
            command=record.command,
        )


def in_order(session: str) -> tuple[str, int]:
    """Return the key that puts the ids of sessions into the order in which they started."""
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
    return sorted(found, key=in_order, reverse=True)


class Archive:
    """The sessions in a folder. Any thread may ask; reading takes its time, see :func:`outline`.

    :param root: the folder of all sessions' results.
    :param most: bytes of logs whose outlines are kept, so that they need not be read again.
    """

    def __init__(self, root: Path, *, most: int = _MOST_WEIGHT) -> None:
        self._root = root.absolute()
        self._most = most
        self._lock = threading.Lock()  # held for microseconds
        self._kept: OrderedDict[str, tuple[_Stamp, Outline]] = OrderedDict()

    def ids(self) -> list[str]:
        """Return the ids of the sessions that have a folder, the newest first."""
        return session_ids(self._root)

    def folder(self, session: str) -> Path | None:
        """Return the folder of a session; None where there is none, or it has no events.

        :param session: as it came in a URL: anything.
        """
        if _ID.fullmatch(session) is None:
            return None
        folder = self._root / session
        return folder if (folder / "events.jsonl").is_file() else None

    def standing(self, folder: Path, *, ended: bool) -> Standing:
        """Say how a session stands that this process does not run.

        :param ended: whether its end was written down.
        """
        return "ended" if ended else "running" if is_written(folder / "events.jsonl") else "abandoned"

    def head(self, session: str) -> SessionSummary | None:
        """Return what lists say of a session; None where it left nothing that says so."""
        folder = self.folder(session)
        if folder is None:
            return None
        try:
            known = json.loads((folder / "session.json").read_bytes())
            return SessionSummary(
                id=session,
                standing=self.standing(folder, ended=bool(known["ended"])),
                counts={state: int(known["counts"].get(state.value, 0)) for state in State},
                outcomes={one: int(known["outcomes"].get(one.value, 0)) for one in Outcome},
                started=_moment(known["started"]),
                ended=_moment(known["ended"]),
                exit_code=known["exit_code"],
                interrupted=bool(known["interrupted"]),
                command=str(known["command"]),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def kept(self, session: str) -> SessionRecord | None:
        """Return a session that need not be read again; None where it has changed or was not read yet."""
        with self._lock:
            known = self._kept.get(session)
            if known is None or known[0] != _stamp(self._log(session)):
                return None
            self._kept.move_to_end(session)
            return known[1].record

    def record(self, session: str) -> SessionRecord:
        """Return a session in short: without what happened inside of attempts. Nobody may change it.

        :raises OSError: its log cannot be read.
        """
        if (kept := self.kept(session)) is not None:
            return kept
        stamp = _stamp(self._log(session))
        read = outline(self._log(session))
        read.record.id = read.record.id or session
        with self._lock:
            self._kept[session] = (stamp, read)
            self._kept.move_to_end(session)
            while len(self._kept) > 1 and sum(one.weight for _, one in self._kept.values()) > self._most:
                self._kept.popitem(last=False)
        return read.record

    def case(self, session: str, case: str) -> CaseRecord | None:
        """Return one case of a session with all that happened in its attempts.

        :raises OSError: the session's log cannot be read.
        """
        return case_in_full(self._log(session), case)

    def _log(self, session: str) -> Path:
        return self._root / session / "events.jsonl"


def _stamp(path: Path) -> _Stamp:
    try:
        status = path.stat()
    except OSError:
        return (0, 0, 0)
    return (status.st_ino, status.st_mtime_ns, status.st_size)


def _moment(text: Any) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
