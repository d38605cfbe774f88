"""What coordinators that were killed left in a results folder: read once, before this one writes to it."""

import json
import logging
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from trafficlight.errors import ConfigError, UsageError
from trafficlight.processes import try_lock
from trafficlight.protocol import JsonObject
from trafficlight.results.catalog import session_ids
from trafficlight.results.folder import (
    UNCLAIMED,
    ResultsFolder,
    remove_partial_uploads,
    write_atomically,
)
from trafficlight.results.journal import read_events, session_end
from trafficlight.results.record import SessionRecord
from trafficlight.results.writer import rebuild
from trafficlight.suites.selection import SessionRequest

logger = logging.getLogger(__name__)

# The lock that one coordinator holds, and the file that exists until a coordinator has shut down cleanly.
_LOCK, _RUNNING = "lab.lock", "lab.running"
_PAUSED = "lab.paused"
# The database of versions up to 0.1.0.
_OLD_DATABASE = "lab.sqlite"


@dataclass(frozen=True, slots=True)
class RecoveredSession:
    """A session of an earlier coordinator.

    :param exit_code: its exit code; None if it has not ended.
    """

    folder: ResultsFolder
    request: JsonObject
    exit_code: int | None = None

    def asks(self, request: SessionRequest) -> bool:
        """Return whether it was asked to run the same, maybe in a version with fewer options."""
        try:
            return SessionRequest.read(self.request) == request
        except UsageError:
            return False


@dataclass(frozen=True, slots=True)
class RecoveredState:
    """What earlier coordinators left.

    :param unfinished: sessions that have not ended, oldest first.
    :param unreported: sessions that ended since a coordinator last shut down cleanly, in the order in which
        they ended.
    """

    unfinished: tuple[RecoveredSession, ...] = ()
    unreported: tuple[RecoveredSession, ...] = ()

    @classmethod
    def load(cls, root: Path, unclean_since: datetime | None) -> "RecoveredState":
        """Read the ends of all sessions that can be resumed.

        :param root: the folder of all sessions' results.
        :param unclean_since: when the first coordinator started that did not shut down cleanly.
        """
        unfinished: list[RecoveredSession] = []
        unreported: list[tuple[datetime, RecoveredSession]] = []
        for id in reversed(session_ids(root)):
            folder = ResultsFolder(root.absolute() / id)
            if (request := folder.read_request(resumable=True)) is None:
                continue
            end = session_end(folder.events)
            if end is None:
                unfinished.append(RecoveredSession(folder, request))
            elif unclean_since is not None and end.time >= unclean_since:
                known = RecoveredSession(folder, request, end.exit_code)
                unreported.append((end.time, known))
        unreported.sort(key=lambda one: one[0])
        return cls(tuple(unfinished), tuple(known for _, known in unreported))

    def write_missing_reports(self) -> None:
        """Write the reports that a coordinator had not written when it was killed. Blocks."""
        for session in self.unreported:
            try:
                _complete(session.folder)
            except Exception:
                # One broken folder must not cost the other sessions their reports.
                logger.exception("the results of session %s are not complete", session.folder.id)


@contextmanager
def open_state_directory(root: Path) -> Iterator[RecoveredState]:
    """Lock a results folder until this is left, and return what earlier coordinators left in it.

    :raises ConfigError: another coordinator holds the lock, or the folder cannot be written or locked.
    """

    def wrong(problem: str) -> ConfigError:
        return ConfigError(problem, key="RESULTS_FOLDER")

    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = os.open(root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise wrong(f"{root} is not writable: {error.strerror}") from error
    try:
        try:
            locked = try_lock(lock)
        except OSError as error:
            raise wrong(f"{root} cannot be locked: {error.strerror}") from error
        if not locked:
            raise wrong(f"another coordinator uses {root}: give each its own RESULTS_FOLDER")
        running = root / _RUNNING
        _warn_of_old_sessions(root)
        recovered = RecoveredState.load(root, _time_in(running))
        remove_partial_uploads(root / UNCLAIMED)
        if not running.exists():
            try:
                write_atomically(running, datetime.now(UTC).isoformat().encode())
            except OSError as error:
                raise wrong(f"{root} is not writable: {error.strerror}") from error
        yield recovered
        running.unlink(missing_ok=True)  # not reached after an error: the next coordinator resumes
    finally:
        os.close(lock)


def read_paused(root: Path) -> dict[str, str]:
    """Return the programs that an operator has paused in earlier coordinators, with the reasons."""
    try:
        read = json.loads((root / _PAUSED).read_text())
    except (OSError, ValueError):
        return {}
    return {name: str(why) for name, why in read.items()} if isinstance(read, dict) else {}


def write_paused(root: Path, paused: Mapping[str, str]) -> None:
    """Keep the paused programs for the next coordinator; a problem is logged."""
    try:
        write_atomically(root / _PAUSED, json.dumps(paused).encode())
    except OSError as error:
        logger.warning("a restart will not know which adapters are paused: %s", error)


def _time_in(path: Path) -> datetime | None:
    try:
        return datetime.fromisoformat(path.read_text())
    except (OSError, ValueError):
        return None


def _complete(folder: ResultsFolder) -> None:
    if _is_complete(folder):
        return
    rebuild(folder, SessionRecord.replay(read_events(folder.events)))
    folder.finish()


def _is_complete(folder: ResultsFolder) -> bool:
    report, session = folder.path / "report.html", folder.path / "session.json"
    try:
        # The report is the last file that is written at the end of a session.
        newer = report.stat().st_mtime_ns >= folder.events.stat().st_mtime_ns
        return newer and folder.junit.is_file() and bool(json.loads(session.read_bytes())["ended"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _warn_of_old_sessions(root: Path) -> None:
    """Log the unfinished sessions of an earlier version: only its database has what they were to run."""
    path = root / _OLD_DATABASE
    if not path.is_file():
        return
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            rows = database.execute("SELECT id FROM sessions WHERE NOT ended ORDER BY id").fetchall()
    except sqlite3.Error:
        return
    folders = [ResultsFolder(root / id) for (id,) in rows if (root / id).is_dir()]
    lost = [one.id for one in folders if one.read_request() is None and session_end(one.events) is None]
    if lost:
        logger.warning(
            "%s of an earlier version cannot be resumed (remove %s to silence this)", ", ".join(lost), path
        )
