"""Workers: forked ahead; each forks a process for every attempt, and is replaced when that does not exit."""

import asyncio
import contextlib
import functools
import logging
import signal
import tempfile
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Self

from trafficlight.clock import Clock, SystemClock, cancel_all
from trafficlight.coordinator.workers.process import WorkerDied, WorkerProcess, boot
from trafficlight.errors import LabError
from trafficlight.homeservers.local.fork_server import ForkServer
from trafficlight.homeservers.local.run_folder import RunFolder
from trafficlight.processes import run_to_completion
from trafficlight.results.events import State, event_from_test
from trafficlight.results.folder import AttemptFolder
from trafficlight.suites.model import Case
from trafficlight.text import read_tail
from trafficlight.worker.assignment import Assignment, CaseLink, Verdict
from trafficlight.worker.messages import (
    Cancel,
    Cancelling,
    CancelRequest,
    Finished,
    Notification,
    Request,
    Response,
    RunAttempt,
    error_of,
)

logger = logging.getLogger(__name__)

# Seconds that a worker has beyond the test's own deadlines, before it counts as hung.
_MARGIN = 5.0
# Seconds for a worker to take notice that its attempt is cancelled: one that a test blocks does not.
_NOTICE = 5.0
# Seconds for a worker to report after a test's tear-down.
_LAST_WORDS = 1.0
# Seconds for an exit code once the connection is closed: the machine may be busy.
_EXIT_CODE = 5.0
# Seconds for a hung worker to dump its stacks, before it is killed: the machine may be busy.
_STACKS = 3.0
# Lines of a case's log that are shown when its test ended its process.
_LAST_LINES = 20
# Bytes of the end of its log that contain those.
_LAST_BYTES = 64 << 10


