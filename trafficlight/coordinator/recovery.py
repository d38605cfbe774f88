"""What coordinators left that were killed: read once, before anybody can add to it."""

import json
import logging
from dataclasses import dataclass

from trafficlight.results.event_log import read_events
from trafficlight.results.folder import ResultsFolder
from trafficlight.results.record import SessionRecord
from trafficlight.results.store import EndedSession, SqlStore, StoredSession
from trafficlight.results.writer import rebuild

logger = logging.getLogger(__name__)

# Adapters of an earlier coordinator that are told to register anew.
_KNOWN_ADAPTERS = 10_000


@dataclass(frozen=True, slots=True)
class Legacy:
    """What an earlier coordinator left.

    :param unfinished: sessions that had not ended, oldest first.
    :param ended: sessions that had, though their coordinator did not live to say so, in the order in which
        they ended.
    :param adapters: the uuids that had registered.
    """

    unfinished: tuple[StoredSession, ...] = ()
    ended: tuple[EndedSession, ...] = ()
    adapters: tuple[str, ...] = ()

    @classmethod
    def of(cls, store: SqlStore) -> "Legacy":
        """Read it. Blocks."""
        return cls(
            tuple(store.unfinished()), tuple(store.ended_unsaid()), tuple(store.adapters(_KNOWN_ADAPTERS))
        )

    def complete(self) -> None:
        """Write the reports that a coordinator did not come to write before it was killed. Blocks."""
        for one in self.ended:
            try:
                _complete(one.session)
            except Exception:
                # Whatever is wrong with one session's folder, the others are not to suffer from it.
                logger.exception("the results of session %s are not complete", one.session.id)


def _complete(stored: StoredSession) -> None:
    folder = ResultsFolder.open(stored.folder)
    if _is_complete(folder):
        return
    rebuild(folder, SessionRecord.replay(read_events(folder.events)))
    folder.finish()


def _is_complete(folder: ResultsFolder) -> bool:
    report, session = folder.path / "report.html", folder.path / "session.json"
    try:
        # The last file that is written at an end.
        newer = report.stat().st_mtime_ns >= folder.events.stat().st_mtime_ns
        return newer and folder.junit.is_file() and bool(json.loads(session.read_bytes())["ended"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
