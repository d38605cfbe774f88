"""A driver's process and folder, and the JSON lines on its standard input and output."""

import asyncio
import json
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from pydantic import ValidationError

from trafficlight.adapters.host.log import DriverLog
from trafficlight.adapters.sdk.driver import empty_folder
from trafficlight.clock import cancel_all
from trafficlight.errors import LabError
from trafficlight.processes import (
    LAB_ONLY,
    describe_exit,
    run_to_completion,
    signal_marked,
    with_parent_death_signal,
)
from trafficlight.protocol import TOKEN_VARIABLES, JsonObject, Registration
from trafficlight.text import first_problem

BUFFERED = "does a driver buffer its input or output? flush after each line"
"""A hint for what is silent."""

# Bytes of a line; the coordinator accepts 16 MiB.
_LONGEST_LINE = 32 << 20
# Bytes of a line that is no message, in the log and in an error.
_NOTED, _SHOWN = 2000, 200
# Seconds that a process has after the end of its input, and then after SIGTERM.
_INPUT_GRACE, _TERM_GRACE = 2.0, 0.5
# Seconds without output after a process exited, until all of it is read; a child may still hold the pipes.
_LAST_OUTPUT = 0.5
# How many times as long it may take at most.
_MOST_WAITS = 20
# Bytes of the log that are read at once.
_CHUNK = 256 << 10
# Bytes that are free on a disk that is not full.
_FREE = 1 << 20
# Bytes and lines of the log that an error shows.
_TAIL, _TAIL_LINES = 2000, 10
# Names a folder that no other driver has.
_STORAGE = "TRAFFICLIGHT_STORAGE"
# For the host only. Not TRAFFICLIGHT_INSTANCE, by which the lab finds what a killed host leaves.
_NOT_INHERITED = frozenset(
    {*TOKEN_VARIABLES, LAB_ONLY, "TRAFFICLIGHT_INSTANCE_SECRET", "TRAFFICLIGHT_URL", "trafficlightURL"}
)


class DriverError(LabError):
    """A driver exited, did not answer, or does not keep to the protocol."""


@dataclass(frozen=True, slots=True)
class DriverCommand:
    """How to start a driver.

    :param arguments: the program and its arguments.
    :param environment: variables to set besides the inherited ones.
    :param directory: its working directory; by default this process's.
    """

    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    directory: Path | None = None


