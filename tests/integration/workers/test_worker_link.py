"""Test code in a worker: what it reaches from there, what it leaves there, and how it is called off."""

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.hand_clock import HandClock
from tests.integration.workers.conftest import exited
from trafficlight.coordinator.workers.pool import WorkerPool
from trafficlight.errors import ActionError, AdapterError, UnsupportedError
from trafficlight.protocol import JsonObject
from trafficlight.results.events import Attachment, Log, Measurement, State
from trafficlight.worker.assignment import Verdict
from trafficlight.worker.messages import MAX_FRAME

if TYPE_CHECKING:
    from tests.integration.workers.conftest import FakeLink, Fine, OpenPool, WorkerHarness


class TestLink:
    async def test_everything_arrives(
        self, pool: WorkerPool, bench: "WorkerHarness", link: "FakeLink"
    ) -> None:
        body = """
        async def run(self, alice):
            assert (await alice.perform("dance", steps=3)) == {"response": "dance"}
            assert str(await alice.uploaded("a.png")) == "alice/a.png"
            self.record("delay", 1.5, "ms")
            self.attach("a.txt", b"abc")
            self.logger.warning("careful")
        """
        verdict = await pool.execute(bench.assignment(body, clients=("alice",)), link)
        assert verdict == Verdict(State.SUCCESS)
        assert link.performed == [("alice", "dance", {"steps": 3})]
        assert link.emitted == [
            Measurement(name="delay", value=1.5, unit="ms"),
            Attachment(name="a.txt", path="attachments/a.txt", size=3, media_type="text/plain"),
            Log(level="warning", logger="test", message="careful"),
        ]

    async def test_set_up_and_test_each_take_the_roles_that_they_need(
        self, pool: WorkerPool, bench: "WorkerHarness", link: "FakeLink"
    ) -> None:
        body = """
        async def setup(self, alice: ElementCallClient):
            self.alice = alice

        async def run(self, bob):
            assert (self.alice.name, bob.name) == ("alice", "bob")
            assert type(self.alice) is ElementCallClient
        """
        verdict = await pool.execute(bench.assignment(body, clients=("alice", "bob")), link)
        assert verdict == Verdict(State.SUCCESS)

    async def test_threads_of_a_test_may_log(
        self, pool: WorkerPool, bench: "WorkerHarness", link: "FakeLink"
    ) -> None:
        body = """
        async def run(self):
            def log(thread):
                for number in range(100):
                    self.logger.info("x" * 9000)
                self.record("lines", number, "")
            await asyncio.gather(*(asyncio.to_thread(log, thread) for thread in range(8)))
            log("this thread")
        """
        verdict = await pool.execute(bench.assignment(body), link)
        assert verdict == Verdict(State.SUCCESS)
        assert len(link.emitted) == 909
        assert link.values == [99.0] * 9

    async def test_actions_at_the_same_time(
        self, pool: WorkerPool, bench: "WorkerHarness", link: "FakeLink"
    ) -> None:
        together = asyncio.Barrier(2)

        async def answer(role: str, action: str, data: JsonObject) -> JsonObject:
            await together.wait()
            return {"who": role}

        link.answer = answer
        body = """
        async def run(self, alice, bob):
            answers = await asyncio.gather(alice.perform("wait"), bob.perform("wait"))
            assert answers == [{"who": "alice"}, {"who": "bob"}], answers
        """
        verdict = await pool.execute(bench.assignment(body, clients=("alice", "bob")), link)
        assert verdict == Verdict(State.SUCCESS)

    @pytest.mark.parametrize(
        ("error", "state", "message"),
        [
            (ActionError("no room", role="alice", action="x"), State.FAILURE, "alice: x: no room"),
            (AdapterError("gone", role="alice"), State.ERROR, "alice: gone"),
            (UnsupportedError("cannot pause"), State.SKIPPED, "cannot pause"),
            (
                UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"),
                State.ERROR,
                "UnicodeDecodeError: 'utf-8' codec",
            ),
        ],
    )
    async def test_errors_come_through(
        self,
        pool: WorkerPool,
        bench: "WorkerHarness",
        link: "FakeLink",
        error: Exception,
        state: State,
        message: str,
    ) -> None:
        async def answer(role: str, action: str, data: JsonObject) -> JsonObject:
            raise error

        link.answer = answer
        body = "async def run(self, alice):\n    await alice.perform('x')"
        verdict = await pool.execute(bench.assignment(body, clients=("alice",)), link)
        assert verdict.state is state
        assert verdict.message.startswith(message)

    async def test_errors_that_do_not_travel(
        self, pool: WorkerPool, bench: "WorkerHarness", link: "FakeLink"
    ) -> None:
        class OddError(Exception):
            def __init__(self, one: str, two: str) -> None:
                super().__init__(f"{one} {two}")

        async def answer(role: str, action: str, data: JsonObject) -> JsonObject:
            raise OddError("really", "odd")

        link.answer = answer
        body = "async def run(self, alice):\n    await alice.perform('x')"
        verdict = await pool.execute(bench.assignment(body, clients=("alice",)), link)
        assert (verdict.state, verdict.message) == (State.ERROR, "OddError: really odd")

    async def test_data_that_do_not_travel(
        self, pool: WorkerPool, bench: "WorkerHarness", link: "FakeLink"
    ) -> None:
        body = "async def run(self, alice):\n    await alice.perform('x', good=1, bad=lambda: 0)"
        verdict = await pool.execute(bench.assignment(body, clients=("alice",)), link)
        assert verdict.state is State.ERROR
        assert verdict.message.startswith("TypeError: x: cannot be sent as JSON: bad=<function")

    async def test_arguments_that_are_not_json_are_an_error_where_the_test_sends_them(
        self, pool: WorkerPool, bench: "WorkerHarness", link: "FakeLink"
    ) -> None:
        body = "async def run(self, alice):\n    await alice.uploaded(Test)"
        verdict = await pool.execute(bench.assignment(body, clients=("alice",)), link)
        assert verdict.state is State.ERROR
        assert verdict.message == "TypeError: Object of type type is not JSON serializable"
        assert "await alice.uploaded(Test)" in verdict.traceback

    async def test_a_test_cannot_emit_events_of_the_coordinator(
        self,
        pool: WorkerPool,
        bench: "WorkerHarness",
        link: "FakeLink",
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        body = """
        async def run(self, alice):
            from trafficlight.results.events import CaseEnded, State
            alice._link.emit(CaseEnded(case="another", state=State.SUCCESS))
            self.record("delay", 1)
        """
        await pool.execute(bench.assignment(body, clients=("alice",)), link)
        assert link.values == [1]
        assert len(link.emitted) == 1
        assert "a worker emitted an event that tests cannot emit" in caplog.text

    @pytest.mark.parametrize(
        ("sent", "problem"),
        [
            ("b'nonsense'", "not a message: b'nonsense'"),
            ('b\'{"message": "Finished", "verdict": 1}\'', "Finished.verdict: must be an object"),
        ],
    )
    async def test_a_message_that_is_not_accepted(
        self,
        pool: WorkerPool,
        bench: "WorkerHarness",
        link: "FakeLink",
        fine: "Fine",
        sent: str,
        problem: str,
    ) -> None:
        body = f"""
        async def run(self, alice):
            raw = {sent}
            print("what it did last", flush=True)
            alice._link._writer.write(len(raw).to_bytes(4, "big") + raw)
            await asyncio.sleep(60)
        """
        verdict = await pool.execute(bench.assignment(body, clients=("alice",)), link)
        assert verdict.state is State.ERROR
        wrong = "the test process sent a message that the coordinator does not accept: "
        assert verdict.message.startswith(wrong + problem)
        assert "what it did last" in verdict.traceback
        await fine(pool)

    async def test_data_that_are_too_large(
        self, pool: WorkerPool, bench: "WorkerHarness", link: "FakeLink", fine: "Fine"
    ) -> None:
        body = f"async def run(self, alice):\n    await alice.perform('x', data='x' * {MAX_FRAME})"
        verdict = await pool.execute(bench.assignment(body, clients=("alice",)), link)
        assert verdict.state is State.ERROR
        assert verdict.message.startswith("the message has 67,108,")
        assert not link.performed
        await fine(pool)

    async def test_a_response_that_is_too_large(
        self, pool: WorkerPool, bench: "WorkerHarness", link: "FakeLink", fine: "Fine"
    ) -> None:
        async def answer(role: str, action: str, data: JsonObject) -> JsonObject:
            return {"response": "x" * MAX_FRAME}

        link.answer = answer
        body = "async def run(self, alice):\n    await alice.perform('x')"
        verdict = await pool.execute(bench.assignment(body, clients=("alice",)), link)
        assert verdict.state is State.ERROR
        assert verdict.message.startswith("the message has 67,108,")
        await fine(pool)

    async def test_an_action_that_nobody_waits_for_any_more(
        self, pool: WorkerPool, bench: "WorkerHarness", link: "FakeLink"
    ) -> None:
        async def answer(role: str, action: str, data: JsonObject) -> JsonObject:
            if action == "slow":
                await asyncio.sleep(3600)
            return {}

        link.answer = answer
        body = """
        async def run(self, alice):
            try:
                await asyncio.wait_for(alice.perform("slow"), 0.05)
            except TimeoutError:
                await alice.perform("next")
        """
        verdict = await pool.execute(bench.assignment(body, clients=("alice",)), link)
        assert verdict == Verdict(State.SUCCESS)
        assert link.withdrawn == ["slow"]


async def test_parameters_that_only_the_test_file_can_make(
    pool: WorkerPool, bench: "WorkerHarness", link: "FakeLink"
) -> None:
    body = """
    @matrix(hook=[lambda: 5])
    async def run(self, hook):
        assert hook() == 5
        assert self.case.parameters["hook"] is hook
    """
    assert await pool.execute(bench.assignment(body), link) == Verdict(State.SUCCESS)


async def test_a_case_that_differs_from_import_to_import(
    pool: WorkerPool, bench: "WorkerHarness", link: "FakeLink"
) -> None:
    body = """
    @matrix(process=[os.getpid()])
    async def run(self, process):
        pass
    """
    verdict = await pool.execute(bench.assignment(body), link)
    assert (verdict.state, verdict.phase) == (State.ERROR, "load")
    wrong = "the test file produced this case when it was collected and no longer does: "
    assert wrong in verdict.message


LEFTOVERS = """
async def run(self, alice):
    async def forever():
        while True:
            {wait}
    self.task = asyncio.create_task(forever())
    await asyncio.sleep(0)
    self.record("pid", os.getpid())
"""


class TestWhatATestLeavesBehind:
    async def test_its_tasks_do_not_act_in_the_next_one(
        self, pool: WorkerPool, bench: "WorkerHarness", link: "FakeLink"
    ) -> None:
        wait = "await asyncio.sleep(0.001); await alice.perform('ghost')"
        await pool.execute(bench.assignment(LEFTOVERS.format(wait=wait), clients=("alice",)), link)
        link.performed.clear()
        body = "async def run(self, alice):\n    await asyncio.sleep(0.1); self.record('pid', os.getpid())"
        await pool.execute(bench.assignment(body, clients=("alice",)), link)
        assert not link.performed

    async def test_a_task_that_does_not_end_ends_with_its_process(
        self, pool: WorkerPool, bench: "WorkerHarness", link: "FakeLink"
    ) -> None:
        wait = "\n            ".join(["try: await asyncio.sleep(60)", "except BaseException: pass"])
        body = LEFTOVERS.format(wait=wait)
        for _ in range(2):
            verdict = await pool.execute(bench.assignment(body, clients=("alice",)), link)
            assert verdict == Verdict(State.SUCCESS)
        assert len(set(link.values)) == 2

    async def test_processes_that_it_started_end_with_a_worker_that_is_killed(
        self, pool: WorkerPool, bench: "WorkerHarness", link: "FakeLink"
    ) -> None:
        body = """
        async def run(self):
            process = await asyncio.create_subprocess_exec("sleep", "600")
            self.record("pid", process.pid)
            os._exit(1)
        """
        await pool.execute(bench.assignment(body), link)
        (pid,) = link.values
        await exited(pid)


class TestCallingOff:
    async def start(
        self, pool: WorkerPool, bench: "WorkerHarness", link: "FakeLink", body: str
    ) -> "asyncio.Task[Verdict]":
        """Run a test until it has logged something."""
        task = asyncio.create_task(pool.execute(bench.assignment(body, teardown=0.5), link))
        await asyncio.wait_for(link.logged_event.wait(), 60)
        return task

    async def test_it_tears_down_and_the_worker_lives_on(
        self, pool: WorkerPool, bench: "WorkerHarness", link: "FakeLink", fine: "Fine"
    ) -> None:
        body = """
        async def run(self):
            self.record("pid", os.getpid())
            self.logger.info("running")
            await asyncio.sleep(60)

        async def teardown(self):
            self.record("torn down", 1)
        """
        task = await self.start(pool, bench, link, body)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert Measurement(name="torn down", value=1) in link.emitted
        pids = pool.pids
        await fine(pool)
        assert pool.pids == pids

    @pytest.mark.parametrize(
        "body",
        [
            "self.logger.info('running'); time.sleep(60)",
            """while True:
                try:
                    self.logger.info("running")
                    await asyncio.sleep(60)
                except BaseException: pass""",
        ],
    )
    async def test_one_that_does_not_let_go_is_killed(
        self, pool: WorkerPool, bench: "WorkerHarness", link: "FakeLink", body: str, fine: "Fine"
    ) -> None:
        body = f"async def run(self):\n    {body}"
        task = await self.start(pool, bench, link, body)
        pids = pool.pids
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not set(pids) & set(pool.pids)
        await fine(pool)

    async def test_twice_is_at_once(self, pool: WorkerPool, bench: "WorkerHarness", link: "FakeLink") -> None:
        body = """
        async def run(self):
            self.logger.info("running")
            await asyncio.sleep(60)

        async def teardown(self):
            await asyncio.sleep(60)
        """
        task = asyncio.create_task(pool.execute(bench.assignment(body, teardown=60), link))
        await asyncio.wait_for(link.logged_event.wait(), 60)
        task.cancel()
        await asyncio.sleep(0.05)
        task.cancel()
        async with asyncio.timeout(60):
            await asyncio.wait([task])
        assert task.cancelled()

    async def test_its_tear_down_is_limited_by_the_lab_s_clock(
        self, bench: "WorkerHarness", link: "FakeLink", open_pool: "OpenPool"
    ) -> None:
        clock = HandClock()
        async with open_pool(clock=clock) as pool:
            body = """
            async def run(self):
                self.logger.info("running")
                await asyncio.sleep(3600)

            async def teardown(self):
                self.logger.info("tearing down")
                await asyncio.sleep(3600)
            """
            task = asyncio.create_task(pool.execute(bench.assignment(body, teardown=1000), link))
            await asyncio.wait_for(link.logged_event.wait(), 60)
            link.logged_event.clear()
            task.cancel()
            await asyncio.wait_for(link.logged_event.wait(), 60)
            await clock.turn(2000)
            async with asyncio.timeout(60):
                await asyncio.wait([task])
            assert task.cancelled()

    async def test_one_that_blocks_its_process_does_not_get_the_time_of_a_tear_down(
        self, bench: "WorkerHarness", link: "FakeLink", open_pool: "OpenPool"
    ) -> None:
        clock = HandClock()
        async with open_pool(clock=clock) as pool:
            body = """
            async def run(self):
                self.logger.info("running")
                await asyncio.sleep(0)
                while True: pass
            """
            task = asyncio.create_task(pool.execute(bench.assignment(body, teardown=1000), link))
            await asyncio.wait_for(link.logged_event.wait(), 60)
            task.cancel()
            await clock.turn(6)
            async with asyncio.timeout(60):
                await asyncio.wait([task])
            assert task.cancelled()
