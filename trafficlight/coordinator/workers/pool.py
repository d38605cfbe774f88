"""Worker processes: pre-started, reused, and replaced when a test takes one down with it."""

import asyncio
import contextlib
import functools
import logging
import pickle
import signal
import tempfile
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from trafficlight.clock import Clock, SystemClock
from trafficlight.coordinator.workers.process import WorkerDied, WorkerProcess
from trafficlight.errors import LabError
from trafficlight.results.events import State, TestEvent, event_of
from trafficlight.results.folder import AttemptFolder
from trafficlight.text import read_tail
from trafficlight.worker.assignment import Assignment, CaseLink, Verdict
from trafficlight.worker.messages import Answer, Call, CallOff, Done, Emit, Run, Withdraw

logger = logging.getLogger(__name__)

# Seconds that a worker has beyond the test's own deadlines, before it is taken for stuck.
_MARGIN = 5.0
# Seconds that a worker has after a test's tear-down to say so, and the system to say how one ended.
_LAST_WORDS = 1.0
# Seconds for a stuck worker to write its stacks down, before it is killed: the machine may be busy.
_STACKS = 3.0
# Lines of a case's log that are shown when its test ended its process.
_LAST_LINES = 20
# Bytes of its log in which those are looked for.
_LAST_BYTES = 64 << 10
# What only link methods are: nothing else can be called from test code.
_CALLS = frozenset({"perform", "upload", "operate"})


class WorkerPool:
    """Runs every attempt in a process of its own; processes are used again, one attempt at a time.

    There are as many as attempts have run at once: a test mostly waits for its clients.

    :param ready: how many are started ahead, and how many start at the same time; with 0 each starts when it
        is needed.
    :param memory: bytes of data that a worker may have; 0 for no limit.
    :param clock: tells when an attempt is beyond its deadlines.
    """

    def __init__(self, ready: int, *, memory: int = 0, clock: Clock | None = None) -> None:
        self._ready = ready
        self._memory = memory
        self._clock = clock or SystemClock()
        self._idle: deque[WorkerProcess] = deque()
        # Those who want one, first come first served. One that does not start is the answer to one of them.
        self._waiting: deque[asyncio.Future[WorkerProcess]] = deque()
        self._all: set[WorkerProcess] = set()
        self._starting: set[asyncio.Task[None]] = set()
        self._numbers = 0
        self._folder = tempfile.TemporaryDirectory(prefix="trafficlight-workers-")
        self._closed = False

    async def __aenter__(self) -> Self:
        self._start_as_needed()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        for task in self._starting:
            task.cancel()
        await asyncio.gather(*self._starting, return_exceptions=True)
        for worker in tuple(self._all):
            await self._end(worker)
        self._folder.cleanup()

    @property
    def pids(self) -> list[int]:
        """The processes that there are."""
        return [worker.pid for worker in self._all]

    async def execute(self, assignment: Assignment, link: CaseLink) -> Verdict:
        """Run an attempt to its end in a worker; one that dies or does not end costs only this attempt."""
        if (sealed := assignment.case.sealed) is not None and sealed.problem:
            return Verdict(State.ERROR, sealed.problem, phase="load")
        try:
            raw = pickle.dumps(assignment)
        except Exception as error:
            message = f"the case cannot be sent to a worker, try --workers 0: {type(error).__name__}: {error}"
            return Verdict(State.ERROR, message, phase="load")
        try:
            worker = await self.take()
        except WorkerDied as died:
            return Verdict(State.ERROR, str(died), phase="load")
        reusable = False
        limit = assignment.case_deadline + assignment.teardown_deadline + _MARGIN
        try:
            worker.begin()
            worker.send(Run(assignment.case.path, assignment.case.class_name, raw))
            async with self._clock.timeout(limit):
                done = await _converse(worker, link)
            reusable = done.reusable
            return done.verdict or Verdict(State.ERROR, "the test was cancelled from within")
        except asyncio.CancelledError:
            reusable = await self._called_off(worker, link, assignment.teardown_deadline)
            raise
        except TimeoutError:
            return await _stuck(worker, limit)
        except WorkerDied:
            return await _dead(worker, assignment)
        finally:
            await self.give_back(worker, reusable=reusable)

    async def take(self) -> WorkerProcess:
        """Return the first worker that is free: an idle one, one that comes back, or a new one.

        Whoever takes one must give it back.

        :raises WorkerDied: a new one did not start.
        """
        while True:
            worker = await self._next()
            if worker.alive:
                return worker
            await self._end(worker)
            self._start_as_needed()

    async def take_fresh(self) -> WorkerProcess:
        """Return a worker in which no code of test files has run: an idle one, or a new one.

        Whoever takes one must give it back.

        :raises WorkerDied: it did not start.
        """
        fresh = next((one for one in self._idle if one.alive and not one.used), None)
        if fresh is not None:
            self._idle.remove(fresh)
            self._start_as_needed()
            return fresh
        worker = await self._new()
        self._all.add(worker)
        return worker

    async def give_back(self, worker: WorkerProcess, *, reusable: bool) -> None:
        """Take a worker back that :meth:`take` returned.

        :param reusable: whether it can serve others; otherwise it is ended, and replaced as needed.
        """
        if reusable and not self._closed:
            self._free(worker)
        else:
            await self._end(worker)
            self._start_as_needed()

    async def _called_off(self, worker: WorkerProcess, link: CaseLink, teardown: float) -> bool:
        """Let an attempt that was called off tear down; return whether its worker came back from it."""
        worker.send(CallOff())
        try:
            async with self._clock.timeout(teardown + _LAST_WORDS):
                return (await _converse(worker, link)).reusable
        except (TimeoutError, WorkerDied, asyncio.CancelledError):
            return False

    async def _next(self) -> WorkerProcess:
        """Return the first worker that is free, dead or alive."""
        if self._idle:
            return self._idle.popleft()
        coming: asyncio.Future[WorkerProcess] = asyncio.get_running_loop().create_future()
        self._waiting.append(coming)
        self._start_as_needed()
        try:
            return await coming
        except asyncio.CancelledError:
            if coming.cancelled():
                with contextlib.suppress(ValueError):  # passed over by now
                    self._waiting.remove(coming)
            elif coming.exception() is None:  # it came in this very turn of the loop
                self._free(coming.result())
            raise

    def _free(self, worker: WorkerProcess) -> None:
        """Give a worker to the first who waits, or let it be idle."""
        if (coming := self._first_waiting()) is not None:
            coming.set_result(worker)
        else:
            self._idle.append(worker)

    def _first_waiting(self) -> "asyncio.Future[WorkerProcess] | None":
        """Take the first who still waits out of the line."""
        while self._waiting:
            if not (coming := self._waiting.popleft()).done():
                return coming
        return None

    async def _end(self, worker: WorkerProcess) -> None:
        self._all.discard(worker)
        await worker.kill()

    def _start_as_needed(self) -> None:
        """Start workers for those who wait, not many at once, and those that are to be ready."""
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
        output = Path(self._folder.name) / f"worker-{self._numbers}.log"
        return await WorkerProcess.start(output, self._memory)

    def _started(self, task: "asyncio.Task[None]") -> None:
        self._starting.discard(task)
        if self._waiting:
            self._start_as_needed()


