"""Which sessions stay in memory."""

import asyncio
import gc
import weakref

import pytest

from tests.closing import closed
from tests.integration.coordinator.conftest import EngineHarness
from trafficlight.coordinator.session import Session
from trafficlight.coordinator.sessions import LateFiles, Sessions
from trafficlight.results import writer
from trafficlight.results.events import Upload

QUICK = """
class Quick(Test):
    async def run(self) -> None:
        pass
"""
TWICE = """
from trafficlight import matrix


class Quick(Test):
    @matrix(n=[1, 2])
    async def run(self, n) -> None:
        pass
"""
WAITS = """
class Waits(Test):
    clients = {"alice": [Nio]}

    async def run(self, alice) -> None:
        pass
"""


async def ended(bay: EngineHarness, text: str = QUICK) -> Session:
    session = await bay.submit(text)
    await bay.ended(session)
    return session


async def test_the_latest_that_ended_are_kept(bay: EngineHarness) -> None:
    sessions = Sessions(2)
    waits = await bay.submit(WAITS)
    sessions.add(waits)
    known = [await ended(bay) for _ in range(4)]
    for session in known:
        sessions.add(session)
    sessions.drop_ended()
    assert list(sessions) == [waits.id, known[2].id, known[3].id]
    assert known[0].id not in sessions
    assert sessions[known[3].id] is known[3]


async def test_many_cases_count_for_many_sessions(bay: EngineHarness) -> None:
    sessions = Sessions(20, cases=3)
    large, small, last = await ended(bay, TWICE), await ended(bay), await ended(bay)
    for session in (large, small):
        sessions.add(session)
    sessions.drop_ended()
    assert len(sessions) == 2
    sessions.add(last)
    sessions.drop_ended()
    assert list(sessions) == [small.id, last.id]
    alone = Sessions(20, cases=1)
    alone.add(large)
    alone.drop_ended()
    assert not alone


async def test_a_session_that_is_dropped_is_gone(bay: EngineHarness) -> None:
    """Nothing of the engine holds it."""
    bay.engine.sessions._keep = 0
    session = await ended(bay)
    await closed()
    assert session.id not in bay.engine.sessions
    gone = weakref.ref(session)
    del session
    for _ in range(3):
        await asyncio.sleep(0)
    gc.collect()
    assert gone() is None


async def test_what_came_late_is_in_the_reports_of_a_session_that_is_dropped(
    bay: EngineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_REST", 1e6)
    monkeypatch.setattr(writer, "_LONGEST_REST", 60.0)
    session = await ended(bay)
    sessions = Sessions(0)
    sessions.add(session)
    late = LateFiles(session.folder.path.parent, sessions)
    bay.engine.journal.subscribe(late)
    (case,) = session.record.cases
    report = session.folder.path / "report.json"
    for name in ("first.log", "second.log"):
        path = f"clients/alice/{name}"
        bay.engine.journal.append(
            Upload(
                session=session.id,
                case=case,
                attempt=1,
                role="alice",
                name=name,
                path=path,
                size=1,
            )
        )
        if name == "first.log":  # the second one comes while the writer rests from this
            async with asyncio.timeout(20):
                while name not in report.read_text():
                    await asyncio.sleep(0.01)
    sessions.drop_ended()
    assert not sessions
    await late.close()
    assert "second.log" in report.read_text()
    await asyncio.to_thread(session.writer.settle)
