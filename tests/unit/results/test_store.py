"""The journal on the disk: what is in it after a sudden end, and what the next coordinator is told."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.hand_clock import HandClock
from trafficlight.errors import LabError
from trafficlight.results.events import AdapterRegistered, CaseState, Log, SessionEnded, SessionStarted, State
from trafficlight.results.journal import Journal
from trafficlight.results.store import SqlStore, StoredSession

Open = Callable[[], SqlStore]


@pytest.fixture
def reopen(tmp_path: Path) -> Iterator[Open]:
    """Open the one store anew, as the next coordinator does."""
    opened: list[SqlStore] = []

    def reopen() -> SqlStore:
        for store in opened:
            store.close()
        opened.append(SqlStore(f"sqlite:///{tmp_path / 'lab.sqlite'}"))
        return opened[-1]

    yield reopen
    for store in opened:
        store.close()


def journal_of(store: SqlStore) -> Journal:
    journal = Journal(HandClock(), first=store.last_sequence + 1)
    journal.subscribe(store.append)
    return journal


def a_session(store: SqlStore, tmp_path: Path, id: str = "2026-11-21--001") -> StoredSession:
    stored = StoredSession(id, tmp_path / id, {"targets": [id]})
    store.add_session(stored)
    return stored


def test_events_come_back_as_they_were(reopen: Open, tmp_path: Path) -> None:
    store = reopen()
    a_session(store, tmp_path)
    journal = journal_of(store)
    told = [
        journal.append(SessionStarted(session="2026-11-21--001", cases=2)),
        journal.append(AdapterRegistered(adapter="a", registration={"type": "nio"})),
        journal.append(
            CaseState(session="2026-11-21--001", case="é::A", attempt=1, role="x", state=State.RUNNING)
        ),
    ]
    again = reopen()
    assert again.last_sequence == 3
    assert list(again.events("2026-11-21--001")) == [told[0], told[2]]
    assert again.adapters(10) == ["a"]


async def test_what_is_flushed_is_there_for_others(reopen: Open, tmp_path: Path) -> None:
    store = reopen()
    a_session(store, tmp_path)
    journal = journal_of(store)
    for number in range(300):
        journal.append(Log(session="2026-11-21--001", message=str(number)))
    await store.flushed()
    assert store.backlog == 0
    assert len(list(store.events("2026-11-21--001"))) == 300


def test_sessions_are_unfinished_until_they_end(reopen: Open, tmp_path: Path) -> None:
    store = reopen()
    first, second = (a_session(store, tmp_path, f"2026-11-21--00{number}") for number in (1, 2))
    journal_of(store).append(SessionEnded(session=first.id, exit_code=0))
    assert reopen().unfinished() == [second]


def test_what_reached_only_the_sessions_own_log_is_taken_in_once(reopen: Open, tmp_path: Path) -> None:
    store = reopen()
    session = a_session(store, tmp_path)
    journal = Journal(HandClock())
    events = [
        journal.append(SessionStarted(session=session.id)),
        journal.append(SessionEnded(session=session.id, exit_code=0)),
    ]
    store.append(events[0])
    store = reopen()
    assert store.recover(events) == 1
    assert store.recover(events) == 0
    assert store.last_sequence == 2
    assert store.unfinished() == []


def test_of_a_session_that_has_ended_only_its_end_is_kept(
    reopen: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest is in its own log; a store that is used for years does not only grow."""
    monkeypatch.setattr("trafficlight.results.store._KEPT", 3)
    store = reopen()
    ended, running = (a_session(store, tmp_path, f"2026-11-21--00{number}") for number in (1, 2))
    journal = journal_of(store)
    for number in range(5):
        journal.append(AdapterRegistered(adapter=str(number), registration={}))
        journal.append(Log(session=running.id, message=str(number)))
        journal.append(Log(session=ended.id, message=str(number)))
    journal.append(SessionEnded(session=ended.id, exit_code=0))
    store = reopen()
    assert [event.kind for event in store.events(ended.id)] == [SessionEnded.kind]
    assert len(list(store.events(running.id))) == 5
    assert store.adapters(10) == ["4"]
    assert store.last_sequence == 16


class TestWhatNobodySaid:
    """Sessions whose coordinator was killed between their end and its own."""

    def test_a_coordinator_that_ends_in_good_order_leaves_nothing_to_say(
        self, reopen: Open, tmp_path: Path
    ) -> None:
        store = reopen()
        store.begin()
        session = a_session(store, tmp_path)
        journal_of(store).append(SessionEnded(session=session.id, exit_code=1))
        store = reopen()
        store.settle()
        store = reopen()
        store.begin()
        assert store.ended_unsaid() == []

    def test_one_that_is_killed_leaves_its_ended_sessions(self, reopen: Open, tmp_path: Path) -> None:
        store = reopen()
        store.begin()
        told = a_session(store, tmp_path, "2026-11-21--001")
        journal_of(store).append(SessionEnded(session=told.id, exit_code=0))
        store = reopen()
        store.settle()

        store.begin()
        ended = a_session(store, tmp_path, "2026-11-21--002")
        running = a_session(store, tmp_path, "2026-11-21--003")
        journal = journal_of(store)
        journal.append(SessionStarted(session=running.id))
        journal.append(SessionEnded(session=ended.id, exit_code=3))
        for _ in range(3):  # killed again and again, before anything happens
            store = reopen()
            store.begin()
            (left,) = store.ended_unsaid()
            assert (left.session, left.exit_code) == (ended, 3)
            assert store.unfinished() == [running]


async def test_a_disk_that_refuses_is_told_and_forgotten_when_it_does_no_longer(
    reopen: Open, tmp_path: Path
) -> None:
    store = reopen()
    session = a_session(store, tmp_path)
    journal = journal_of(store)
    with store._engine.begin() as connection:
        connection.execute(text("ALTER TABLE events RENAME TO elsewhere"))
    journal.append(Log(session=session.id, message="one"))
    with pytest.raises(LabError, match="the journal cannot be written"):
        await store.flushed()
    with store._engine.begin() as connection:
        connection.execute(text("ALTER TABLE elsewhere RENAME TO events"))
    journal.append(Log(session=session.id, message="two"))
    async with asyncio.timeout(10):
        await store.flushed()
    assert [getattr(event, "message", "") for event in store.events(session.id)] == ["one", "two"]