async def _converse(worker: WorkerProcess, link: CaseLink) -> Done:
    """Answer a worker's calls until its attempt has ended."""
    calls: dict[int, asyncio.Task[None]] = {}
    try:
        while True:
            match await worker.next():
                case Call(number=number) as call:
                    task = asyncio.create_task(_answer(worker, link, call), name=f"{call.method} for a test")
                    calls[number] = task
                    task.add_done_callback(functools.partial(_forget, calls, number))
                case Withdraw(number=number):
                    if (withdrawn := calls.get(number)) is not None:
                        withdrawn.cancel()
                case Emit(event=content):
                    event = event_of(content)
                    if isinstance(event, TestEvent):
                        link.emit(event)
                    else:
                        logger.error("a worker emitted an event that tests cannot emit: %s", content)
                case Done() as done:
                    return done
                case other:
                    logger.error("a worker sent what nobody expects: %s", other)
    finally:
        open_calls = tuple(calls.values())
        for task in open_calls:
            task.cancel()
        await asyncio.gather(*open_calls, return_exceptions=True)


def _forget(calls: dict[int, asyncio.Task[None]], number: int, _: object) -> None:
    calls.pop(number, None)


async def _answer(worker: WorkerProcess, link: CaseLink, call: Call) -> None:
    try:
        if call.method not in _CALLS:
            raise AttributeError(call.method)
        value: Any = await getattr(link, call.method)(*call.arguments)
        answer = Answer(call.number, value)
    except Exception as error:
        answer = Answer(call.number, error=_portable(error))
    worker.send(answer)


def _portable(error: Exception) -> Exception:
    """Return an error that comes out at the other end as it goes in."""
    try:
        if str(pickle.loads(pickle.dumps(error))) == str(error):  # noqa: S301
            return error
    except Exception:
        logger.debug("%s does not travel", type(error).__name__, exc_info=True)
    return LabError(f"{type(error).__name__}: {error}")


async def _stuck(worker: WorkerProcess, limit: float) -> Verdict:
    """Return the verdict on an attempt whose worker does not even answer to its own deadlines."""
    await dump_stacks(worker)
    message = f"the test blocks its process: not ended {limit:g} s after its start, beyond every deadline"
    return Verdict(State.ERROR, message, worker.last_words())


async def dump_stacks(worker: WorkerProcess) -> None:
    """Let a worker that does not answer add to its output where it is."""
    worker.signal(signal.SIGUSR1)
    with contextlib.suppress(TimeoutError, WorkerDied):
        async with asyncio.timeout(_STACKS):
            while True:
                await worker.next()


async def ending_of(worker: WorkerProcess) -> str:
    """Say how the process of a worker that is gone has ended; empty when only its connection is.

    That it has ended is known a moment later.
    """
    if worker.unread:  # it runs, and is not listened to any more
        return ""
    try:
        async with asyncio.timeout(_LAST_WORDS):
            code = await worker.wait()
    except TimeoutError:
        return ""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"signal {-code}"


async def _dead(worker: WorkerProcess, assignment: Assignment) -> Verdict:
    """Return the verdict on an attempt that took its worker's process with it."""
    if worker.unread:
        message = f"the test's process sent to the lab what it does not take: {worker.unread}"
        return Verdict(State.ERROR, message, await asyncio.to_thread(_words, worker, assignment))
    how = await ending_of(worker)
    if not how:
        return Verdict(
            State.ERROR, "the test closed its process's connection to the lab", worker.last_words()
        )
    return Verdict(
        State.ERROR, f"the test ended its process: {how}", await asyncio.to_thread(_words, worker, assignment)
    )


def _words(worker: WorkerProcess, assignment: Assignment) -> str:
    """Return the last that was heard of a test and its worker."""
    return "\n".join(part for part in (_last_lines(assignment), worker.last_words()) if part)


def _last_lines(assignment: Assignment) -> str:
    """Return the end of what the test printed and logged."""
    lines = read_tail(AttemptFolder(assignment.folder).log_info, _LAST_BYTES).splitlines()
    return "\n".join(lines[-_LAST_LINES:])
