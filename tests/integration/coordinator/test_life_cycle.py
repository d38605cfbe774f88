"""How sessions begin, go on and end; nothing waits for a sweep, and nothing is left behind."""

import asyncio
import functools
from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.hand_clock import NOON, HandClock
from tests.integration.coordinator.conftest import open_bay
from trafficlight.coordinator.dask.machines import RemoteAttempt
from trafficlight.coordinator.opening import SessionOptions
from trafficlight.coordinator.scheduling.scheduler import Limits
from trafficlight.coordinator.workers.pool import WorkerPool
from trafficlight.errors import DeployError
from trafficlight.protocol import Registration
from trafficlight.results.case import Outcome
from trafficlight.results.events import (
    ActionSent,
    AdapterLeased,
    AdapterRegistered,
    CaseEnded,
    CaseState,
    CaseWaits,
    Log,
    SessionEnded,
    State,
)
from trafficlight.results.record import ExitCode
from trafficlight.server_types import HomeServerSpec
from trafficlight.worker.assignment import Assignment, CaseLink, Verdict

if TYPE_CHECKING:
    from tests.integration.coordinator.conftest import EngineHarness

MakeBay = Callable[..., Any]

DANCES = """
class Dances(Test):
    clients = {"alice": Nio}

    async def run(self, alice):
        await alice.perform("dance")
"""

BLOCKED = """
class Blocked(Test):
    clients = {"alice": Nio}
    servers = {"server": SynapseStable}

    async def run(self, alice, server):
        self.logger.info("running")
        await asyncio.sleep(3600)
"""

FLAKY = """
class Flaky(Test):
    async def run(self):
        assert self.case.attempt >= 3, self.case.attempt
"""


def many(count: int) -> str:
    return "\n".join(
        f"class Many{n}(Test):\n    clients = {{'alice': Nio}}\n\n    async def run(self, alice):\n"
        f"        await alice.perform('dance')\n"
        for n in range(count)
    )


async def test_one_looping_adapter_plays_six_cases_without_a_pause(bay: "EngineHarness") -> None:
    session = await bay.submit(many(6))
    bay.player()
    cases = await bay.ended(session, 10)
    assert [case.state for case in cases.values()] == [State.SUCCESS] * 6
    kinds = [event.kind for event in bay.events]
    after = [later for kind, later in pairwise(kinds) if kind is AdapterRegistered.kind]
    assert after.count(AdapterLeased.kind) >= 6, "a registration starts the case that waits for it"
    assert session.record.exit_code == ExitCode.SUCCESS


async def test_fifty_two_client_cases(bay: "EngineHarness") -> None:
    text = (
        many(50)
        .replace("{'alice': Nio}", "{'alice': Nio, 'bob': Nio}")
        .replace("self, alice", "self, alice, bob")
    )
    for _ in range(8):
        bay.player()
    cases = await bay.ended(await bay.submit(text), 20)
    assert all(case.state is State.SUCCESS for case in cases.values())


async def test_a_case_without_clients_needs_nobody(bay: "EngineHarness") -> None:
    cases = await bay.ended(await bay.submit("class Plain(Test):\n    async def run(self):\n        pass"))
    assert cases["Plain"].state is State.SUCCESS


async def test_limits_are_kept(bay_with: MakeBay) -> None:
    bay = await bay_with(limits=Limits(homeservers=2))
    text = "\n".join(
        f"class S{n}(Test):\n    servers = {{'server': SynapseStable}}\n\n"
        "    async def run(self, server):\n        await asyncio.sleep(0.01)\n"
        for n in range(6)
    )
    cases = await bay.ended(await bay.submit(text))
    assert all(case.state is State.SUCCESS for case in cases.values())
    assert bay.provider.most_at_once == 2


