"""One homeserver process on this machine, from its start to the removal of its data."""

import asyncio
import json
import logging
import shutil
import signal
from collections.abc import Callable

import aiohttp

from trafficlight.errors import DeployError, UnsupportedError
from trafficlight.homeservers.local.fork_server import Launcher, ServerProcess
from trafficlight.homeservers.probe import unless_exited, wait_until_ready
from trafficlight.homeservers.provider import BY_THE_TEST
from trafficlight.homeservers.recipes.recipe import Command, Place
from trafficlight.processes import run_to_completion
from trafficlight.text import read_tail

logger = logging.getLogger(__name__)

_STOP_SECONDS = 10
_TAIL_BYTES = 6000
_COMPLAINT = 500  # characters
_PROBE_SECONDS = 0.01  # a start takes 0.2 s: longer intervals would show


class LocalServer:
    """A process with its folder, ports and log.

    :param place: its folder, which exists, and its ports, which are held for it.
    :param ready_timeout: how long it may take to become ready, in seconds.
    :param on_destroyed: called once, when its place can be released.
    """

    image = ""

    def __init__(
        self,
        role: str,
        place: Place,
        command: Command,
        launcher: Launcher,
        *,
        ready_timeout: float,
        on_destroyed: Callable[["LocalServer"], None],
    ) -> None:
        self.place = place
        self.role = role
        self._command = command
        self._launcher = launcher
        self._ready_timeout = ready_timeout
        self._on_destroyed = on_destroyed
        self._process: ServerProcess | None = None
        self._ended_by_test = False
        self._operating = asyncio.Lock()
        self._destroyed = False

    @property
    def server_name(self) -> str:
        """The server name, as in user ids."""
        return self.place.server_name

    @property
    def cs_api(self) -> str:
        """The base URL of its client-server API, without a trailing slash."""
        return self.place.cs_api

    @property
    def version(self) -> str:
        """Its name and version, e.g. ``Synapse 1.98.0``."""
        return self._launcher.installation.title

    @property
    def pid(self) -> int | None:
        """The id of its current or last process."""
        return None if self._process is None else self._process.pid

    @property
    def exited(self) -> str | None:
        """How it exited, e.g. ``exit code 1``, or ``signal 9, requested by the test``; None while it runs."""
        reason = None if self._process is None else self._process.exited
        return reason + BY_THE_TEST if reason is not None and self._ended_by_test else reason

    async def start(self) -> None:
        """Start it and wait until it is ready.

        :raises DeployError: it did not become ready; carries the end of its log.
        """
        try:
            self._process = process = await self._launcher.start(self._command, self.place)
            self._ended_by_test = False
            if self._destroyed:  # during the start
                process.signal(signal.SIGKILL)
            connector = aiohttp.TCPConnector(force_close=True)
            async with aiohttp.ClientSession(connector=connector) as session:
                ready = wait_until_ready(
                    session,
                    self.cs_api,
                    self._ready_timeout,
                    longest_pause=_PROBE_SECONDS,
                    federation_port=self.place.federation_port,
                )
                await unless_exited(ready, process.wait())
        except DeployError as error:
            log = error.log or await asyncio.to_thread(read_tail, self.place.log, _TAIL_BYTES)
            message = f"{self.role}: {self.version} {error.message}"
            if self.place.config and self.exited is not None:
                message += f", with {json.dumps(self.place.config)}: {_complaint(log)}"
            raise DeployError(message, log=log.strip()) from error

    async def operate(self, operation: str) -> None:
        """Start, stop, restart, kill, pause or unpause it. Its data are kept.

        :raises UnsupportedError: there is no such operation.
        :raises DeployError: it did not become ready again; carries the end of its log.
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
        """Kill it and remove its data, even when cancelled. Idempotent."""
        if not self._destroyed:
            self._destroyed = True
            self._signal(signal.SIGKILL)  # before the first await
            await run_to_completion(self._remove())

    async def _remove(self) -> None:
        if self._process is not None:
            await self._process.wait()
        await asyncio.to_thread(shutil.rmtree, self.place.directory, ignore_errors=True)
        self._on_destroyed(self)

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
        self._ended_by_test = True
        self._process.signal(number)
        await self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.signal(number)


def _complaint(log: str) -> str:
    """Return what a homeserver printed last: one that refuses its configuration says why, and exits."""
    lines = [line.strip() for line in log.splitlines() if line.strip()] or ["it printed nothing"]
    begins = [place for place, line in enumerate(lines) if line.startswith("Error in configuration")]
    return " ".join(lines[begins[-1] :] if begins else lines[-1:])[:_COMPLAINT]
