"""Worker processes: what a test breaks costs exactly its own case."""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.integration.workers.conftest import exited
from trafficlight.coordinator.workers import pool as workers
from trafficlight.coordinator.workers.pool import WorkerPool
from trafficlight.protocol import JsonObject
from trafficlight.results.events import State
from trafficlight.worker.assignment import Verdict
from trafficlight.worker.messages import (
    Finished,
    FromWorker,
    RunAttempt,
    read_from_worker,
    request_process,
    write_message,
)

if TYPE_CHECKING:
    from tests.integration.workers.conftest import FakeLink, Fine, OpenPool, WorkerHarness


@pytest.mark.parametrize(
    ("body", "how"),
    [
        ("os._exit(3)", "exit code 3"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "signal 9 (SIGKILL)"),
        ("ctypes.string_at(0)", "signal 11 (SIGSEGV)"),
        ("os.abort()", "signal 6 (SIGABRT)"),
        ("async def leave():\n        raise SystemExit(5)\n    await asyncio.gather(leave())", "exit code 5"),
    ],
)
async def test_one_that_ends_its_process(
    pool: WorkerPool, bench: "WorkerHarness", link: "FakeLink", body: str, how: str, fine: "Fine"
) -> None:
    verdict = await pool.execute(
        bench.assignment(f"async def run(self):\n    print('bye')\n    {body}"), link
    )
    assert (verdict.state, verdict.message) == (State.ERROR, f"the test ended its process: {how}")
    assert "bye" in verdict.traceback, "the last lines of its output"
    await fine(pool)


async def test_the_stack_of_a_crash(pool: WorkerPool, bench: "WorkerHarness", link: "FakeLink") -> None:
    verdict = await pool.execute(bench.assignment("async def run(self):\n    ctypes.string_at(0)"), link)
    assert "in run" in verdict.traceback


@pytest.mark.parametrize(
    ("body", "seen"),
    [
        ("time.sleep(60)", "time.sleep(60)"),
        ("while True: pass", "while True: pass"),
        (
            "while True:\n        try: await asyncio.sleep(60)\n        except BaseException: pass",
            "in run",
        ),
        ("while True: await asyncio.sleep(0)", None),
    ],
)
async def test_one_that_does_not_end(
    pool: WorkerPool, bench: "WorkerHarness", link: "FakeLink", body: str, seen: str | None, fine: "Fine"
) -> None:
    assignment = bench.assignment(f"async def run(self):\n    {body}", case=0.3, teardown=0.1)
    verdict = await pool.execute(assignment, link)
    assert verdict.state is State.ERROR
    if seen is None:  # its own deadline reaches it
        assert verdict.message == "not done within 0.3 s, the case's deadline"
    else:
        assert verdict.message.startswith("the test blocks its process: not ended 0.7 s after its start")
        assert seen in verdict.traceback, "it says where"
    await fine(pool)


@pytest.mark.parametrize("chunk", ["bytearray(10_000_000)", "[None] * 100", "object()"])
async def test_one_that_eats_memory(
    bench: "WorkerHarness", link: "FakeLink", chunk: str, fine: "Fine", open_pool: "OpenPool"
) -> None:
    async with open_pool(memory=300 << 20) as pool:
        body = f"async def run(self):\n    some = []\n    while True: some.append({chunk})"
        verdict = await pool.execute(bench.assignment(body, case=60), link)
        assert verdict.state is State.ERROR
        # Without memory, a C extension such as the tracer of coverage may crash first.
        assert "MemoryError" in verdict.message + verdict.traceback or "ended its process" in verdict.message
        await fine(pool)


async def test_a_worker_forks_a_process_for_each_attempt(
    pool: WorkerPool, bench: "WorkerHarness", link: "FakeLink"
) -> None:
    body = "async def run(self):\n    self.record('pid', os.getpid())"
    for _ in range(3):
        await pool.execute(bench.assignment(body), link)
    assert len(set(link.values)) == 3
    assert len(pool.pids) == 1


async def test_a_file_is_imported_once_for_cases_of_chosen_clients(
    pool: WorkerPool, bench: "WorkerHarness", link: "FakeLink"
) -> None:
    """Without what chose them, their ids are not found again, and each process imported the file itself."""
    (case,) = bench.cases(
        """
        from trafficlight.client_types import AnyMatrixClient

        IMPORTED_BY = os.getpid()

        class T(Test):
            clients = {"alice": AnyMatrixClient}

            async def run(self, alice):
                self.record("importer", IMPORTED_BY)
                self.record("own", os.getpid())
        """,
        ("js-sdk",),
    )
    for _ in range(2):
        verdict = await pool.execute(bench.attempt(case, clients=("alice",)), link)
        assert verdict.state is State.SUCCESS, verdict
    importer, first, importer_of_second, second = link.values
    assert importer == importer_of_second
    assert len({importer, first, second}) == 3


