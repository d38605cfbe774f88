"""Client of a fork server: a process that starts others, such as homeservers, by forking itself."""

import asyncio
import itertools
import json
import logging
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from trafficlight.errors import DeployError
from trafficlight.homeservers.recipes.recipe import Command, Installation, Place
from trafficlight.processes import (
    ChildProcess,
    child_environment,
    describe_exit,
    log_opened,
    run_to_completion,
    start_process,
)

logger = logging.getLogger(__name__)

# The times in logs of homeservers are those of the pages.
_UTC = {"TZ": "UTC"}
_BOOT_SECONDS = 60
_ANSWER_SECONDS = 10
_CLOSE_SECONDS = 2


# The process that a request was about; None if it, or the fork server, has exited.
_Answer: TypeAlias = "asyncio.Future[ForkedProcess | None]"


class ForkedProcess:
    """A child of a fork server, which signals and reaps it."""

    def __init__(self, pid: int, owner: "ForkServer") -> None:
        self.pid = pid
        self._owner = owner
        self._ended = asyncio.Event()
        self._signalled: _Answer | None = None
        #: Its exit code, or the negative number of a signal; None while it runs.
        self.code: int | None = None

    @property
    def exited(self) -> str | None:
        """How it exited; None while it runs."""
        return None if self.code is None else describe_exit(self.code)

    async def wait(self) -> str:
        """Wait for the exit and return its description."""
        await self._ended.wait()
        return self.exited or ""

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, at some time soon: see :meth:`signalled`. Does nothing after the exit."""
        if self.code is None:
            self._signalled = self._owner.send({"do": "signal", "pid": self.pid, "number": int(number)})

    async def signalled(self) -> None:
        """Wait until it has got every signal that was sent so far, or has exited."""
        if (answer := self._signalled) is not None:  # kept here: another signal replaces it
            await asyncio.wait([answer])
            if answer.result() is None:
                await self._ended.wait()

    def end(self, code: int) -> None:
        """Record the exit; called by its fork server."""
        self.code = code
        self._ended.set()


class ForkServer:
    """One fork server, started by :meth:`boot`. It is killed if it leaves a request unanswered.

    :param requests: our end of its standard input; not blocking.
    :param patience: seconds for an answer; None for those that are usual.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, requests: socket.socket, patience: float | None = None
    ) -> None:
        self._process = process
        self._requests = requests
        self._patience = _ANSWER_SECONDS if patience is None else patience
        self._killed = False
        self._ids = itertools.count(1)
        # By the id of the request, with what sets its limit.
        self._unanswered: dict[int, tuple[_Answer, asyncio.TimerHandle]] = {}
        self._children: dict[int, ForkedProcess] = {}
        self._ready = asyncio.Event()
        self._reader = asyncio.create_task(self._read(), name="fork server")

    @property
    def alive(self) -> bool:
        """Whether it can start processes."""
        return not (self._killed or self._reader.done())

    @classmethod
    async def boot(
        cls,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        patience: float | None = None,
    ) -> "ForkServer":
        """Start a fork server and return when it has imported everything.

        :param command: the command line; this process's id is appended.
        :param log: the file for its own output.
        :param environment: its environment; by default that of homeservers.
        :param patience: seconds for an answer; None for those that are usual.
        :raises DeployError: it did not become ready; carries its output.
        """
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise DeployError(f"the fork server cannot be started: {error}") from error
        ours.setblocking(False)
        try:
            with theirs:
                async with log_opened(log) as errors:
                    process = await asyncio.create_subprocess_exec(
                        *command,
                        str(os.getpid()),
                        stdin=theirs.fileno(),
                        stdout=asyncio.subprocess.PIPE,
                        stderr=errors,
                        env=child_environment(_UTC) if environment is None else environment,
                        start_new_session=True,
                    )
        except OSError as error:
            ours.close()
            raise DeployError(f"the fork server cannot be started: {error}") from error
        except BaseException:
            ours.close()
            raise
        server = cls(process, ours, patience)
        waiting = asyncio.create_task(server._ready.wait())
        try:
            await asyncio.wait(
                [waiting, server._reader], timeout=_BOOT_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            if waiting.done():
                return server
        except asyncio.CancelledError:
            await run_to_completion(server.close())
            raise
        finally:
            waiting.cancel()
        late = server.alive
        await server.close()
        how = f"not ready within {_BOOT_SECONDS} s" if late else describe_exit(await process.wait())
        output = await asyncio.to_thread(log.read_text, errors="replace")
        raise DeployError(f"the fork server did not start: {how}", log=output[-3000:].strip())

    async def start(
        self, args: Sequence[str], directory: Path, log: Path, files: Sequence[int] = ()
    ) -> ForkedProcess:
        """Fork one process.

        :param files: open files that it gets; they may be closed when this has returned.
        :raises DeployError: the fork server has exited, or was killed because it did not answer.
        """
        request = {"do": "start", "args": list(args), "directory": str(directory), "log": str(log)}
        process = await self.send({**request, "files": len(files)}, files)
        if process is None:
            raise DeployError("the fork server has exited")
        return process

    def send(self, request: dict[str, Any], files: Sequence[int] = ()) -> _Answer:
        """Send a request and return the future of its answer, which has a deadline."""
        loop = asyncio.get_running_loop()
        answer: _Answer = loop.create_future()
        if not self.alive:
            answer.set_result(None)
            return answer
        number = next(self._ids)
        line = json.dumps({**request, "id": number}).encode() + b"\n"
        self._unanswered[number] = answer, loop.call_later(self._patience, self._expire)
        try:
            sent = socket.send_fds(self._requests, [line], files)
        except OSError:  # it has exited, or has stopped reading
            sent = 0
        if sent < len(line):
            self._kill()
        return answer

    async def close(self) -> None:
        """Stop it and all of its children. Idempotent."""
        if self._process.returncode is None:
            self._requests.close()  # it kills its children and exits
            if not self._ready.is_set():
                self._kill()
            try:
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await self._process.wait()
            except TimeoutError:
                self._kill()
        await self._process.wait()
        await self._reader
        self._requests.close()

    def _expire(self) -> None:
        logger.warning(
            "the fork server did not answer within %g s and is killed, with its %d children",
            self._patience,
            len(self._children),
        )
        self._kill()

    def _kill(self) -> None:
        self._killed = True
        if self._process.returncode is None:
            self._process.kill()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            async for line in self._process.stdout:
                self._handle(json.loads(line))
        except (OSError, ValueError) as error:
            logger.warning("the fork server sent what cannot be read, and is killed: %s", error)
            self._kill()
        finally:
            for child in self._children.values():
                child.end(-signal.SIGKILL)  # the kernel kills them with their parent
            self._children.clear()
            for number in list(self._unanswered):
                self._settle(number, None)

    def _settle(self, number: int, process: ForkedProcess | None) -> None:
        answer, deadline = self._unanswered.pop(number)
        deadline.cancel()
        if not answer.done():
            answer.set_result(process)
        elif process is not None:  # the caller of `start` was cancelled
            process.signal(signal.SIGKILL)

    def _handle(self, message: dict[str, Any]) -> None:
        match message:
            case {"ready": True}:
                self._ready.set()
            case {"started": int(pid), "id": int(number)} if number in self._unanswered:
                self._children[pid] = ForkedProcess(pid, self)
                self._settle(number, self._children[pid])
            case {"signalled": int(pid), "id": int(number)} if number in self._unanswered:
                self._settle(number, self._children.get(pid))
            case {"exited": int(pid), "code": int(code)}:
                if (ended := self._children.pop(pid, None)) is not None:
                    ended.end(code)
            case _:
                logger.warning("the fork server sent an unknown message: %s", message)


_ATTEMPTS = 2


ServerProcess: TypeAlias = ForkedProcess | ChildProcess


class Launcher:
    """Starts the homeservers of one installation.

    :param log: the file for the fork server's own output.
    """

    def __init__(self, installation: Installation, log: Path) -> None:
        self.installation = installation
        self._log = log
        self._fork_server: ForkServer | None = None
        self._fork_works = bool(installation.fork_server)
        self._booting = asyncio.Lock()
        self._closed = False

    async def warm_up(self) -> None:
        """Boot the fork server, so that the first start does not wait for it."""
        await self._running_fork_server()

    async def start(self, command: Command, place: Place) -> ServerProcess:
        """Start one homeserver; it is not ready yet.

        :raises DeployError: it cannot be started.
        """
        for _ in range(_ATTEMPTS if command.fork_args else 0):
            fork_server = await self._running_fork_server()
            if fork_server is None:
                break
            try:
                return await fork_server.start(command.fork_args, place.directory, place.log)
            except DeployError as error:
                logger.warning("%s: %s", self.installation.title, error)
        environment = child_environment({**_UTC, **command.environment})
        return await start_process(
            command.argv, environment=environment, directory=place.directory, log=place.log
        )

    async def close(self) -> None:
        """Stop the fork server and all of its homeservers. Idempotent."""
        self._closed = True
        async with self._booting:
            if self._fork_server is not None:
                await self._fork_server.close()

    async def _running_fork_server(self) -> ForkServer | None:
        """Return the fork server, booted again if it has exited; None if it does not work."""
        async with self._booting:
            if self._closed:
                raise DeployError(f"cannot start {self.installation.title}: its provider is closed")
            if not self._fork_works:
                return None
            if self._fork_server is not None:
                if self._fork_server.alive:
                    return self._fork_server
                await self._fork_server.close()
            try:
                self._fork_server = await ForkServer.boot(self.installation.fork_server, self._log)
            except DeployError as error:
                self._fork_works = False
                logger.warning("%s starts without a fork server, slowly: %s", self.installation.title, error)
                return None
            return self._fork_server