class TestWaiting:
    async def test_every_case_says_why(self, bay: "EngineHarness") -> None:
        session = await bay.submit(many(2))
        await bay.until(CaseWaits)
        reasons = {case.reason for case in session.record.cases.values()}
        assert reasons == {"needs 1 x Nio (0 free, 0 registered)"}

    async def test_a_case_that_nobody_can_play_ends_as_an_error(self, bay_with: MakeBay) -> None:
        bay = await bay_with(queue=0.5)
        bay.player()
        session = await bay.submit(
            many(1) + "class Never(Test):\n    clients = {'a': ElementAndroid}\n"
            "    async def run(self, a):\n        pass"
        )
        cases = await bay.ended(session)
        assert cases["Many0[alice=Nio]"].state is State.SUCCESS
        never = cases["Never[a=ElementAndroid]"]
        assert never.state is State.ERROR
        assert never.message == "timed out after 0.5 s: needs 1 x ElementAndroid (0 free, 0 registered)"

    async def test_also_when_there_are_some_but_too_few(self, bay_with: MakeBay) -> None:
        bay = await bay_with(queue=0.5)
        bay.engine.pool.register("only", Registration.model_validate({"type": "nio"}))
        text = (
            "class Pair(Test):\n    clients = {'a': Nio, 'b': Nio}\n"
            "    async def run(self, a, b):\n        pass"
        )
        cases = await bay.ended(await bay.submit(text))
        assert (
            cases["Pair[a=Nio,b=Nio]"].message
            == "timed out after 0.5 s: needs 2 x Nio (1 free, 1 registered)"
        )

    async def test_nothing_is_kept_back_for_ever(
        self, bay_with: MakeBay, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two roles and one adapter: the others go on, though no event tells that the keeping has ended."""
        monkeypatch.setattr("trafficlight.coordinator.scheduling.scheduler._RETURN", 0.3)
        bay = await bay_with(limits=Limits(aging=0.0))
        pair = (
            "class Pair(Test):\n    clients = {'a': Nio, 'b': Nio}\n"
            "    async def run(self, a, b):\n        pass\n"
        )
        session = await bay.submit(pair + many(3))
        bay.player()
        for number in range(3):
            await bay.until(CaseEnded, case=f"Many{number}[")
        bay.engine.cancel(session, "enough")
        cases = await bay.ended(session)
        assert cases.pop("Pair[a=Nio,b=Nio]").state is not State.SUCCESS
        assert {case.state for case in cases.values()} == {State.SUCCESS}


class TestRetries:
    async def test_a_flaky_case_is_tried_again(self, bay: "EngineHarness") -> None:
        session = await bay.submit(FLAKY, SessionOptions(deflake=2))
        case = (await bay.ended(session))["Flaky"]
        assert [attempt.state for attempt in case.attempts] == [State.FAILURE, State.FAILURE, State.SUCCESS]
        assert case.state is State.SUCCESS

    async def test_no_more_often_than_asked(self, bay: "EngineHarness") -> None:
        case = (await bay.ended(await bay.submit(FLAKY, SessionOptions(deflake=1))))["Flaky"]
        assert [attempt.state for attempt in case.attempts] == [State.FAILURE] * 2
        assert case.state is State.FAILURE

    async def test_a_skip_is_not_tried_again(self, bay: "EngineHarness") -> None:
        text = "class Skips(Test):\n    async def run(self):\n        self.skip('no')"
        case = (await bay.ended(await bay.submit(text, SessionOptions(deflake=3))))["Skips"]
        assert len(case.attempts) == 1

    @pytest.mark.parametrize(("errors", "states"), [(1, "error error"), (2, "error error failure")])
    async def test_errors_are_tried_again_and_failures_are_not(
        self, bay: "EngineHarness", errors: int, states: str
    ) -> None:
        text = """
        class Shaky(Test):
            async def run(self):
                assert self.case.attempt != 3
                if self.case.attempt < 3:
                    1 / 0
        """
        case = (await bay.ended(await bay.submit(text, SessionOptions(retry_errors=errors))))["Shaky"]
        assert [attempt.state for attempt in case.attempts] == states.split()

    async def test_a_case_that_its_adapter_never_began_goes_to_another(self, bay_with: MakeBay) -> None:
        """A laptop fell asleep while it waited for its case."""
        bay = await bay_with(action=0.1)
        bay.engine.pool.register("asleep", Registration(type="nio"))
        session = await bay.submit(DANCES)
        await bay.until(ActionSent)
        bay.player()
        case = (await bay.ended(session))["Dances[alice=Nio]"]
        assert [attempt.state for attempt in case.attempts] == [State.ERROR, State.SUCCESS]
        assert (case.outcome, case.attempts[0].message) == (
            Outcome.FLAKY,
            "alice: did not fetch dance within 0.1 s",
        )

    @pytest.mark.parametrize("begins", [True, False])
    async def test_but_only_once_and_only_if_it_did_not_begin_it(
        self, bay_with: MakeBay, begins: bool
    ) -> None:
        bay = await bay_with(action=0.1)
        for uuid in "abc":
            bay.engine.pool.register(uuid, Registration(type="nio"))
        session = await bay.submit(DANCES)
        if begins:
            await bay.until(ActionSent)
            (one,) = (adapter for adapter in bay.engine.pool if adapter.cases)
            await one.channel.poll(20)
        (case,) = (await bay.ended(session)).values()
        assert [attempt.state for attempt in case.attempts] == [State.ERROR] * (1 if begins else 2)


async def test_two_failures_can_end_a_session(bay_with: MakeBay) -> None:
    bay = await bay_with(limits=Limits(cases=1))
    text = "\n".join(
        f"class T{n}(Test):\n    async def run(self):\n        assert {n} in (0, 2)\n" for n in range(5)
    )
    session = await bay.submit(text, SessionOptions(max_failures=2))
    cases = await bay.ended(session)
    states = [State.SUCCESS, State.FAILURE, State.SUCCESS, State.FAILURE, State.WAITING]
    assert [case.state for case in cases.values()] == states
    assert session.stopped.endswith("ended in failure and 2 failures were to end the session")


async def test_the_first_failure_can_end_a_session(bay_with: MakeBay) -> None:
    bay = await bay_with(limits=Limits(cases=1))
    text = "\n".join(
        f"class T{n}(Test):\n    async def run(self):\n        assert {n} != 1\n" for n in range(4)
    )
    session = await bay.submit(text, SessionOptions(max_failures=1))
    cases = await bay.ended(session)
    assert [case.state for case in cases.values()] == [
        State.SUCCESS,
        State.FAILURE,
        State.WAITING,
        State.WAITING,
    ]


async def test_the_first_failure_ends_cases_that_wait_for_a_worker(bay_with: MakeBay) -> None:
    """Of twenty cases eight ran: seven were waiting for a worker when the first one failed."""
    waiting, waited = asyncio.Event(), []

    async def execute(assignment: Assignment, link: CaseLink, began: Callable[[], None]) -> Verdict:
        if assignment.case.class_name == "Waits":
            waiting.set()
            try:
                await asyncio.Event().wait()
            finally:
                waited.append(assignment.case.id)
        await waiting.wait()
        began()
        return Verdict(State.FAILURE, "wrong")

    bay = await bay_with(execute)
    text = "".join(f"class {name}(Test):\n    async def run(self): ...\n" for name in ("Fails", "Waits"))
    session = await bay.submit(text, SessionOptions(max_failures=1))
    cases = await bay.ended(session)
    assert [case.outcome for case in cases.values()] == [Outcome.FAILURE, Outcome.NOT_RUN]
    assert "the first failure was to end the session" in cases["Waits"].reason
    assert waited


async def test_the_time_of_a_case_begins_when_it_has_a_worker(bay_with: MakeBay) -> None:
    clock = HandClock()

    async def execute(assignment: Assignment, link: CaseLink, began: Callable[[], None]) -> Verdict:
        clock.elapsed += 100
        began()
        clock.elapsed += 2
        return Verdict(State.SUCCESS)

    bay = await bay_with(execute, clock=clock)
    session = await bay.submit("class Plain(Test):\n    async def run(self): ...\n")
    (attempt,) = (await bay.ended(session))["Plain"].attempts
    assert attempt.seconds == 2
    assert attempt.running_since == NOON + timedelta(seconds=100)


class TestEnding:
    async def test_a_stop_calls_off_what_runs_and_leaves_nothing(self, bay: "EngineHarness") -> None:
        player = bay.player()
        session = await bay.submit(BLOCKED + many(2))
        await bay.until(Log, message="running")
        await bay.engine.stop("the operator wants to go home", grace=0.05)
        cases = await bay.ended(session)
        blocked = cases["Blocked[alice=Nio,server=SynapseStable]"]
        assert blocked.state is State.ERROR
        assert blocked.message == "cancelled while running: the operator wants to go home"
        assert player.exits
        assert not bay.provider.running

    async def test_what_ends_within_the_grace_period_keeps_its_verdict(self, bay: "EngineHarness") -> None:
        text = (
            "class Slow(Test):\n    async def run(self):\n"
            "        self.logger.info('running'); await asyncio.sleep(0.1)"
        )
        session = await bay.submit(text)
        await bay.until(Log, message="running")
        await bay.engine.stop("enough", grace=20)
        assert (await bay.ended(session))["Slow"].state is State.SUCCESS

    async def test_one_session_can_be_cancelled(self, bay: "EngineHarness") -> None:
        bay.player()
        blocked = await bay.submit(BLOCKED + many(1))
        await bay.until(Log, message="running")
        bay.engine.cancel(blocked, "not needed any more")
        other = await bay.submit("class Other(Test):\n    async def run(self):\n        pass")
        assert (await bay.ended(other))["Other"].state is State.SUCCESS
        states = {name: case.state for name, case in (await bay.ended(blocked)).items()}
        assert states["Blocked[alice=Nio,server=SynapseStable]"] is State.ERROR

    async def test_a_case_that_is_called_off_before_it_began(self, bay: "EngineHarness") -> None:
        """Cancelled in the very turn of the loop in which it was started."""
        session = await bay.submit("class Plain(Test):\n    async def run(self):\n        pass")
        while not session.running and not session.ended.is_set():
            await asyncio.sleep(0)
        bay.engine.cancel(session, "at once")
        assert (await bay.ended(session))["Plain"].state is State.ERROR

    async def test_in_preparation(self, bay: "EngineHarness") -> None:
        bay.provider.hangs = True
        bay.player()
        session = await bay.submit(BLOCKED)
        await bay.until(CaseState, state="preparing")
        bay.engine.cancel(session, "enough")
        cases = await bay.ended(session)
        assert [case.state for case in cases.values()] == [State.ERROR]


class TestWorkers:
    """The same, with test code in processes of its own."""

    async def test_a_blocking_test_delays_no_other(self, bay_with: MakeBay, tmp_path: Path) -> None:
        released = tmp_path / "released"
        async with WorkerPool(2) as workers:
            bay = await bay_with(workers.execute)
            bay.player()
            blocking = await bay.submit(
                "class Blocks(Test):\n    async def run(self):\n        self.logger.info('running')\n"
                f"        while not os.path.exists({str(released)!r}): time.sleep(0.05)"
            )
            await bay.until(Log, message="running")
            cases = await bay.ended(await bay.submit(many(5)))
            assert all(case.state is State.SUCCESS for case in cases.values())
            assert not blocking.ended.is_set(), "five cases have ended while one blocks its process"
            released.touch()
            await bay.ended(blocking)
            await bay.engine.stop("done")

    async def test_called_off_while_it_blocks(self, bay_with: MakeBay) -> None:
        async with WorkerPool(1) as workers:
            bay = await bay_with(workers.execute, teardown=0.1)
            text = BLOCKED.replace("await asyncio.sleep(3600)", "time.sleep(3600)")
            bay.player()
            session = await bay.submit(text)
            await bay.until(Log, message="running")
            bay.engine.cancel(session, "enough")
            (case,) = (await bay.ended(session)).values()
            assert case.state is State.ERROR
            assert not bay.provider.running
            await bay.engine.stop("done")

    @pytest.mark.parametrize("end", ["os._exit(3)", "ctypes.string_at(0)"])
    async def test_a_crash_gives_everything_back(self, bay_with: MakeBay, end: str) -> None:
        async with WorkerPool(1) as workers:
            bay = await bay_with(workers.execute)
            player = bay.player()
            (case,) = (
                await bay.ended(await bay.submit(BLOCKED.replace("await asyncio.sleep(3600)", end)))
            ).values()
            assert case.state is State.ERROR
            assert case.message.startswith("the test ended its process: ")
            assert player.exits
            assert not bay.provider.running
            await bay.engine.stop("done")


@pytest.mark.parametrize(("cancelled", "code"), [(False, ExitCode.LAB_ERROR), (True, ExitCode.INTERRUPTED)])
async def test_sessions_are_closed_when_the_engine_itself_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cancelled: bool, code: ExitCode
) -> None:
    def fails() -> Limits:
        raise OSError("no more files")

    with pytest.raises(ExceptionGroup):
        async with open_bay(tmp_path) as bay:
            session = await bay.submit(
                """
                class Waits(Test):
                    async def run(self):
                        self.logger.info("running")
                        await asyncio.Event().wait()

                class NeverStarts(Test):
                    clients = {"alice": Nio}

                    async def run(self, alice):
                        pass
                """
            )
            await bay.until(Log, message="running")
            if cancelled:
                session.cancel("not needed")
            monkeypatch.setattr(bay.engine, "_schedule", lambda _: fails())
            bay.engine.wake()
            cases = await bay.ended(session)
    (ended,) = [event for event in bay.events if isinstance(event, SessionEnded)]
    assert (ended.exit_code, ended.interrupted) == (code, cancelled)
    why = "not needed" if cancelled else "the coordinator failed"
    assert cases["Waits"].message == f"cancelled while running: {why}"
    assert cases["NeverStarts[alice=Nio]"].state is State.WAITING


TWO_KINDS = """
from trafficlight.server_types import Dendrite


class Quick(Test):
    servers = {"server": SynapseStable}

    async def run(self, server):
        pass


class Slow(Test):
    servers = {"server": Dendrite}

    async def run(self, server):
        pass
"""


@pytest.mark.parametrize("fails", [False, True])
async def test_a_homeserver_that_is_slow_to_build_holds_up_its_own_cases_only(
    bay: "EngineHarness", fails: bool
) -> None:
    built = asyncio.Event()

    async def prepare(spec: HomeServerSpec) -> None:
        if spec.type_name == "Dendrite":
            await built.wait()
            if fails:
                raise DeployError("go build failed")

    session = await bay.submit(TWO_KINDS, prepare=prepare)
    await bay.until(CaseEnded, case="Quick")
    await bay.until(CaseWaits, reason="Dendrite is being prepared")
    built.set()
    cases = await bay.ended(session)
    slow = cases["Slow[server=Dendrite]"]
    if fails:
        assert (slow.state, slow.message) == (State.ERROR, "go build failed")
    else:
        assert slow.state is State.SUCCESS


async def test_a_session_that_is_cancelled_stops_to_build(bay: "EngineHarness") -> None:
    stopped = asyncio.Event()

    async def prepare(spec: HomeServerSpec) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    session = await bay.submit(TWO_KINDS.replace("Dendrite", "SynapseStable"), prepare=prepare)
    bay.engine.cancel(session, "enough")
    await bay.ended(session)
    assert stopped.is_set()


async def test_a_case_that_is_cancelled_before_a_further_attempt_keeps_its_verdict(
    bay: "EngineHarness",
) -> None:
    session = await bay.submit(
        """
        class Skips(Test):
            async def run(self):
                self.skip("no camera")

        class Lacks(Test):
            clients = {"alice": Nio}

            async def run(self, alice):
                pass

        class Open(Test):
            clients = {"alice": Nio}

            async def run(self, alice):
                pass
        """
    )
    await bay.until(CaseEnded, case="Skips")
    cases = {id.partition("::")[2].partition("[")[0]: case for id, case in session.record.cases.items()}
    session.end_waiting(cases["Lacks"].id, State.ERROR, "timed out")
    for case in (cases["Skips"], cases["Lacks"]):
        before = case.state, case.message, case.skip_type, case.outcome
        assert await bay.engine.rerun_case(session, case.id, "again")
        assert case.state is State.WAITING
        assert bay.engine.cancel_case(session, case.id, "not needed")
        assert (case.state, case.message, case.skip_type, case.outcome) == before
    bay.engine.cancel_case(session, cases["Open"].id, "enough")
    await bay.ended(session)
    assert cases["Skips"].outcome is Outcome.SKIPPED
    assert cases["Open"].outcome is Outcome.NOT_RUN
    assert session.exit_code is ExitCode.LAB_ERROR


@pytest.mark.parametrize("at_once", [False, True])
async def test_only_what_ends_a_case_at_once_ends_its_tear_down(bay: "EngineHarness", at_once: bool) -> None:
    session = await bay.submit(
        """
        class Hangs(Test):
            clients = {"alice": Nio}

            async def run(self, alice):
                self.alice = alice
                await alice.perform("hang")

            async def teardown(self):
                await self.alice.perform("leave")
                self.logger.info("torn down")
        """
    )

    def behaves(action: str, _: Any) -> dict[str, Any] | None:
        (case,) = session.record.cases
        if action == "hang":
            bay.engine.cancel_case(session, case, "enough")
            return None
        # Its tear-down waits for the answer.
        bay.engine.cancel(session, "enough")
        bay.engine.cancel(session, "really")
        if at_once:
            bay.engine.cancel_running(at_once=True)
            return None
        return {"response": action}

    bay.play_once(behaves)
    (case,) = (await bay.ended(session)).values()
    assert (case.state, case.message.partition(";")[0]) == (State.ERROR, "cancelled while running: enough")
    assert any(isinstance(event, Log) and event.message == "torn down" for event in bay.events) is not at_once


class NoMachine:
    """Takes attempts, and begins none."""

    def __init__(self) -> None:
        self.taken = asyncio.Event()

    async def run(self, attempt: RemoteAttempt) -> Verdict:
        self.taken.set()
        await asyncio.Event().wait()
        raise AssertionError


async def test_a_case_that_is_cancelled_before_a_machine_begins_it_has_no_attempt(tmp_path: Path) -> None:
    machines: Any = NoMachine()
    async with open_bay(tmp_path, elsewhere=functools.partial(RemoteAttempt, machines=machines)) as bay:
        session = await bay.submit("class Plain(Test):\n    async def run(self):\n        pass")
        await machines.taken.wait()
        (case,) = session.record.cases
        assert bay.engine.cancel_case(session, case, "not needed")
        (ended,) = (await bay.ended(session)).values()
    assert (ended.state, ended.message, ended.outcome) == (State.SKIPPED, "not needed", Outcome.NOT_RUN)
    assert ended.attempts == []
