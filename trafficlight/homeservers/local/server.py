"""One homeserver process on this machine, from its start to the removal of its data."""

import asyncio
import json
import logging
import shutil
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import aiohttp

from trafficlight.clock import race
from trafficlight.errors import DeployError, UnsupportedError
from trafficlight.homeservers.local.fork_server import Launcher, ServerProcess
from trafficlight.homeservers.probe import unless_exited, wait_until_ready
from trafficlight.homeservers.provider import BY_THE_TEST
from trafficlight.homeservers.recipes.recipe import Command, Place
from trafficlight.network.connection import FederationPort
from trafficlight.processes import run_to_completion
from trafficlight.server_types import merged
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
        self.server_name, self.cs_api = place.server_name, place.cs_api
        self.version = launcher.installation.title
        self._command = command
        self._launcher = launcher
        self._ready_timeout = ready_timeout
        self._on_destroyed = on_destroyed
        # Each with its command; of the homeserver's own, the first is the main one.
        self._processes: list[tuple[Command, ServerProcess]] = []
        self._services: list[tuple[Command, ServerProcess]] = []
        self._ended_by_test = False
        self._operating = asyncio.Lock()
        self._destroyed = False

    @property
    def federation(self) -> FederationPort | None:
        """How the network proxy gets before it; None unless its request wants that."""
        place = self.place
        files = place.certificate, place.private_key, place.authority
        return FederationPort(place.name_port, place.federation_port, *files) if place.name_port else None

    @property
    def pid(self) -> int | None:
        """The id of its current or last process."""
        return self._processes[0][1].pid if self._processes else None

    @property
    def exited(self) -> str | None:
        """How it exited, e.g. ``exit code 1``, or ``signal 9, requested by the test``; None while it runs."""
        if self._ended_by_test and self._processes and (reason := self._processes[0][1].exited) is not None:
            return reason + BY_THE_TEST
        everything = (*self._processes, *self._services)
        ends = (_named(command, process.exited or "") for command, process in everything)
        return next(filter(None, ends), None)

    async def start(self) -> None:
        """Start it and wait until it is ready.

        :raises DeployError: it did not become ready; carries the end of its log.
        """
        try:
            if self._command.services and not self._services:
                await self._launch(self._command.services, self._services)
                await unless_exited(self._accepting(self._services), _first_exit(self._services))
            await self._end(signal.SIGKILL)
            self._processes = []
            self._ended_by_test = False
            await self._launch((self._command, *self._command.workers), self._processes)
            await unless_exited(self._answering(), _first_exit([*self._processes, *self._services]))
        except DeployError as error:
            log = error.log or await asyncio.to_thread(read_tail, self.place.log, _TAIL_BYTES)
            message = f"{self.role}: {self.version} {error.message}"
            if self.place.config and self.exited is not None:
                message += f", with {json.dumps(self.place.config)}: {_complaint(log)}"
            raise DeployError(message, log=log.strip()) from error

    async def _launch(self, commands: Iterable[Command], into: list[tuple[Command, ServerProcess]]) -> None:
        for command in commands:
            process = await self._launcher.start(command, self.place)
            into.append((command, process))
            if self._destroyed:  # during the start
                process.signal(command.end)

    async def _accepting(self, processes: Iterable[tuple[Command, ServerProcess]]) -> None:
        for command, _ in processes:
            if command.ready is not None:
                await command.ready(self._ready_timeout)

    async def _answering(self) -> None:
        await self._accepting(self._processes)
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(connector=connector) as session:
            await wait_until_ready(
                session,
                self.cs_api,
                self._ready_timeout,
                longest_pause=_PROBE_SECONDS,
                federation_port=self.place.federation_port,
            )

    async def operate(self, operation: str, config: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Start, stop, restart, kill, pause or unpause it. Its data are kept.

        :param config: settings to change before a restart.
        :raises UnsupportedError: there is no such operation.
        :raises DeployError: it did not become ready again; carries the end of its log.
        """
        async with self._operating:
            match operation:
                case "start":
                    if not self._processes or self._processes[0][1].exited is not None:
                        await self.start()
                case "stop":
                    await self._stop()
                case "restart":
                    # Before it stops: it goes on if the settings are wrong.
                    changed = await asyncio.to_thread(self._changed, config) if config else None
                    await self._stop()
                    if changed is not None:
                        self.place, text = changed
                        assert self._command.config is not None
                        await asyncio.to_thread(self._command.config.write_text, text)
                    await self.start()
                case "kill":
                    await self._end(signal.SIGKILL)
                case "pause":
                    await self._signal(signal.SIGSTOP)
                case "unpause":
                    await self._signal(signal.SIGCONT)
                case _:
                    raise UnsupportedError(f"a local homeserver cannot {operation}")

    def _changed(self, config: Mapping[str, Any]) -> tuple[Place, str]:
        """Return its place with other settings, and the content of the file for them. Blocks."""
        if (file := self._command.config) is None:
            raise UnsupportedError(f"{self.role}: the settings of {self.version} cannot be changed")
        place = replace(self.place, config=merged(self.place.config, config))
        try:
            changed = place.configured(json.loads(file.read_text()), self._command.settings())
        except DeployError as error:
            raise DeployError(f"{self.role}: {self.version} {error.message}") from None
        return place, json.dumps(changed)

    async def destroy(self) -> None:
        """Kill it and remove its data, even when cancelled. Idempotent."""
        if not self._destroyed:
            self._destroyed = True
            for command, process in (*self._processes, *self._services):  # before the first await
                process.signal(command.end)
            await run_to_completion(self._remove())

    async def _remove(self) -> None:
        for _, process in (*self._processes, *self._services):
            await process.wait()
        await asyncio.to_thread(shutil.rmtree, self.place.directory, ignore_errors=True)
        self._on_destroyed(self)

    async def _stop(self) -> None:
        await self._signal(signal.SIGCONT)
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await self._end(signal.SIGTERM)
        except TimeoutError:
            logger.warning("%s: did not stop within %d s, killed", self.server_name, _STOP_SECONDS)
            await self._end(signal.SIGKILL)

    async def _end(self, number: signal.Signals) -> None:
        # Also where the main process has exited by itself: its workers may still run.
        if all(process.exited is not None for _, process in self._processes):
            return
        self._ended_by_test = True
        await self._signal(number)
        for _, process in self._processes:
            await process.wait()

    async def _signal(self, number: signal.Signals) -> None:
        for _, process in self._processes:
            process.signal(number)
        for _, process in self._processes:
            await process.signalled()


async def _first_exit(processes: Sequence[tuple[Command, ServerProcess]]) -> str:
    """Wait until a process exits, and return which and how."""

    async def end(command: Command, process: ServerProcess) -> str:
        return _named(command, await process.wait())

    return await race(*(end(command, process) for command, process in processes))


def _named(command: Command, reason: str) -> str:
    return f"{command.name}: {reason}" if command.name and reason else reason


def _complaint(log: str) -> str:
    """Return what a homeserver printed last: one that refuses its configuration says why, and exits."""
    lines = [line.strip() for line in log.splitlines() if line.strip()] or ["it printed nothing"]
    begins = [place for place, line in enumerate(lines) if line.startswith("Error in configuration")]
    return " ".join(lines[begins[-1] :] if begins else lines[-1:])[:_COMPLAINT]
