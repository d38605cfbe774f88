"""Every deadline at its real length, on a clock that is turned by hand: who, doing what, since when."""

import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.hand_clock import HandClock, settled
from tests.integration.coordinator.conftest import open_bay
from trafficlight.coordinator.opening import SessionOptions
from trafficlight.protocol import Registration
from trafficlight.results.events import (
    ActionDelivered,
    ActionSent,
    CaseEnded,
    CaseState,
    Log,
    SessionEnded,
    State,
)

if TYPE_CHECKING:
    from tests.integration.coordinator.conftest import EngineHarness

DANCES = """
class Dances(Test):
    clients = {"alice": Nio}

    async def run(self, alice):
        await alice.perform("bow")
        await alice.perform("dance")
"""

SERVED = """
class Served(Test):
    servers = {"server": SynapseStable}

    async def run(self, server):
        pass
"""

WAITS = """
class Waits(Test):
    async def run(self):
        self.logger.info("running")
        await asyncio.Event().wait()
"""

LINGERS = """
class Lingers(Test):
    async def run(self):
        pass

    async def teardown(self):
        self.logger.info("tearing down")
        await asyncio.Event().wait()
"""


@pytest.fixture
def clock() -> HandClock:
    return HandClock(5000.0)


@pytest.fixture
async def bay(tmp_path: Path, clock: HandClock) -> AsyncIterator["EngineHarness"]:
    options: dict[str, Any] = {"action": 60.0, "case": 300.0, "prepare": 120.0, "teardown": 30.0}
    async with open_bay(tmp_path, clock=clock, queue=300.0, **options) as opened:
        yield opened


async def test_of_a_case_while_the_coordinator_stood_still(bay: "EngineHarness", clock: HandClock) -> None:
    session = await bay.submit(WAITS)
    await bay.until(Log, message="running")
    clock.stopped = 25.0
    await clock.turn(301)
    (case,) = (await bay.ended(session)).values()
    expected = "not done within 300 s, the case's deadline; the coordinator stood still for 25 s"
    assert (case.state, case.message) == (State.ERROR, expected)


async def test_quarantined_adapters_are_the_last_resort(bay: "EngineHarness", clock: HandClock) -> None:
    """Three cases that crashed a client cost all later ones of its type their verdicts."""

    async def plays(adapter: Any, answers: bool) -> None:
        while (message := await adapter.channel.poll(0)).action != "exit":
            if message.action != "idle":
                if answers:
                    adapter.channel.respond(message.id, {"response": message.action})
                else:
                    bay.engine.pool.lose(adapter, "crashed")
            await settled()

    nio = Registration(type="nio", instance="mine")
    session = await bay.submit(
        """
        class Crashes(Test):
            clients = {"alice": Nio}

            @matrix(n=range(8))
            async def run(self, alice, n):
                await alice.perform("crash" if n < 5 else "dance")
        """
    )
    for number in range(8):
        adapter = bay.engine.pool.register(f"a{number}", nio)
        assert adapter.quarantined is (3 <= number < 6), number
        playing = asyncio.create_task(plays(adapter, answers=number >= 5))
        await clock.turn(2)
        if adapter.quarantined:
            await clock.turn(7)
            assert not playing.done()
            await clock.turn(2)
        await playing
    cases = await bay.ended(session)
    assert [case.state for case in cases.values()] == [State.ERROR] * 5 + [State.SUCCESS] * 3


async def test_of_a_test_with_its_own(bay: "EngineHarness", clock: HandClock) -> None:
    session = await bay.submit(WAITS.replace("class Waits(Test):", "class Waits(Test):\n    timeout = 7"))
    await bay.until(Log, message="running")
    await clock.turn(6.9)
    assert not session.ended.is_set()
    await clock.turn(0.2)
    (case,) = (await bay.ended(session)).values()
    assert (case.state, case.message) == (State.ERROR, "not done within 7 s, the case's deadline")


