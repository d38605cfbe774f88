"""A worker, seen from the coordinator: it forks processes, and each has messages and an exit code."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from pathlib import Path

from trafficlight.errors import DeployError
from trafficlight.homeservers.local.fork_server import ForkedProcess, ForkServer
from trafficlight.processes import own_module
from trafficlight.suites.model import Case
from trafficlight.text import read_tail
from trafficlight.worker.messages import (
    EXIT_CODE,
    FromWorker,
    ToWorker,
    read_from_worker,
    request_process,
    write_message,
)

logger = logging.getLogger(__name__)

# Characters of a worker's output that its case shows.
_TAIL = 8000
# Seconds that a worker may take to start.
_START = 60.0
# Messages that are read before they are handled: a test that floods its log has to wait.
_READ_AHEAD = 100
# The variable with which Python removes assertions.
_NO_ASSERTIONS = "PYTHONOPTIMIZE"
# Seconds for a process to exit after its last message.
_EXIT = 3.0


class WorkerDied(Exception):  # noqa: N818
    """The process of a test has exited, or its connection is closed; or none could be started."""


class WorkerProcess:
    """A worker, and the process that it has forked for the coordinator: one at a time.

    :ivar path: the test file that the last process had imported.
    """

    def __init__(self, process: ForkedProcess, control: socket.socket, output: Path) -> None:
        self.path: Path | None = None
        #: Why a message of the process was not accepted; empty if all were.
        self.rejected = ""
        self._process = process
        self._control = control
        self._output = output
        self._messages: asyncio.Queue[FromWorker | None] = asyncio.Queue(_READ_AHEAD)
        self._received = 0  # messages
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self._pump: asyncio.Task[None] | None = None
        self._exit: asyncio.Task[int] | None = None

    @classmethod
    async def start(cls, forker: ForkServer, output: Path, memory: int) -> "WorkerProcess":
        """Start a worker and wait until it is ready; on cancellation, nothing is left.

        :param forker: forks it; see :func:`boot`.
        :param output: the file for the standard output and error of all its processes.
        :param memory: bytes of data that each of its processes may use; 0 for no limit.
        :raises WorkerDied: it did not start; the message says why.
        """
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise WorkerDied(f"a worker cannot be started: {error}") from error
        with theirs:
            ours.setblocking(False)
            try:
                process = await forker.start([str(memory)], Path(), output, [theirs.fileno()])
            except DeployError as error:
                ours.close()
                raise WorkerDied(f"a worker did not start: {error}") from error
            except BaseException:
                ours.close()
                raise
        worker = cls(process, ours, output)
        try:
            async with asyncio.timeout(_START):
                if await worker._exit_code_of_next() is not None:
                    return worker
                problem = await process.wait()
        except TimeoutError:
            problem = f"not ready within {_START:g} s"
        except BaseException:
            await worker.kill()
            raise
        await worker.kill()
        said = await asyncio.to_thread(worker.last_output)
        raise WorkerDied(f"a worker did not start: {problem}" + (said and f": {said}"))

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs, as far as is known."""
        return self._process.code is None

    async def open(self, case: Case | None) -> None:
        """Let it fork a process, to which messages go until :meth:`close`.

        :param case: what the process will run; None for other work.
        :raises WorkerDied: no sockets or files are left.
        """
        self.path = case.path if case is not None else None
        self.rejected = ""
        # Otherwise the output of all cases is kept until the coordinator exits.
        with contextlib.suppress(OSError):
            await asyncio.to_thread(os.truncate, self._output, 0)
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise WorkerDied(f"a process for a test cannot be started: {error}") from error
        with theirs:
            self._reader, self._writer = await _connected(ours)
            with contextlib.suppress(ConnectionError):  # it has exited: its exit code says how
                request_process(self._control, theirs.fileno(), case)
        self._messages = asyncio.Queue(_READ_AHEAD)
        # Read in a task of its own, so that no timeout interrupts the read of a message.
        self._pump = asyncio.create_task(self._read(), name=f"read from worker {self.pid}")
        self._exit = asyncio.create_task(self._wait_for_exit(), name=f"wait for worker {self.pid}")

    async def close(self) -> bool:
        """Wait for the exit of the process; return whether the worker can fork the next one."""
        self._disconnect()
        if self._exit is not None and self.alive:
            await asyncio.wait([self._exit], timeout=_EXIT)
        return self.alive and (self._exit is None or self._exit.done())

    async def exit_code(self) -> int:
        """Wait until the process has exited; return its exit code, or the negative number of a signal."""
        assert self._exit is not None
        return await asyncio.shield(self._exit)

    def send(self, message: ToWorker) -> None:
        """Send the process a message; one to a process that has exited is dropped.

        :raises LabError: the message is too large.
        """
        with contextlib.suppress(ConnectionError):
            write_message(self._writer, message)

    async def next(self) -> FromWorker:
        """Return the next message of the process.

        :raises WorkerDied: it has exited, or sent something that is not accepted.
        """
        if self._messages.empty() and (self._pump is None or self._pump.done()):
            raise WorkerDied
        message = await self._messages.get()
        if message is None:
            raise WorkerDied
        return message

    def dump_stacks(self) -> None:
        """Let the process write its stacks to its output; does nothing if the worker has exited."""
        self._process.signal(signal.SIGUSR1)

    async def kill(self) -> None:
        """Kill it, with all processes below it."""
        self._disconnect()
        if self.alive:
            # It kills those that have left its process group. A test may have stopped it.
            for number in (signal.SIGCONT, signal.SIGTERM):
                self._process.signal(number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_EXIT):
                    await self._process.wait()
        # It leads a process group, which may outlive it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        if self._exit is not None:
            self._exit.cancel()
            await asyncio.wait([self._exit])  # the loop watches the socket until then
        self._control.close()

    def last_output(self) -> str:
        """Return the end of the output since the process was opened. Reads a file."""
        return read_tail(self._output, _TAIL).strip()

    def _disconnect(self) -> None:
        if self._pump is not None:
            self._pump.cancel()
            self._writer.close()

    async def _read(self) -> None:
        try:
            while (message := await read_from_worker(self._reader)) is not None:
                self._received += 1
                await self._messages.put(message)
                await asyncio.sleep(0)  # a burst must not starve the loop
        except Exception as error:  # noqa: BLE001 - a test may send anything
            self.rejected = str(error)
            logger.error("worker %d sent a message that is not accepted: %s", self.pid, self.rejected)
        await self._messages.put(None)

    async def _wait_for_exit(self) -> int:
        code = await self._exit_code_of_next()
        if code is None:  # the worker itself has exited
            await self._process.wait()
            code = self._process.code or 0
        if self._pump is not None:
            received = -1
            while not self._pump.done() and received != self._received:
                received = self._received
                await asyncio.wait([self._pump], timeout=_EXIT)
            if not self._pump.done():
                self._reader.feed_eof()  # something that has escaped still holds the socket
        return code

    async def _exit_code_of_next(self) -> int | None:
        """Wait for an exit code; None if the worker has exited itself."""
        with contextlib.suppress(ConnectionError):
            loop = asyncio.get_running_loop()
            if packed := await loop.sock_recv(self._control, EXIT_CODE.size):
                return int(EXIT_CODE.unpack(packed)[0])
        return None


async def boot(log: Path) -> ForkServer:
    """Start the process that forks workers.

    :param log: the file for its own output.
    :raises WorkerDied: it did not start; the message says why.
    """
    environment = {name: value for name, value in os.environ.items() if name != _NO_ASSERTIONS}
    try:
        # A test may keep the machine busy, and all cases would end with it.
        return await ForkServer.boot(own_module("trafficlight.worker"), log, environment, patience=_START)
    except DeployError as error:
        raise WorkerDied(f"a worker did not start: {error}") from error


async def _connected(ours: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        ours.setblocking(False)
        return await asyncio.open_connection(sock=ours)
    except BaseException:
        ours.close()
        raise