async def test_one_that_dies_while_it_is_idle(
    pool: WorkerPool, bench: "WorkerHarness", link: "FakeLink", fine: "Fine"
) -> None:
    await fine(pool)
    process = psutil.Process(pool.pids[0])
    process.kill()
    await exited(process.pid)
    verdict = await pool.execute(bench.assignment("async def run(self):\n    pass"), link)
    # Its death may not be known yet; then the case says so.
    assert verdict.state is State.SUCCESS or "signal 9" in verdict.message
    await fine(pool)
    assert process.pid not in pool.pids


async def test_workers_are_forked_by_one_process_which_is_replaced_when_it_has_died(
    bench: "WorkerHarness", link: "FakeLink", fine: "Fine", open_pool: "OpenPool"
) -> None:
    async with open_pool(ready=2) as pool:
        first, second = await pool.acquire(None), await pool.acquire(None)
        (forker,) = {psutil.Process(one.pid).ppid() for one in (first, second)}
        assert forker != os.getpid()
        os.kill(forker, signal.SIGKILL)
        for worker in (first, second):
            assert await worker.exit_code() == -signal.SIGKILL, "the kernel ends them with it"
            await pool.release(worker)
        await fine(pool)
        assert psutil.Process(pool.pids[0]).ppid() != forker


# A worker that gets SIGTERM right after it has forked a process, while it runs what others do after a fork.
_TERMINATED_IN_A_FORK = """
import os, signal, sys
from trafficlight.worker import forks

os.register_at_fork(after_in_parent=lambda: os.kill(os.getpid(), signal.SIGTERM))
forks._work(["0"], [int(sys.argv[1])])
"""


async def test_a_worker_is_terminated_while_it_forks() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        request_process(ours, ours.fileno(), None)
        arguments = ("-c", _TERMINATED_IN_A_FORK, str(theirs.fileno()))
        worker = await asyncio.create_subprocess_exec(sys.executable, *arguments, pass_fds=[theirs.fileno()])
        try:
            async with asyncio.timeout(30):
                assert await worker.wait() == 0
        finally:
            if worker.returncode is None:
                worker.kill()
                await worker.wait()


@pytest.mark.parametrize("number", ["SIGALRM", "SIGTERM"])
async def test_the_signal_handlers_of_a_file_are_those_of_its_cases(
    pool: WorkerPool, bench: "WorkerHarness", link: "FakeLink", number: str
) -> None:
    (found,) = bench.cases(f"""
        came = []
        signal.signal(signal.{number}, lambda *_: came.append(1))

        class T(Test):
            async def run(self):
                os.kill(os.getpid(), signal.{number})
                assert came
    """)
    assert await pool.execute(bench.attempt(found), link) == Verdict(State.SUCCESS)


async def test_a_verdict_arrives_however_slowly_it_is_read(bench: "WorkerHarness") -> None:
    ours, theirs = socket.socketpair()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the system's least: a few KiB
    program = "import sys\nfrom trafficlight.worker.process import serve\nserve(int(sys.argv[1]))"
    with theirs:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", program, str(theirs.fileno())), pass_fds=[theirs.fileno()]
        )
    reader, writer = await asyncio.open_connection(sock=ours)
    try:
        assignment = bench.assignment("async def run(self):\n    self.logger.info('x' * 50_000)")
        write_message(writer, RunAttempt(assignment))
        async with asyncio.timeout(60):
            received = [message async for message in _messages(reader)]
            assert await process.wait() == 0
    finally:
        writer.close()
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert received[-1] == Finished(Verdict(State.SUCCESS))


async def _messages(reader: asyncio.StreamReader) -> AsyncIterator[FromWorker]:
    while (message := await read_from_worker(reader)) is not None:
        yield message


async def test_the_death_of_an_idle_child_is_not_the_exit_of_the_next_process(
    pool: WorkerPool, bench: "WorkerHarness", link: "FakeLink", fine: "Fine"
) -> None:
    await fine(pool)
    (child,) = psutil.Process(pool.pids[0]).children()
    child.kill()
    while child.is_running():  # until the worker has waited for it
        await asyncio.sleep(0.01)
    verdict = await pool.execute(bench.assignment("async def run(self):\n    os._exit(3)"), link)
    assert verdict.message == "the test ended its process: exit code 3"