async def test_of_an_action(bay: "EngineHarness", clock: HandClock) -> None:
    alice = bay.engine.pool.register("alice", Registration.model_validate({"type": "nio"}))
    session = await bay.submit(DANCES)
    await alice.channel.poll(20)
    alice.channel.respond(None, {"response": "bowed"})
    await bay.until(ActionSent, action="dance")
    await alice.channel.poll(20)
    await clock.turn(59)
    assert not session.ended.is_set()
    await clock.turn(1)
    case = (await bay.ended(session))["Dances[alice=Nio]"]
    assert case.state is State.ERROR
    assert case.message == (
        "alice: did not answer dance within 60 s (before that: bow (answered after 0.0 s))"
    )


async def test_of_an_action_that_the_adapter_only_asks_for_again(
    bay: "EngineHarness", clock: HandClock
) -> None:
    bay.play_once(lambda action, _: {"response": "bowed"} if action == "bow" else None)
    session = await bay.submit(DANCES)
    await bay.until(ActionDelivered, action="dance")
    await clock.turn(9)
    assert not session.ended.is_set()
    await clock.turn(3)
    case = (await bay.ended(session))["Dances[alice=Nio]"]
    assert case.state is State.ERROR
    assert case.message == (
        "alice: dance: asked again 10 times without answering: it does not seem to know the action"
    )


async def test_of_an_adapter_that_is_gone(bay: "EngineHarness", clock: HandClock) -> None:
    alice = bay.engine.pool.register("alice", Registration.model_validate({"type": "nio"}))
    session = await bay.submit(DANCES)
    await alice.channel.poll(20)
    alice.channel.respond(None, {"response": "bowed"})
    # It fetches the second action, and is never heard of again: its deadline is the action's.
    await bay.until(ActionSent, action="dance")
    await clock.turn(61)
    case = (await bay.ended(session))["Dances[alice=Nio]"]
    assert case.state is State.ERROR
    assert case.message.startswith("alice: did not fetch dance within 60 s")


async def test_of_an_adapter_without_a_case(bay: "EngineHarness", clock: HandClock) -> None:
    idle = bay.engine.pool.register("idle", Registration.model_validate({"type": "nio"}))
    await clock.turn(60)
    assert bay.engine.pool.free == [idle]
    await clock.turn(2)
    assert bay.engine.pool.free == []
    assert idle.reason == "gave no sign of life for 61 s; no action was sent to it"


async def test_of_a_case(bay: "EngineHarness", clock: HandClock) -> None:
    session = await bay.submit(WAITS)
    await bay.until(Log, message="running")
    await clock.turn(299)
    assert not session.ended.is_set()
    await clock.turn(1)
    case = (await bay.ended(session))["Waits"]
    assert (case.state, case.message) == (State.ERROR, "not done within 300 s, the case's deadline")


async def test_of_preparing(bay: "EngineHarness", clock: HandClock) -> None:
    bay.provider.hangs = True
    session = await bay.submit(SERVED)
    await bay.until(CaseState, state="preparing")
    await bay.provider.hanging.wait()
    await clock.turn(120)
    case = (await bay.ended(session))["Served[server=SynapseStable]"]
    assert (case.state, case.message) == (State.ERROR, "the homeservers did not answer within 120 s")


async def test_of_the_tear_down(bay: "EngineHarness", clock: HandClock) -> None:
    session = await bay.submit(LINGERS)
    await bay.until(Log, message="tearing down")
    await clock.turn(30)
    case = (await bay.ended(session))["Lingers"]
    assert (case.state, case.message) == (State.ERROR, "the tear-down was not done within 30 s")


async def test_of_waiting(bay: "EngineHarness", clock: HandClock) -> None:
    session = await bay.submit(DANCES)
    await clock.turn(299)
    assert not session.ended.is_set()
    await clock.turn(2)
    case = (await bay.ended(session))["Dances[alice=Nio]"]
    assert case.state is State.ERROR
    assert case.message == "timed out after 300 s: needs 1 x Nio (0 free, 0 registered)"


async def test_of_a_session(bay: "EngineHarness", clock: HandClock) -> None:
    session = await bay.submit(WAITS, SessionOptions(deadline=1000.0))
    await bay.until(Log, message="running")
    session_of_others = await bay.submit(DANCES, SessionOptions(deadline=None))
    await clock.turn(200)
    assert not session.ended.is_set()
    bay.engine.cancel(session_of_others, "not needed")
    # The case has a deadline of its own, which comes first; a session of waiting cases has none.
    await clock.turn(100)
    assert (await bay.ended(session))["Waits"].state is State.ERROR
    late = await bay.submit(DANCES, SessionOptions(deadline=100.0))
    await clock.turn(102)
    await bay.ended(late)
    assert late.stopped == "the session took longer than 100 s, its deadline"


