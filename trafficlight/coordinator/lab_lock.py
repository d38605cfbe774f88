"""The journal's store in a results folder: one lab at a time, and complete before anybody reads it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trafficlight.errors import ConfigError
from trafficlight.results.event_log import read_events_after
from trafficlight.results.events import Event
from trafficlight.results.store import SqlStore

_DATABASE, _LOCK = "lab.sqlite", "lab.lock"


@contextmanager
def remembering(root: Path) -> Iterator[SqlStore]:
    """Open the store of a results folder until this is left.

    Events that an earlier coordinator did not come to commit are taken in first, out of its sessions' own
    logs.

    :raises ConfigError: another lab has it open, or it cannot be made.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = os.open(root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        message = f"nothing can be written in {root}: {error.strerror}"
        raise ConfigError(message, key="RESULTS_FOLDER") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            message = f"another coordinator works in {root}: give each its own RESULTS_FOLDER"
            raise ConfigError(message, key="RESULTS_FOLDER") from None
        store = SqlStore(f"sqlite:///{root.absolute() / _DATABASE}")
        try:
            store.recover(_left_over(store))
            store.begin()
            yield store
            # Not where an error ends it: the next one goes on then.
            store.settle()
        finally:
            store.close()
    finally:
        os.close(lock)


def _left_over(store: SqlStore) -> list[Event]:
    """Return the events that are in the logs of sessions only, in order, each once.

    The store takes events in their order, so these are all behind its last one. A session that had ended may
    have more of them, too: what clients sent late.
    """
    found: dict[int, Event] = {}
    for session in (*store.unfinished(), *(one.session for one in store.ended_unsaid())):
        log = session.folder / "events.jsonl"
        if log.is_file():
            found.update((event.sequence, event) for event in read_events_after(log, store.last_sequence))
    return [found[sequence] for sequence in sorted(found)]