class _Process(asyncio.subprocess.SubprocessStreamProtocol):
    """A process that is known to have exited also while a child of it holds its pipes."""

    def __init__(self) -> None:
        super().__init__(_LONGEST_LINE, asyncio.get_running_loop())
        self.exited = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert isinstance(transport, asyncio.SubprocessTransport)
        self.transport = transport

    def process_exited(self) -> None:
        self.exited.set()
        super().process_exited()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process and its children."""
        with suppress(ProcessLookupError):
            os.killpg(self.transport.get_pid(), number)


class Driver:
    """A driver for one registration: its folder, and its process, which can be started again.

    :param command: how to start it.
    :param start_limit: seconds until it says what it is.
    :ivar hello: what it says it is, once :meth:`start` has returned.
    :ivar lost: gets an error when its process exits unasked.
    """

    hello: Registration

    def __init__(self, command: DriverCommand, *, start_limit: float = 120.0) -> None:
        self._command = command
        self._start_limit = start_limit
        self._folder: Path | None = None
        self._log: DriverLog | None = None
        self._process: _Process | None = None
        self._following: asyncio.Task[None] | None = None
        self._number = 0
        self._heard = 0  # pieces of its output
        self._answer: asyncio.Future[JsonObject] | None = None
        self._greeting: asyncio.Future[Registration] | None = None
        self._suspended = False
        self._ending = False
        self._kills = 0
        #: Held while a process is created or killed on request.
        self._spawning = asyncio.Lock()
        self.lost: asyncio.Future[DriverError] = asyncio.get_running_loop().create_future()

    @property
    def folder(self) -> Path:
        """Its folder, with ``storage``, ``evidence`` and ``driver.log``."""
        assert self._folder is not None, "it was not started"
        return self._folder

    @property
    def log(self) -> DriverLog:
        """Its standard error, and what it printed besides messages."""
        assert self._log is not None, "it was not started"
        return self._log

    @property
    def evidence(self) -> Path:
        """The folder whose files it leaves for the results."""
        return self.folder / "evidence"

    async def start(self) -> None:
        """Start the process and wait for its first message, which says what it is.

        :raises DriverError: it exits, says something else, or says nothing for too long; it is killed.
        """
        await self._start(self._kills)

    async def _start(self, kills: int) -> None:
        """Start the process, unless it was killed since there were this many kills."""
        if self._folder is None:
            await run_to_completion(self._make_folder())
        environment = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
        environment |= self._command.environment
        environment[_STORAGE] = str(self.folder / "storage")
        environment["TRAFFICLIGHT_EVIDENCE"] = str(self.evidence)
        async with self._spawning:
            if self._kills != kills:
                raise DriverError("the driver was killed before it was started again")
            try:
                _, process = await asyncio.get_running_loop().subprocess_exec(
                    _Process,
                    *with_parent_death_signal(self._command.arguments),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.PIPE,
                    env=environment,
                    cwd=self._command.directory,
                    start_new_session=True,
                )
            except OSError as error:
                raise DriverError(f"cannot start {self._command.arguments[0]}: {error}") from None
            # No await until here: a cancellation would lose the process.
            self._suspended = self._ending = False
            self._process = process
            self._greeting = asyncio.get_running_loop().create_future()
            self._following = asyncio.create_task(self._follow(process), name="reader of a driver")
        try:
            async with asyncio.timeout(self._start_limit):
                self.hello = await self._greeting
        except BaseException as error:
            await run_to_completion(self._stop())
            if not isinstance(error, TimeoutError):
                raise
            within = f"within {self._start_limit:g} s"
            raise DriverError(
                f'no line {{"type": ...}} on standard output {within} ({BUFFERED}){await self._tail()}'
            ) from None

    async def ask(self, action: str, data: JsonObject, limit: float) -> JsonObject:
        """Send an action and return the message that answers it.

        :param limit: seconds until the answer.
        :raises DriverError: it exits, or does not answer in time.
        """
        process = self._running()
        assert process.stdin is not None
        self._number += 1
        self._answer = asyncio.get_running_loop().create_future()
        message = {"id": self._number, "action": action, "data": data, "deadline": limit}
        line = json.dumps(message).encode() + b"\n"
        try:
            async with asyncio.timeout(limit):
                process.stdin.write(line)
                with suppress(ConnectionError):  # it exited, or will not answer
                    await process.stdin.drain()
                return await self._answer
        except TimeoutError:
            raise DriverError(f"the driver did not answer within {limit:g} s{await self._tail()}") from None
        finally:
            self._answer = None

    async def kill(self) -> None:
        """Kill the process and its children, also one that another task starts. Idempotent."""
        self._kills += 1
        async with self._spawning:
            await self._stop()

    async def _stop(self) -> None:
        self._ending = True
        process, following = self._process, self._following
        if process is None or following is None:
            return
        process.signal(signal.SIGKILL)
        await following
        self._process = self._following = None

    async def end(self) -> None:
        """End the process: by the end of its input, then SIGTERM, then SIGKILL. Idempotent."""
        self._ending = True
        process = self._process
        if process is not None and process.stdin is not None and not self._suspended:
            process.stdin.close()
            for grace in (_INPUT_GRACE, _TERM_GRACE):
                with suppress(TimeoutError):
                    async with asyncio.timeout(grace):
                        await process.exited.wait()
                        break
                if not process.exited.is_set():
                    process.transport.terminate()
        await self._stop()

    async def restart(self) -> None:
        """End the process, unless it was killed, and start it again with the same storage.

        :raises DriverError: see :meth:`start`.
        """
        kills = self._kills
        await self.end()
        await self._start(kills)

    @property
    def runs(self) -> bool:
        """Whether its process runs: it was not killed, is not suspended and has not exited."""
        return self._process is not None and not self._suspended and not self.lost.done()

    @property
    def killed(self) -> bool:
        """Whether its process was ended on request."""
        return self._ending

    async def clear_storage(self) -> None:
        """Kill the process, delete its storage, and start it again.

        :raises DriverError: the storage cannot be deleted; or see :meth:`start`.
        """
        kills = self._kills
        await self._stop()
        try:
            await asyncio.to_thread(empty_folder, self.folder / "storage")
        except OSError as error:
            raise DriverError(f"the driver's storage cannot be cleared: {error}") from None
        await self._start(kills)

    async def suspend(self) -> None:
        """Stop the process, and all that it has started, with SIGSTOP.

        :raises DriverError: it does not run.
        """
        process = self._running()
        process.signal(signal.SIGSTOP)
        await self._signal_started(signal.SIGSTOP)
        self._suspended = True
        with suppress(ChildProcessError):  # it exited
            await asyncio.to_thread(
                os.waitid, os.P_PID, process.transport.get_pid(), os.WSTOPPED | os.WEXITED | os.WNOWAIT
            )

    async def resume(self) -> None:
        """Continue a suspended process.

        :raises DriverError: it does not run.
        """
        self._suspended = False
        self._running().signal(signal.SIGCONT)
        await self._signal_started(signal.SIGCONT)

    async def remove(self) -> None:
        """Kill the process and delete its folder. Idempotent."""
        await self.kill()
        folder, self._folder = self._folder, None
        if folder is not None:
            await asyncio.to_thread(self.log.close)
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    def _running(self) -> _Process:
        if self._process is None:
            raise DriverError("the driver was killed: `restart` starts it again")
        if self._suspended:
            raise DriverError("the driver is suspended: `resume` continues it")
        return self._process

    async def _follow(self, process: _Process) -> None:
        """Read what a process prints until it exits, and fail what waits for it."""
        reading = [asyncio.create_task(self._read(process)), asyncio.create_task(self._read_log(process))]
        try:
            await process.exited.wait()
            await asyncio.wait(reading, timeout=_LAST_OUTPUT)
        finally:
            process.signal(signal.SIGKILL)  # its children
            await self._signal_started(signal.SIGKILL)
            for _ in range(_MOST_WAITS):
                heard = self._heard
                _, unread = await asyncio.wait(reading, timeout=_LAST_OUTPUT)
                if not unread or heard == self._heard:
                    break
            await cancel_all(*reading)
            process.transport.close()
        how = describe_exit(process.transport.get_returncode() or 0)
        error = DriverError(f"the driver exited ({how}){await self._tail()}")
        for waiting in (self._greeting, self._answer):
            if waiting is not None and not waiting.done():
                waiting.set_exception(error)
        if not self._ending and not self.lost.done():
            self.lost.set_result(error)

    async def _signal_started(self, number: signal.Signals) -> None:
        """Signal what the process has started, and its children, wherever they are."""
        await asyncio.to_thread(signal_marked, _STORAGE, [str(self.folder / "storage")], number)

    async def _read(self, process: _Process) -> None:
        assert process.stdout is not None
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:  # the reader has dropped what it has of the line
                error = DriverError(f"the driver printed a line of more than {_LONGEST_LINE >> 20} MiB")
                await self._note(str(error).encode())
                if self._answer is not None and not self._answer.done():
                    self._answer.set_exception(error)
                continue
            if not line:
                return
            self._heard += 1
            if not self._take(line):
                await self._note(line)

    async def _read_log(self, process: _Process) -> None:
        assert process.stderr is not None
        while chunk := await process.stderr.read(_CHUNK):
            self._heard += 1
            await asyncio.to_thread(self.log.write, chunk)

    def _take(self, line: bytes) -> bool:
        """Take a line; return whether it is a message that was waited for."""
        try:
            said: Any = json.loads(line)
        except (ValueError, RecursionError):
            return False
        greeting = self._greeting if self._greeting is not None and not self._greeting.done() else None
        if not isinstance(said, dict):
            if greeting is not None and isinstance(said, list):
                shown = line[:_SHOWN].decode(errors="replace").strip()
                greeting.set_exception(DriverError(f"its first message must be an object, not {shown}"))
            return False
        if greeting is not None and "type" in said:
            try:
                greeting.set_result(Registration.model_validate(said))
            except ValidationError as error:
                where, problem = first_problem(error)
                greeting.set_exception(DriverError(f"its first message: {where}: {problem}"))
            return True
        if self._answer is not None and not self._answer.done() and said.get("id") == self._number:
            self._answer.set_result(said)
            return True
        return False

    async def _make_folder(self) -> None:
        self._folder, self._log = await asyncio.to_thread(_new_folder)

    async def _note(self, line: bytes) -> None:
        """Append what it printed to its log."""
        more = b" ..." if len(line) > _NOTED else b""
        await asyncio.to_thread(self.log.write, line[:_NOTED].rstrip(b"\n") + more + b"\n")

    async def _tail(self) -> str:
        """Return the end of an error's message: whether the disk is full, and the last lines of its log."""
        is_full = await asyncio.to_thread(_is_full, self.folder)
        full = f"; no space is left in {self.folder.parent}" if is_full else ""
        text = await asyncio.to_thread(self.log.tail, _TAIL)
        lines = [line for line in text.splitlines() if line.strip()][-_TAIL_LINES:]
        return full + (":\n" + "\n".join(lines) if lines else "")


def _new_folder() -> tuple[Path, DriverLog]:
    folder = Path(mkdtemp(prefix="trafficlight-driver-")).resolve()
    for name in ("storage", "evidence"):
        (folder / name).mkdir()
    return folder, DriverLog(folder / "driver.log")


def _is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < _FREE
    except OSError:
        return False
