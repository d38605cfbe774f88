"""Worker processes: pre-started, reused, and replaced when a test takes one down with it."""

import asyncio
import contextlib
import logging
import pickle
import signal
import socket
import sys
import tempfile
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from trafficlight.homeservers.tools import tethered
from trafficlight.results.events import State
from trafficlight.worker.assignment import Assignment, CaseLink, Verdict
from trafficlight.worker.messages import (
    Answer,
    Call,
    CallOff,
    Done,
    Message,
    Ready,
    Run,
    Tell,
    read_message,
    write_message,
)

__all__ = ["WorkerPool"]

logger = logging.getLogger(__name__)

# Seconds that a worker has beyond the test's own deadlines, before it is taken for stuck.
_MARGIN = 5.0
# Seconds for a stuck worker to write its stacks down, before it is killed.
_LAST_WORDS = 1.0
# Characters of a dead worker's output that its case shows.
_TAIL = 8000
# Seconds that a worker may take to start.
_START = 60.0
# What only link methods are: nothing else can be called from test code.
_CALLS = frozenset({"perform", "upload", "operate"})
_TELLS = frozenset({"measured", "attached", "logged"})


class _Died(Exception):  # noqa: N818
    """The worker's process is gone."""


class _Worker:
    """One process."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        output: Path,
    ) -> None:
        self.process = process
        self.reader = reader
        self.writer = writer
        self.output = output
        self._read_from = 0
        self._messages: asyncio.Queue[Message | None] = asyncio.Queue()
        # Read in one task, so that no time-out falls between two halves of a message.
        self._pump = asyncio.create_task(self._read(), name="read from a worker")

    async def _read(self) -> None:
        while (message := await read_message(self.reader)) is not None:
            self._messages.put_nowait(message)
        self._messages.put_nowait(None)

    @classmethod
    async def start(cls, folder: Path, number: int, memory: int) -> "_Worker":
        ours, theirs = socket.socketpair()
        output = folder / f"worker-{number}.log"
        with output.open("wb") as file, theirs:
            process = await asyncio.create_subprocess_exec(
                *tethered([sys.executable, "-m", "trafficlight.worker", str(theirs.fileno()), str(memory)]),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        ours.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=ours, limit=1 << 26)
        worker = cls(process, reader, writer, output)
        try:
            async with asyncio.timeout(_START):
                ready = await worker.next()
        except (TimeoutError, _Died):
            ready = None
        except BaseException:
            await worker.kill()
            raise
        if not isinstance(ready, Ready):
            await worker.kill()
            raise _Died(f"a worker did not start: {worker.last_words()}")
        return worker

    async def next(self) -> Message:
        """Return its next message.

        :raises _Died: it is gone.
        """
        message = await self._messages.get()
        if message is None:
            self._messages.put_nowait(None)
            raise _Died
        return message

    async def kill(self) -> None:
        """End it, whatever it does."""
        self._pump.cancel()
        self.writer.close()
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await self.writer.wait_closed()

    def begin(self) -> None:
        """Forget what it wrote for earlier attempts."""
        self._read_from = self.output.stat().st_size

    def last_words(self) -> str:
        """Return the end of what it wrote since its attempt began."""
        try:
            written = self.output.read_bytes()[self._read_from :]
        except OSError:
            return ""
        return written[-_TAIL:].decode(errors="replace").strip()


class WorkerPool:
    """Runs every attempt in a process of its own; processes are used again, one attempt at a time.

    There are as many as attempts run at once; `ready` of them are started ahead.

    :param ready: how many are kept when nothing runs.
    :param memory: bytes of data that a worker may have; 0 for no limit.
    """

    def __init__(self, ready: int, *, memory: int = 0) -> None:
        self._ready = ready
        self._memory = memory
        self._idle: deque[_Worker] = deque()
        self._busy: set[_Worker] = set()
        self._starting: set[asyncio.Task[None]] = set()
        self._numbers = 0
        self._folder = tempfile.TemporaryDirectory(prefix="trafficlight-workers-")
        self._turn = asyncio.Semaphore(max(1, ready))
        self._closed = False

    async def __aenter__(self) -> Self:
        for _ in range(self._ready):
            self._start_ahead()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        for task in self._starting:
            task.cancel()
        await asyncio.gather(*self._starting, return_exceptions=True)
        for worker in (*self._idle, *self._busy):
            await worker.kill()
        self._folder.cleanup()

    @property
    def pids(self) -> list[int]:
        """The processes that there are."""
        return [worker.process.pid for worker in (*self._idle, *self._busy)]

    async def execute(self, assignment: Assignment, link: CaseLink) -> Verdict:
        """Run an attempt to its end in a worker; one that dies or does not end costs only this attempt."""
        try:
            raw = pickle.dumps(assignment)
        except Exception as error:
            message = f"the case cannot be sent to a worker, try --workers 0: {type(error).__name__}: {error}"
            return Verdict(State.ERROR, message, phase="load")
        try:
            worker = await self._take()
        except _Died as died:
            return Verdict(State.ERROR, str(died), phase="load")
        self._busy.add(worker)
        worker.begin()
        reusable = False
        try:
            write_message(worker.writer, Run(assignment.case.path, assignment.case.class_name, raw))
            limit = assignment.case_deadline + assignment.teardown_deadline + _MARGIN
            async with asyncio.timeout(limit):
                verdict = await _converse(worker, link)
            reusable = True
            assert verdict is not None
            return verdict
        except asyncio.CancelledError:
            reusable = await _called_off(worker, link, assignment.teardown_deadline)
            raise
        except TimeoutError:
            return await _stuck(worker, limit)
        except _Died:
            return await _dead(worker)
        finally:
            self._busy.discard(worker)
            await self._give_back(worker, reusable=reusable)

    async def _take(self) -> _Worker:
        """Return an idle worker, or a new one. Not many start at once: one may come back before."""
        if (worker := self._take_idle()) is not None:
            return worker
        async with self._turn:
            return self._take_idle() or await self._start()

    def _take_idle(self) -> _Worker | None:
        while self._idle:
            worker = self._idle.popleft()
            if worker.process.returncode is None:
                return worker
        return None

    async def _give_back(self, worker: _Worker, *, reusable: bool) -> None:
        if reusable and not self._closed:
            self._idle.append(worker)
        else:
            await worker.kill()
            self._refill()

    async def _start(self) -> _Worker:
        self._numbers += 1
        return await _Worker.start(Path(self._folder.name), self._numbers, self._memory)

    def _refill(self) -> None:
        if not self._closed and len(self._idle) + len(self._busy) + len(self._starting) < self._ready:
            self._start_ahead()

    def _start_ahead(self) -> None:
        async def start() -> None:
            try:
                self._idle.append(await self._start())
            except _Died as died:
                logger.error("%s", died)

        task = asyncio.create_task(start(), name="start a worker")
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)


async def _converse(worker: _Worker, link: CaseLink) -> Verdict | None:
    """Answer a worker's calls until its attempt has ended."""
    calls: set[asyncio.Task[None]] = set()
    try:
        while True:
            match await worker.next():
                case Call() as call:
                    task = asyncio.create_task(_answer(worker, link, call))
                    calls.add(task)
                    task.add_done_callback(calls.discard)
                case Tell(method=method, arguments=arguments) if method in _TELLS:
                    getattr(link, method)(*arguments)
                case Done(verdict=verdict):
                    return verdict
                case other:
                    logger.error("a worker sent what nobody expects: %s", other)
    finally:
        for task in calls:
            task.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