async def test_the_engine_reports_stalls(
    bay: "EngineHarness", clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    await bay.submit(DANCES)
    await clock.turn(70)
    assert bay.engine.stalled.seconds > 60
    (record,) = [record for record in caplog.records if "no case has run" in record.message]
    assert record.message.endswith("while 1 case waits: needs 1 x Nio (0 free, 0 registered)")


async def test_of_the_grace_period(bay: "EngineHarness", clock: HandClock) -> None:
    session = await bay.submit(WAITS)
    await bay.until(Log, message="running")
    stopping = asyncio.create_task(bay.engine.stop("enough", grace=10))
    await clock.turn(9)
    assert not session.ended.is_set()
    await clock.turn(1)
    await stopping
    case = (await bay.ended(session))["Waits"]
    assert case.message == "cancelled while running: enough"


async def test_of_waiting_where_nobody_else_is_expected(bay: "EngineHarness", clock: HandClock) -> None:
    session = await bay.submit(DANCES)
    await clock.turn(200)
    bay.engine.adapters_deadline = lambda: 30
    await clock.turn(28)
    assert not session.ended.is_set(), "it counts from the moment in which that was known"
    await clock.turn(4)
    case = (await bay.ended(session))["Dances[alice=Nio]"]
    assert case.message == "timed out after 30 s: needs 1 x Nio (0 free, 0 registered)"


async def test_of_waiting_counts_once_adapters_are_started_again(
    bay: "EngineHarness", clock: HandClock
) -> None:
    bay.engine.adapters_deadline = lambda: 30
    bay.engine.starting = lambda: {"nio"}
    bay.engine.programs_failed = lambda: True  # that of another type
    session = await bay.submit(DANCES)
    await clock.turn(200)
    bay.engine.programs_failed = lambda: False
    bay.engine.starting = lambda: {"element-web"}
    await clock.turn(28)
    assert not session.ended.is_set()
    await clock.turn(4)
    case = (await bay.ended(session))["Dances[alice=Nio]"]
    assert case.message == "timed out after 30 s: needs 1 x Nio (0 free, 0 registered)"


async def test_of_waiting_for_an_adapter_that_never_starts(bay: "EngineHarness", clock: HandClock) -> None:
    bay.engine.adapters_deadline = lambda: 30
    bay.engine.starting = lambda: {"nio"}
    session = await bay.submit(DANCES)
    await clock.turn(302)
    case = (await bay.ended(session))["Dances[alice=Nio]"]
    assert case.message == "timed out after 300 s: needs 1 x Nio (0 free, 0 registered)"


async def test_of_waiting_does_not_count_while_drivers_are_built(
    bay: "EngineHarness", clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    bay.engine.adapters_deadline = lambda: math.inf
    session = await bay.submit(DANCES)
    await clock.turn(400)
    assert not [record for record in caplog.records if "no case has run" in record.message]
    bay.engine.adapters_deadline = lambda: 300
    await clock.turn(298)
    assert not [event for event in bay.events if event.kind == CaseEnded.kind], (
        "it counts from the end of the build"
    )
    await clock.turn(4)
    case = (await bay.ended(session))["Dances[alice=Nio]"]
    assert case.message == "timed out after 300 s: needs 1 x Nio (0 free, 0 registered)"


async def test_of_waiting_ends_with_a_session_that_was_cancelled(
    bay: "EngineHarness", clock: HandClock
) -> None:
    """What never began is not run; it does not become an error while the rest is called off."""
    session = await bay.submit(LINGERS + DANCES)
    await bay.until(Log, message="tearing down")
    bay.engine.cancel(session, "not needed")
    await clock.turn(400)
    cases = await bay.ended(session)
    assert cases["Dances[alice=Nio]"].state is State.WAITING
    kinds = [event.kind for event in bay.events]
    assert CaseEnded.kind not in kinds[kinds.index(SessionEnded.kind) :]
