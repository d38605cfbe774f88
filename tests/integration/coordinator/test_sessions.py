"""Which sessions are in memory."""

import asyncio
import gc
import weakref

from tests.integration.coordinator.conftest import EngineHarness

QUICK = """
class Quick(Test):
    async def run(self) -> None:
        pass
"""
WAITS = """
class Waits(Test):
    clients = {"alice": [Nio]}

    async def run(self, alice) -> None:
        pass
"""


async def test_only_a_session_that_has_not_ended_is_in_memory(bay: EngineHarness) -> None:
    waits = await bay.submit(WAITS)
    session = await bay.submit(QUICK)
    assert list(bay.engine.sessions) == [waits.id, session.id]
    await bay.ended(session)
    assert list(bay.engine.sessions) == [waits.id]
    gone = weakref.ref(session)
    del session
    for _ in range(3):
        await asyncio.sleep(0)
    gc.collect()
    assert gone() is None
