"""Which sessions stay in memory."""

import asyncio
import gc
import weakref

from tests.integration.coordinator.conftest import Bay
from trafficlight.coordinator.session import Session
from trafficlight.coordinator.sessions import Sessions

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


async def ended(bay: Bay, text: str = QUICK) -> Session:
    session = await bay.submit(text)
    await bay.ended(session)
    return session


async def test_the_latest_that_ended_are_kept(bay: Bay) -> None:
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


async def test_many_cases_count_for_many_sessions(bay: Bay) -> None:
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


async def test_a_session_that_is_dropped_is_gone(bay: Bay) -> None:
    """Nothing of the engine holds it."""
    bay.engine.sessions._keep = 0
    session = await ended(bay)
    async with asyncio.timeout(10):
        while session.id in bay.engine.sessions:
            await asyncio.sleep(0)
    gone = weakref.ref(session)
    del session
    for _ in range(3):
        await asyncio.sleep(0)
    gc.collect()
    assert gone() is None
