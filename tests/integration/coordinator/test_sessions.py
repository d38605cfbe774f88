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
from trafficlight.errors import NothingLeftError
from trafficlight.protocol import Registration
from trafficlight.results.record import ExitCode
from trafficlight.results.reports.summary import summary
from trafficlight.suites.selection import SessionRequest
from trafficlight.suites.yaml_files import ExpectedFailure

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
    async with asyncio.timeout(60):
        while gone() is not None:  # the tasks that ran it end in some turns of the loop
            await asyncio.sleep(0)
            gc.collect()


MIXED = """
class Works(Test):
    async def run(self) -> None:
        pass

class Fails(Test):
    async def run(self) -> None:
        assert False

class Unsupported(Test):
    servers = {"server": SynapseStable}

    async def run(self, server) -> None:
        pass
"""


@pytest.mark.parametrize("strict", [False, True])
async def test_a_session_that_ran_less_than_it_was_asked_to(tmp_path: Path, strict: bool) -> None:
    """The summary says so; it is an error if the session is strict."""
    path = tmp_path / "mixed_test.py"
    path.write_text(PRELUDE + MIXED)
    (tmp_path / "empty").mkdir()
    settings = Settings(
        results_folder=tmp_path / "results",
        workers=0,
        adapters={},
        strict=strict,
        server_overrides={"SynapseDevelop": {"server_name": "a", "cs_api": "http://a"}},
        server_providers={"SynapseStabel": "local", "*": "static", "MyOwn": "local"},
        client_limits={"Noi": 1, "HydrogenWebb": 1},
        share_servers=["SynapseStabel"],
    )
    expected = [ExpectedFailure(case=f"mixed_test.py::{name}", reason="known") for name in ("Fails", "Fials")]
    async with Lab.open(settings) as lab:
        request = SessionRequest(
            targets=[str(path), str(tmp_path / "empty")], expected_failures=expected, deflake=2
        )
        session = await lab.start(request)
        async with asyncio.timeout(60):
            await session.ended.wait()
    lines = summary(session.record, session.folder.path)
    assert lines[:5] == [
        f"warning  there is no test in {tmp_path / 'empty'}",
        "warning  the expected failure mixed_test.py::Fials matches no case",
        "warning  SERVER_PROVIDERS.SynapseStabel: no test has such a type; did you mean SynapseStable?",
        "warning  CLIENT_LIMITS.HydrogenWebb: no test has such a type; did you mean HydrogenWeb?",
        "warning  SHARE_SERVERS.SynapseStabel: no test has such a type; did you mean SynapseStable?",
    ]
    if strict:
        assert lines.pop(5) == "error  1 unsupported case and 5 warnings in a strict session"
    assert "skipped  1 case: " in lines[5]
    assert "SynapseStable" in lines[5]
    assert lines[-1].startswith(
        "1 success · 1 expected failure · 0 failure · 0 error · 1 skipped · 5 warnings"
    )
    assert session.exit_code == (ExitCode.LAB_ERROR if strict else ExitCode.SUCCESS)
    (fails,) = (case for case in session.record.cases.values() if case.class_name == "Fails")
    assert len(fails.attempts) == 1, "what is expected to fail is not tried again"


async def test_expected_failures_that_the_selection_leaves_out_are_not_unused(tmp_path: Path) -> None:
    path = tmp_path / "mixed_test.py"
    path.write_text(PRELUDE + MIXED)
    expected = [ExpectedFailure(case="mixed_test.py::Fails", reason="known")]
    async with Lab.open(Settings(results_folder=tmp_path / "results", workers=0, adapters={})) as lab:
        session = await lab.start(
            SessionRequest(targets=[str(path)], keyword="Works", expected_failures=expected, strict=True)
        )
        await session.ended.wait()
    assert session.record.warnings == ()
    assert session.exit_code == ExitCode.SUCCESS


async def test_the_list_of_a_session_in_which_nothing_failed(tmp_path: Path) -> None:
    failed = tmp_path / "rerun-failed.yml"
    failed.write_text("failed: []\n")
    async with Lab.open(Settings(results_folder=tmp_path / "results", workers=0, adapters={})) as lab:
        with pytest.raises(NothingLeftError, match="lists no failed case"):
            await lab.plan(SessionRequest(targets=[str(failed)]))


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
            async with asyncio.timeout(60):
                await session.ended.wait()
    assert not [
        one for one in caplog.records if one.levelno >= logging.ERROR
    ]  # the journal logs what readers raise
    assert session.exit_code == ExitCode.SUCCESS, session.record.cases
    (attempt,) = session.folder.path.glob("cases/*/*/*/attempt-1")
    assert {file.name for file in attempt.iterdir()} == {"log.debug", "log.info", "measurements.json"}
