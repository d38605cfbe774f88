"""Talk to a fork server: a process of one homeserver version that starts servers by forking itself."""

import asyncio
import itertools
import json
import logging
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trafficlight.errors import DeployError
from trafficlight.homeservers.processes import describe_exit
from trafficlight.homeservers.tools import child_environment, run_to_completion

logger = logging.getLogger(__name__)

_BOOT_SECONDS = 60
_GONE = describe_exit(-signal.SIGKILL)


class ForkedProcess:
    """A child of a fork server, which alone signals and reaps it."""

    def __init__(self, pid: int, owner: "ForkServer") -> None:
        self._pid = pid
        self._owner = owner
        self._ended = asyncio.Event()
        self._reason: str | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._pid

    @property
    def exited(self) -> str | None:
        """Why it runs no more; None while it runs."""
        return self._reason

    async def wait(self) -> str:
        """Return why it ended, once it has."""
        await self._ended.wait()
        return self._reason or _GONE

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; nothing happens when it has ended."""
        if self._reason is None:
            self._owner.tell({"do": "signal", "pid": self._pid, "number": int(number)})

    def end(self, reason: str) -> None:
        """Note why it ended; called by its fork server."""
        self._reason = reason
        self._ended.set()


class ForkServer:
    """One fork server. Made by :meth:`boot`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._ids = itertools.count(1)
        self._starting: dict[int, asyncio.Future[ForkedProcess]] = {}
        self._children: dict[int, ForkedProcess] = {}
        self._ready = asyncio.Event()
        self._over = False
        self._reader = asyncio.create_task(self._read(), name="fork server")

    @property
    def alive(self) -> bool:
        """Whether it can start servers."""
        return not self._over

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @classmethod
    async def boot(cls, command: Sequence[str], log: Path) -> "ForkServer":
        """Start one and return when it has loaded everything.

        :param command: the command line; our pid is added to it.
        :param log: what it says itself.
        :raises DeployError: it does not work; carries what it said.
        """
        errors = await asyncio.to_thread(log.open, "ab")
        with errors:
            try:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    str(os.getpid()),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=errors,
                    env=child_environment(),
                    start_new_session=True,
                )
            except OSError as error:
                raise DeployError(f"the fork server cannot be started: {error}") from error
        server = cls(process)
        try:
            async with asyncio.timeout(_BOOT_SECONDS):
                await server._ready.wait()
            if server.alive:
                return server
        except TimeoutError:
            pass
        except asyncio.CancelledError:
            await run_to_completion(server.close())
            raise
        await server.close()
        said = await asyncio.to_thread(log.read_text, errors="replace")
        raise DeployError("the fork server did not come up", log=said[-3000:])

    async def start(self, args: Sequence[str], directory: Path, log: Path) -> ForkedProcess:
        """Fork one homeserver.

        :raises DeployError: the fork server has died.
        """
        if not self.alive:
            raise DeployError("the fork server has died")
        number = next(self._ids)
        started: asyncio.Future[ForkedProcess] = asyncio.get_running_loop().create_future()
        self._starting[number] = started
        self.tell(
            {"do": "start", "id": number, "args": list(args), "directory": str(directory), "log": str(log)}
        )
        return await started

    def tell(self, message: dict[str, Any]) -> None:
        """Send it a request; nothing happens when it has died."""
        if self.alive and self._process.stdin is not None:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")

    async def close(self) -> None:
        """End it and all of its children. Idempotent."""
        if self._process.returncode is None:
            if self._process.stdin is not None:
                self._process.stdin.close()  # it kills its children then
            try:
                async with asyncio.timeout(2):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
        await self._process.wait()
        await self._reader

    async def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            async for line in self._process.stdout:
                self._handle(json.loads(line))
        except (OSError, ValueError) as error:
            logger.warning("the fork server broke off: %s", error)
        finally:
            self._over = True
            self._ready.set()
            for child in self._children.values():
                child.end(_GONE)  # the kernel ends them with their parent
            self._children.clear()
            for started in self._starting.values():
                if not started.done():
                    started.set_exception(DeployError("the fork server has died"))
            self._starting.clear()

    def _handle(self, message: dict[str, Any]) -> None:
        match message:
            case {"ready": True}:
                self._ready.set()
            case {"started": int(pid), "id": int(number)}:
                child = self._children[pid] = ForkedProcess(pid, self)
                started = self._starting.pop(number)
                if started.done():  # whoever asked was cancelled
                    child.signal(signal.SIGKILL)
                else:
                    started.set_result(child)
            case {"exited": int(pid), "code": int(code)}:
                if (ended := self._children.pop(pid, None)) is not None:
                    ended.end(describe_exit(code))
            case _:
                logger.warning("the fork server said something unknown: %s", message)