class TestTheLoop:
    """Nothing that a test does delays the coordinator's own loop, in which polls are answered."""

    async def turns(self, work: "asyncio.Task[Verdict]") -> tuple[int, float]:
        """Return how often this loop came round, and the most CPU time that it spent between two turns."""
        turns, longest = 0, 0.0
        while not work.done():
            before = time.thread_time()
            await asyncio.sleep(0.005)
            longest = max(longest, time.thread_time() - before)
            turns += 1
        return turns, longest

    @pytest.mark.parametrize(
        "body",
        [
            "time.sleep(1)",
            "end = time.monotonic() + 1\n    while time.monotonic() < end: pass",
            "for n in range(20_000): self.logger.info('a line of a flood')",
        ],
    )
    async def test_is_not_held_up(
        self, pool: WorkerPool, bench: "WorkerHarness", link: "FakeLink", body: str, fine: "Fine"
    ) -> None:
        await fine(pool)
        work = asyncio.create_task(pool.execute(bench.assignment(f"async def run(self):\n    {body}"), link))
        gc.freeze()  # as the server does: collecting pytest's own objects takes longer than a turn may
        try:
            turns, longest = await self.turns(work)
        finally:
            gc.unfreeze()
        assert work.result() == Verdict(State.SUCCESS)
        assert turns > 20
        # Seconds of CPU time. 10 ms is usual; coverage and a busy machine make it more.
        assert longest < 0.5


async def test_no_more_start_than_are_needed(
    bench: "WorkerHarness", link: "FakeLink", open_pool: "OpenPool"
) -> None:
    async with open_pool(ready=2) as pool:
        together = asyncio.Barrier(2)

        async def answer(role: str, action: str, data: JsonObject) -> JsonObject:
            await together.wait()
            return {}

        link.answer = answer
        body = "async def run(self, alice):\n    await alice.perform('meet')"
        assignments = [bench.assignment(body, clients=("alice",)) for _ in range(2)]
        verdicts = await asyncio.gather(*(pool.execute(one, link) for one in assignments))
        assert verdicts == [Verdict(State.SUCCESS)] * 2
        assert len(pool.pids) == 2, "those that were starting already are enough"


async def test_more_start_where_more_run_at_once(
    bench: "WorkerHarness", link: "FakeLink", open_pool: "OpenPool"
) -> None:
    async with open_pool(ready=1) as pool:
        together = asyncio.Barrier(3)

        async def answer(role: str, action: str, data: JsonObject) -> JsonObject:
            await together.wait()
            return {}

        link.answer = answer
        body = "async def run(self, alice):\n    await alice.perform('meet')"
        assignments = [bench.assignment(body, clients=("alice",)) for _ in range(3)]
        verdicts = await asyncio.gather(*(pool.execute(one, link) for one in assignments))
        assert verdicts == [Verdict(State.SUCCESS)] * 3


async def test_a_pool_that_is_left_while_workers_start(open_pool: "OpenPool") -> None:
    before = set(os.listdir("/proc/self/fd"))
    for delay in (0, 0, 0.005, 0.02):
        async with open_pool(ready=2):
            await asyncio.sleep(delay)
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(set(os.listdir("/proc/self/fd")) - before) <= 1, "that of listing them"


async def test_workers_that_do_not_start(
    monkeypatch: pytest.MonkeyPatch, bench: "WorkerHarness", link: "FakeLink", tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    async with WorkerPool(1) as pool:
        verdict = await pool.execute(bench.assignment("async def run(self):\n    pass"), link)
    assert verdict.state is State.ERROR
    assert verdict.message.startswith("a worker did not start")


class _Told(logging.Handler):
    """Calls when it is logged that a worker did not start."""

    def __init__(self, call: Callable[[], object]) -> None:
        super().__init__()
        self._call = call

    def emit(self, record: logging.LogRecord) -> None:
        self._call()


async def test_one_that_did_not_start_is_nothing_to_those_who_come_later(
    monkeypatch: pytest.MonkeyPatch, open_pool: "OpenPool", fine: "Fine"
) -> None:
    """Its waiters are cancelled in the same turn in which it fails."""
    async with open_pool(ready=0) as pool:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", "/bin/false")
            waiting = asyncio.create_task(pool.acquire(None))
            told = _Told(waiting.cancel)
            workers.logger.addHandler(told)
            try:
                await asyncio.wait([waiting])
            finally:
                workers.logger.removeHandler(told)
        assert waiting.cancelled()
        await fine(pool)


async def test_one_that_came_for_a_case_that_was_called_off_serves_the_next(
    monkeypatch: pytest.MonkeyPatch, open_pool: "OpenPool", fine: "Fine"
) -> None:
    async with open_pool(ready=0) as pool:
        worker = await pool.acquire(None)
        monkeypatch.setattr(pool, "_start_as_needed", lambda: None)  # no other worker comes first
        first, second = (asyncio.create_task(pool.acquire(None)) for _ in range(2))
        await asyncio.sleep(0)
        await pool.release(worker)
        first.cancel()
        assert await second is worker
        assert first.cancelled()
        await pool.release(worker)
        await fine(pool)
