"""Which sessions are in memory, and what they write when."""

import asyncio
import gc
import logging
import weakref
from pathlib import Path

import blockbuster
import pytest

from tests.integration.coordinator.conftest import PRELUDE, EngineHarness
from trafficlight.config import Settings
from trafficlight.coordinator.lab import Lab
from trafficlight.protocol import Registration
from trafficlight.results.record import ExitCode
from trafficlight.suites.selection import SessionRequest

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


ASKS = """
class Asks(Test):
    clients = {"alice": [Nio]}

    async def run(self, alice) -> None:
        self.record("answers", 1)
        await alice.perform("one")
"""


async def test_a_session_writes_nothing_but_its_log_on_the_event_loop(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "asks_test.py"
    path.write_text(PRELUDE + ASKS)
    settings = Settings(results_folder=tmp_path / "results", workers=1, adapters={}, grace=0.1)
    async with Lab.open(settings, resumable=True) as lab:
        with blockbuster.blockbuster_ctx(["trafficlight.results"]):
            session = await lab.start(SessionRequest(targets=[str(path)]))
            alice = lab.engine.pool.register("alice", Registration.model_validate({"type": "nio"}))
            assert (await alice.channel.poll(20)).action == "one"
            alice.channel.respond(None, {"response": "done"})
            async with asyncio.timeout(20):
                await session.ended.wait()
    assert not [
        one for one in caplog.records if one.levelno >= logging.ERROR
    ]  # the journal logs what readers raise
    assert session.exit_code == ExitCode.SUCCESS, session.record.cases
    (attempt,) = session.folder.path.glob("cases/*/*/*/attempt-1")
    assert {file.name for file in attempt.iterdir()} == {"log.debug", "log.info", "measurements.json"}