async def _called_off(worker: _Worker, link: CaseLink, teardown: float) -> bool:
    """Let an attempt that was called off tear down; return whether its worker came back from it."""
    with contextlib.suppress(ConnectionError):
        write_message(worker.writer, CallOff())
    try:
        async with asyncio.timeout(teardown + _LAST_WORDS):
            await _converse(worker, link)
    except (TimeoutError, _Died, asyncio.CancelledError):
        return False
    return True


async def _stuck(worker: _Worker, limit: float) -> Verdict:
    """Return the verdict on an attempt whose worker does not even answer to its own deadlines."""
    with contextlib.suppress(ProcessLookupError):
        worker.process.send_signal(signal.SIGUSR1)
    with contextlib.suppress(TimeoutError, _Died):
        async with asyncio.timeout(_LAST_WORDS):
            while True:
                await worker.next()
    message = f"the test blocks its process: not ended {limit:g} s after its start, beyond every deadline"
    return Verdict(State.ERROR, message, worker.last_words())


async def _dead(worker: _Worker) -> Verdict:
    """Return the verdict on an attempt that took its worker's process with it."""
    code = await worker.process.wait()
    if code < 0:
        try:
            how = f"signal {-code} ({signal.Signals(-code).name})"
        except ValueError:
            how = f"signal {-code}"
    else:
        how = f"exit code {code}"
    return Verdict(State.ERROR, f"the test ended its process: {how}", worker.last_words())


async def _answer(worker: _Worker, link: CaseLink, call: Call) -> None:
    answer: Answer
    try:
        if call.method not in _CALLS:
            raise AttributeError(call.method)
        value: Any = await getattr(link, call.method)(*call.arguments)
        answer = Answer(call.number, value)
    except Exception as error:
        answer = Answer(call.number, error=error)
    write_message(worker.writer, answer)
