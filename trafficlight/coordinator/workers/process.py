"""One worker process, seen from the coordinator: start, messages, end."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from pathlib import Path

from trafficlight.processes import with_parent_death_signal
from trafficlight.text import read_tail
from trafficlight.worker.messages import FromWorker, Ready, ToWorker, read_from_worker, write_message

logger = logging.getLogger(__name__)

# Characters of a worker's output that its case shows.
_TAIL = 8000
# Seconds that a worker may take to start.
_START = 60.0
# Messages that are read before they are handled: a test that floods its log has to wait.
_READ_AHEAD = 100


class WorkerDied(Exception):  # noqa: N818
    """The worker has exited, or its connection is closed."""


class WorkerProcess:
    """A worker process and the socket to it."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        output: Path,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._output = output
        self._read_from = 0
        #: Why a message of it was not accepted; empty if all were.
        self.rejected = ""
        #: Whether code of a test file may have run in it.
        self.used = False
        self._messages: asyncio.Queue[FromWorker | None] = asyncio.Queue(_READ_AHEAD)
        # Read in a task of its own, so that no timeout interrupts the read of a message.
        self._pump = asyncio.create_task(self._read(), name=f"read from worker {process.pid}")

    @classmethod
    async def start(cls, output: Path, memory: int) -> "WorkerProcess":
        """Start a worker and wait until it is ready; on cancellation, nothing is left.

        :param output: the file for its standard output and error.
        :param memory: bytes of data that it may use; 0 for no limit.
        :raises WorkerDied: it did not start; the message says why.
        """
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise WorkerDied(f"a worker cannot be started: {error}") from error
        with theirs:
            # Before the process starts, so that nothing is awaited between its start and its owner.
            reader, writer = await _connected(ours)
            try:
                # -P: a folder trafficlight in the current directory is not this package.
                command = [
                    sys.executable,
                    "-P",
                    "-m",
                    "trafficlight.worker",
                    str(theirs.fileno()),
                    str(memory),
                ]
                with output.open("wb") as file:
                    process = await asyncio.create_subprocess_exec(
                        *with_parent_death_signal(command),
                        stdin=asyncio.subprocess.DEVNULL,
                        stdout=file,
                        stderr=file,
                        pass_fds=(theirs.fileno(),),
                        start_new_session=True,
                    )
            except OSError as error:  # no more processes, no space
                writer.close()
                raise WorkerDied(f"a worker cannot be started: {error}") from error
            except BaseException:
                writer.close()
                raise
        worker = cls(process, reader, writer, output)
        try:
            async with asyncio.timeout(_START):
                ready = await worker.next()
        except (TimeoutError, WorkerDied):
            ready = None
        except BaseException:
            await worker.kill()
            raise
        if not isinstance(ready, Ready):
            await worker.kill()
            raise WorkerDied(f"a worker did not start: {worker.rejected or worker.last_output()}")
        return worker

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs and its messages are read, as far as is known."""
        return self._process.returncode is None and not self._pump.done()

    async def wait(self) -> int:
        """Wait until it has exited, and return its exit code, or the negative number of a signal."""
        return await self._process.wait()

    def send(self, message: ToWorker) -> None:
        """Send it a message; one to a worker that has exited is dropped.

        :raises LabError: the message is too large.
        """
        self.used = True
        with contextlib.suppress(ConnectionError):
            write_message(self._writer, message)

    async def next(self) -> FromWorker:
        """Return its next message.

        :raises WorkerDied: it has exited, or sent something that is not accepted.
        """
        if self._messages.empty() and self._pump.done():
            raise WorkerDied
        message = await self._messages.get()
        if message is None:
            raise WorkerDied
        return message

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; does nothing if it has exited."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def kill(self) -> None:
        """Kill it, with the processes that its test started."""
        self._pump.cancel()
        self._writer.close()
        # It leads a process group, which may outlive it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await self._writer.wait_closed()

    def begin(self) -> None:
        """Mark the end of the output of earlier attempts."""
        self._read_from = self._output.stat().st_size

    def last_output(self) -> str:
        """Return the end of its output since its attempt began."""
        return read_tail(self._output, _TAIL, since=self._read_from).strip()

    async def _read(self) -> None:
        try:
            while (message := await read_from_worker(self._reader)) is not None:
                await self._messages.put(message)
                await asyncio.sleep(0)  # a burst must not starve the loop
        except Exception as error:  # noqa: BLE001 - a worker may send anything
            self.rejected = str(error)
            logger.error("worker %d sent a message that is not accepted: %s", self.pid, self.rejected)
        await self._messages.put(None)


async def _connected(ours: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        ours.setblocking(False)
        return await asyncio.open_connection(sock=ours)
    except BaseException:
        ours.close()
        raise