class WorkerPool:
    """Runs each attempt in a process of its own, which a worker forks; one at a time in each worker.

    It grows to the number of attempts that run at once: a test mostly waits for its clients.

    :param ready: workers to start ahead, and to start at the same time; with 0 each starts on demand.
    :param memory: bytes of data that a worker may use; 0 for no limit.
    :param clock: measures the deadlines of attempts.
    """

    def __init__(self, ready: int, *, memory: int = 0, clock: Clock | None = None) -> None:
        self._ready = ready
        self._memory = memory
        self._clock = clock or SystemClock()
        self._idle: deque[WorkerProcess] = deque()
        # Waiters, first come first served. A worker that does not start fails one of them.
        self._waiting: deque[asyncio.Future[WorkerProcess]] = deque()
        self._all: set[WorkerProcess] = set()
        self._starting: set[asyncio.Task[None]] = set()
        # Forks them: it has imported what they need.
        self._forker: ForkServer | None = None
        self._booting = asyncio.Lock()
        self._numbers = 0
        self._folder = RunFolder(Path(tempfile.gettempdir()), "trafficlight-lab-")
        self._closed = False

    async def __aenter__(self) -> Self:
        await run_to_completion(asyncio.to_thread(self._folder.open))
        self._start_as_needed()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closed = True
        await cancel_all(*self._starting)
        for worker in tuple(self._all):
            await self._end(worker)
        if self._forker is not None:
            await self._forker.close()
        await run_to_completion(asyncio.to_thread(self._folder.close))

    @property
    def pids(self) -> list[int]:
        """The ids of its processes."""
        return [worker.pid for worker in self._all]

    async def execute(
        self, assignment: Assignment, link: CaseLink, began: Callable[[], None] = lambda: None
    ) -> Verdict:
        """Run an attempt in a worker; one that exits or hangs costs only this attempt.

        :param began: called when it has a worker.
        """
        try:
            worker = await self.acquire(assignment.case)
        except WorkerDied as died:
            return Verdict(State.ERROR, str(died), phase="load")
        limit = assignment.case_deadline + assignment.ending_deadline + _MARGIN
        try:
            began()
            # The worker makes the parameters itself, and they may be large.
            case = replace(assignment.case, parameters={})
            worker.send(RunAttempt(replace(assignment, case=case)))
            async with self._clock.timeout(limit):
                finished = await _serve_requests(worker, link)
            return finished.verdict or Verdict(State.ERROR, "the test was cancelled from within")
        except asyncio.CancelledError:
            await self._cancel(worker, link, assignment.ending_deadline)
            raise
        except TimeoutError:
            return await _hung_verdict(worker, limit)
        except WorkerDied:
            return await _crash_verdict(worker, assignment)
        except LabError as error:  # the assignment is too large
            return Verdict(State.ERROR, str(error), phase="load")
        finally:
            await self.release(worker)

    async def acquire(self, case: Case | None) -> WorkerProcess:
        """Return a worker with a new process, as soon as one is free; the caller must release it.

        :param case: what the process will run; None for other work.
        :raises WorkerDied: a worker did not start.
        """
        while True:
            worker = await self._next(case.path if case is not None else None)
            if worker.alive:
                break
            await self._end(worker)
            self._start_as_needed()
        try:
            await worker.open(case)
        except BaseException:
            await self._end(worker)
            self._start_as_needed()
            raise
        return worker

    async def release(self, worker: WorkerProcess) -> None:
        """Return an acquired worker to the pool; it is killed, and replaced as needed, if it is not ready."""
        if await worker.close() and not self._closed:
            self._free(worker)
        else:
            await self._end(worker)
            self._start_as_needed()

    async def _cancel(self, worker: WorkerProcess, link: CaseLink, teardown: float) -> None:
        """Cancel an attempt and let it tear down; kill its worker if that does not end, or does not begin."""
        worker.send(Cancel())
        try:
            async with self._clock.timeout(teardown + _LAST_WORDS) as limit:
                blocked = self._clock.call_later(_NOTICE, limit.reschedule, 0.0)
                try:
                    await _serve_requests(worker, link, on_cancelling=blocked.cancel)
                finally:
                    blocked.cancel()
        except WorkerDied:
            pass
        except (TimeoutError, asyncio.CancelledError):
            await worker.kill()

    async def _next(self, path: Path | None) -> WorkerProcess:
        """Return the first free worker, even if it has exited; one that has a file imported for that."""
        for worker in self._idle:
            if worker.path == path:
                self._idle.remove(worker)
                return worker
        if self._idle:
            return self._idle.popleft()
        coming: asyncio.Future[WorkerProcess] = asyncio.get_running_loop().create_future()
        self._waiting.append(coming)
        self._start_as_needed()
        try:
            return await coming
        except asyncio.CancelledError:
            if coming.cancelled():
                with contextlib.suppress(ValueError):  # it may have been skipped already
                    self._waiting.remove(coming)
            elif coming.exception() is None:  # it was resolved in this turn of the loop
                self._free(coming.result())
            raise

    def _free(self, worker: WorkerProcess) -> None:
        """Hand a worker to the first waiter, or let it idle."""
        if (coming := self._first_waiting()) is not None:
            coming.set_result(worker)
        else:
            self._idle.append(worker)

    def _first_waiting(self) -> "asyncio.Future[WorkerProcess] | None":
        """Remove and return the first waiter that still waits."""
        while self._waiting:
            if not (coming := self._waiting.popleft()).done():
                return coming
        return None

    async def _end(self, worker: WorkerProcess) -> None:
        self._all.discard(worker)
        await worker.kill()

    def _start_as_needed(self) -> None:
        """Start workers for waiters, few at a time, and those to start ahead."""
        while not self._closed and len(self._starting) < max(1, self._ready):
            coming = len(self._idle) + len(self._starting)
            if coming >= len(self._waiting) and len(self._all) + len(self._starting) >= self._ready:
                return
            task = asyncio.create_task(self._start(), name="start a worker")
            self._starting.add(task)
            task.add_done_callback(self._started)

    async def _start(self) -> None:
        try:
            worker = await self._new()
        except WorkerDied as died:
            logger.error("%s", died)
            if (coming := self._first_waiting()) is not None:
                coming.set_exception(died)
            return
        self._all.add(worker)
        self._free(worker)

    async def _new(self) -> WorkerProcess:
        self._numbers += 1
        output = self._folder.path / f"worker-{self._numbers}.log"
        forker = await self._running_forker()
        try:
            return await WorkerProcess.start(forker, output, self._memory)
        except WorkerDied:
            if forker.alive:
                raise
            # A test may have killed it.
            return await WorkerProcess.start(await self._running_forker(), output, self._memory)

    async def _running_forker(self) -> ForkServer:
        """Return what forks workers, started again if it has exited."""
        async with self._booting:
            if self._forker is None or not self._forker.alive:
                if self._forker is not None:
                    await self._forker.close()
                self._forker = await boot(self._folder.path / "workers.log")
            return self._forker

    def _started(self, task: "asyncio.Task[None]") -> None:
        self._starting.discard(task)
        if self._waiting:
            self._start_as_needed()


