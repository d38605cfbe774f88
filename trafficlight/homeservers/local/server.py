"""One homeserver on this machine, from its start to the removal of its data."""

import asyncio
import logging
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

from trafficlight.errors import DeployError, UnsupportedError
from trafficlight.homeservers.local.launcher import Launcher
from trafficlight.homeservers.local.log import ServerLog
from trafficlight.homeservers.processes import ServerProcess
from trafficlight.homeservers.provider import AS_ASKED
from trafficlight.homeservers.readiness import wait_until_ready
from trafficlight.homeservers.recipes.recipe import Command, Place
from trafficlight.homeservers.tools import run_to_completion

logger = logging.getLogger(__name__)

_STOP_SECONDS = 10


class LocalServer:
    """A process, its folder, its ports and its log; belongs to one case, or to none yet.

    :param place: where it lives; its folder exists and its ports are ours.
    :param command: how it is started.
    :param launcher: who starts it.
    :param ready_timeout: how long it may take to answer, in seconds.
    """

    image = ""

    def __init__(
        self,
        place: Place,
        command: Command,
        launcher: Launcher,
        *,
        ready_timeout: float,
    ) -> None:
        self.place = place
        self.role = ""
        #: Called once, when nothing uses its place any more.
        self.on_destroyed: Callable[[], None] = _nothing
        self._command = command
        self._launcher = launcher
        self._ready_timeout = ready_timeout
        self._log = ServerLog(place.log)
        self._process: ServerProcess | None = None
        self._asked = False
        self._operating = asyncio.Lock()
        self._destroyed = False

    @property
    def server_name(self) -> str:
        """Its name, as it stands in user ids."""
        return self.place.server_name

    @property
    def cs_api(self) -> str:
        """The base URL of its client-server API, without a trailing slash."""
        return self.place.cs_api

    @property
    def version(self) -> str:
        """What runs, e.g. ``Synapse 1.163.2``."""
        return self._launcher.installation.title

    @property
    def pid(self) -> int | None:
        """The process id of what runs, or ran last."""
        return None if self._process is None else self._process.pid

    @property
    def exited(self) -> str | None:
        """Why it runs no more, e.g. ``exit code 1`` or ``signal 9``; None while it runs.

        Where :meth:`operate` ended it, that is added: ``signal 9, as asked``.
        """
        reason = None if self._process is None else self._process.exited
        return reason + AS_ASKED if reason is not None and self._asked else reason

    async def assign(self, role: str, log: Path) -> None:
        """Give it to a case: from now on its log is the case's file."""
        self.role = role
        await asyncio.to_thread(self._log.attach, log)

    async def start(self) -> None:
        """Start it and return when it answers.

        :raises DeployError: it did not; carries the end of its log.
        """
        try:
            self._process = process = await self._launcher.start(self._command, self.place)
            self._asked = False
            if self._destroyed:  # while it was being started
                process.signal(signal.SIGKILL)
            await wait_until_ready(self.place, process, self._ready_timeout)
        except DeployError as error:
            log = error.log or await asyncio.to_thread(self._log.tail)
            who = f"{self.role}: " if self.role else ""
            raise DeployError(f"{who}{self.version} {error.message}", log=log) from error

    async def operate(self, operation: str) -> None:
        """Start, stop, restart, kill, pause or unpause it, with its data kept.

        :raises UnsupportedError: there is no such operation.
        :raises DeployError: it did not come back; carries the end of its log.
        """
        async with self._operating:
            match operation:
                case "start":
                    if self._process is None or self._process.exited is not None:
                        await self.start()
                case "stop":
                    await self._stop()
                case "restart":
                    await self._stop()
                    await self.start()
                case "kill":
                    await self._end(signal.SIGKILL)
                case "pause":
                    self._signal(signal.SIGSTOP)
                case "unpause":
                    self._signal(signal.SIGCONT)
                case _:
                    raise UnsupportedError(f"a local homeserver cannot {operation}")

    async def destroy(self) -> None:
        """End it without ceremony and remove its data. Idempotent; not broken off by cancellation."""
        if not self._destroyed:
            self._destroyed = True
            self._signal(signal.SIGKILL)  # before anything is awaited
            await run_to_completion(self._clear())

    async def _clear(self) -> None:
        if self._process is not None:
            await self._process.wait()
        try:
            await asyncio.to_thread(self._log.drain)
        except OSError as error:
            logger.warning("%s: the end of its log is lost: %s", self.server_name, error)
        await asyncio.to_thread(shutil.rmtree, self.place.directory, ignore_errors=True)
        self.on_destroyed()

    async def _stop(self) -> None:
        self._signal(signal.SIGCONT)
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await self._end(signal.SIGTERM)
        except TimeoutError:
            logger.warning("%s: did not stop within %d s, killed", self.server_name, _STOP_SECONDS)
            await self._end(signal.SIGKILL)

    async def _end(self, number: signal.Signals) -> None:
        if self._process is None or self._process.exited is not None:
            return
        self._asked = True
        self._process.signal(number)
        await self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.signal(number)


def _nothing() -> None:
    """Stand for a callback that nobody has set."""
