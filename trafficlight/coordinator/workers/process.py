"""One worker process, as the coordinator sees it: started, spoken to, ended."""

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
from trafficlight.worker.messages import Message, Ready, read_message, write_message

logger = logging.getLogger(__name__)

# Characters of a worker's output that its case shows.
_TAIL = 8000
# Seconds that a worker may take to start.
_START = 60.0
# Messages that are read ahead of what is done about them: a test that floods its log must wait for us.
_READ_AHEAD = 100


class WorkerDied(Exception):  # noqa: N818
    """The worker's process is gone."""


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
        #: What it sent that could not be read, and why; empty while everything could.
        self.unread = ""
        #: Whether code of a test file has run in it.
        self.used = False
        self._messages: asyncio.Queue[Message | None] = asyncio.Queue(_READ_AHEAD)
        # Read in one task, so that no time-out falls between two halves of a message.
        self._pump = asyncio.create_task(self._read(), name=f"read from worker {process.pid}")

    @classmethod
    async def start(cls, output: Path, memory: int) -> "WorkerProcess":
        """Start a worker and wait until it can take an assignment; cancelled, it leaves nothing behind.

        :param output: the file that gets what it writes, beside the logs of its cases.
        :param memory: bytes of data that it may have; 0 for no limit.
        :raises WorkerDied: it did not start; the message says why.
        """
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise WorkerDied(f"a worker cannot be started: {error}") from error
        with theirs:
            # First of all, so that nothing is awaited between the process's start and its owner's.
            reader, writer = await _connected(ours)
            try:
                with output.open("wb") as file:
                    process = await asyncio.create_subprocess_exec(
                        *with_parent_death_signal(
                            [sys.executable, "-m", "trafficlight.worker", str(theirs.fileno()), str(memory)]
                        ),
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
            raise WorkerDied(f"a worker did not start: {worker.unread or worker.last_words()}")
        return worker

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs and is listened to, as far as is known."""
        return self._process.returncode is None and not self._pump.done()

    async def wait(self) -> int:
        """Return how it ended, once it has: its exit code, or the negative number of a signal."""
        return await self._process.wait()

    def send(self, message: Message) -> None:
        """Send it a message; one that is gone does not get it."""
        self.used = True
        with contextlib.suppress(ConnectionError):
            write_message(self._writer, message)

    async def next(self) -> Message:
        """Return its next message.

        :raises WorkerDied: it is gone, or sent what cannot be read.
        """
        if self._messages.empty() and self._pump.done():
            raise WorkerDied
        message = await self._messages.get()
        if message is None:
            raise WorkerDied
        return message

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; nothing happens when it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def kill(self) -> None:
        """End it, whatever it does, with the processes that its test started."""
        self._pump.cancel()
        self._writer.close()
        # It leads a group of its own, which may outlive it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await self._writer.wait_closed()

    def begin(self) -> None:
        """Forget what it wrote for earlier attempts."""
        self._read_from = self._output.stat().st_size

    def last_words(self) -> str:
        """Return the end of what it wrote since its attempt began."""
        return read_tail(self._output, _TAIL, since=self._read_from).strip()

    async def _read(self) -> None:
        try:
            while (message := await read_message(self._reader, plain=True)) is not None:
                await self._messages.put(message)
                await asyncio.sleep(0)  # many that have come at once are to hold nobody up
        except Exception as error:
            self.unread = str(error)
            logger.error("worker %d sent what cannot be read: %s", self.pid, self.unread)
        await self._messages.put(None)


async def _connected(ours: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        ours.setblocking(False)
        return await asyncio.open_connection(sock=ours)
    except BaseException:
        ours.close()
        raise