async def _serve_requests(
    worker: WorkerProcess, link: CaseLink, on_cancelling: Callable[[], object] = lambda: None
) -> Finished:
    """Serve a worker's requests until its attempt has finished.

    :param on_cancelling: called when the worker has taken notice that it is cancelled.
    """
    requests: dict[int, asyncio.Task[None]] = {}
    try:
        while True:
            match await worker.next():
                case Request(id=id) as request:
                    task = asyncio.create_task(
                        _respond(worker, link, request), name=f"{request.method} for a test"
                    )
                    requests[id] = task
                    task.add_done_callback(functools.partial(_forget, requests, id))
                case CancelRequest(id=id):
                    if (cancelled := requests.get(id)) is not None:
                        cancelled.cancel()
                case Notification(event=content):
                    if (event := event_from_test(content)) is not None:
                        link.emit(event)
                    else:
                        logger.error("a worker emitted an event that tests cannot emit: %s", content)
                case Cancelling():
                    on_cancelling()
                case Finished() as finished:
                    return finished
                case other:
                    logger.error("a worker sent an unexpected message: %s", other)
    finally:
        await cancel_all(*requests.values())


def _forget(requests: dict[int, asyncio.Task[None]], id: int, _: object) -> None:
    requests.pop(id, None)


async def _respond(worker: WorkerProcess, link: CaseLink, request: Request) -> None:
    try:
        response = Response(request.id, await getattr(link, request.method)(*request.arguments))
        worker.send(response)
    except Exception as error:  # noqa: BLE001 - the test gets it
        worker.send(Response(request.id, error=error_of(error)))


async def _hung_verdict(worker: WorkerProcess, limit: float) -> Verdict:
    """Return the verdict on an attempt whose process ignores its own deadlines."""
    await dump_stacks(worker)
    message = f"the test blocks its process: not ended {limit:g} s after its start, beyond every deadline"
    await worker.kill()
    return Verdict(State.ERROR, message, await asyncio.to_thread(worker.last_output))


async def dump_stacks(worker: WorkerProcess) -> None:
    """Let a process that does not respond dump its stacks to its output."""
    worker.dump_stacks()
    with contextlib.suppress(TimeoutError, WorkerDied):
        async with asyncio.timeout(_STACKS):
            while True:
                await worker.next()


async def exit_status(worker: WorkerProcess) -> str:
    """Describe how the process of a worker exited; empty if only its connection is closed."""
    if worker.rejected:  # it still runs, but its messages are no longer read
        return ""
    try:
        async with asyncio.timeout(_EXIT_CODE):
            code = await worker.exit_code()
    except TimeoutError:
        return ""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"signal {-code}"


async def _crash_verdict(worker: WorkerProcess, assignment: Assignment) -> Verdict:
    """Return the verdict on an attempt whose process exited or closed its connection."""
    if worker.rejected:
        message = f"the test process sent a message that the coordinator does not accept: {worker.rejected}"
        return Verdict(State.ERROR, message, await asyncio.to_thread(_last_output, worker, assignment))
    how = await exit_status(worker)
    if not how:
        message = "the test closed its process's connection to the coordinator"
        return Verdict(State.ERROR, message, await asyncio.to_thread(worker.last_output))
    output = await asyncio.to_thread(_last_output, worker, assignment)
    return Verdict(State.ERROR, f"the test ended its process: {how}", output)


def _last_output(worker: WorkerProcess, assignment: Assignment) -> str:
    """Return the end of what a test and its worker printed and logged."""
    lines = read_tail(AttemptFolder(assignment.folder).log_info, _LAST_BYTES).splitlines()
    return "\n".join(part for part in ("\n".join(lines[-_LAST_LINES:]), worker.last_output()) if part)
