"""Start the homeservers of one installation: with its fork server, else as plain processes."""

import asyncio
import logging
from pathlib import Path
from typing import TypeAlias

from trafficlight.errors import DeployError
from trafficlight.homeservers.local.fork_server import ForkedProcess, ForkServer
from trafficlight.homeservers.recipes.recipe import Command, Installation, Place
from trafficlight.processes import ChildProcess, child_environment, start_process

logger = logging.getLogger(__name__)

_ATTEMPTS = 2


ServerProcess: TypeAlias = ForkedProcess | ChildProcess


class Launcher:
    """Starts the homeservers of one installation.

    :param installation: what to start.
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
        for _ in range(_ATTEMPTS):
            fork_server = await self._running_fork_server()
            if fork_server is None:
                break
            try:
                return await fork_server.start(command.fork_args, place.directory, place.log)
            except DeployError as error:
                logger.warning("%s: %s", self.installation.title, error)
        environment = child_environment(command.environment)
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
