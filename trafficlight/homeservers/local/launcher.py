"""Start the processes of one installation, by the fastest way that works."""

import asyncio
import logging
from pathlib import Path

from trafficlight.errors import DeployError
from trafficlight.homeservers.local.fork_server import ForkServer
from trafficlight.homeservers.processes import ServerProcess, start_plain
from trafficlight.homeservers.recipes.recipe import Command, Installation, Place
from trafficlight.homeservers.tools import child_environment

logger = logging.getLogger(__name__)


class Launcher:
    """Starts homeservers of one installation: by its fork server where that works, else by themselves.

    :param installation: what to start.
    :param log: where the fork server's own messages go.
    """

    def __init__(self, installation: Installation, log: Path) -> None:
        self.installation = installation
        self._log = log
        self._fork_server: ForkServer | None = None
        self._fork_works = bool(installation.fork_server)
        self._booting = asyncio.Lock()
        self._closed = False

    @property
    def forks(self) -> bool:
        """Whether it starts servers by forking, as far as is known."""
        return self._fork_works

    @property
    def fork_server(self) -> ForkServer | None:
        """The fork server, once there is one."""
        return self._fork_server

    async def warm_up(self) -> None:
        """Boot the fork server, so that the first start need not wait for it."""
        await self._running_fork_server()

    async def start(self, command: Command, place: Place) -> ServerProcess:
        """Start one homeserver; it does not answer yet.

        :raises DeployError: it cannot even be started.
        """
        fork_server = await self._running_fork_server()
        if fork_server is not None:
            try:
                return await fork_server.start(command.fork_args, place.directory, place.log)
            except DeployError as error:
                logger.warning("%s: %s; starting one server without it", self.installation.title, error)
        environment = child_environment(command.environment)
        return await start_plain(
            command.argv, environment=environment, directory=place.directory, log=place.log
        )

    async def close(self) -> None:
        """End the fork server with all of its servers. Idempotent."""
        self._closed = True
        async with self._booting:
            if self._fork_server is not None:
                await self._fork_server.close()

    async def _running_fork_server(self) -> ForkServer | None:
        async with self._booting:
            if self._closed:
                raise DeployError(
                    f"{self.installation.title} is not started any more: its provider is closed"
                )
            if not self._fork_works or (self._fork_server is not None and self._fork_server.alive):
                return self._fork_server if self._fork_works else None
            try:
                if self._fork_server is not None:
                    await self._fork_server.close()
                self._fork_server = await ForkServer.boot(self.installation.fork_server, self._log)
            except DeployError as error:
                self._fork_works = False
                logger.warning("%s starts slowly: %s", self.installation.title, error)
                return None
            return self._fork_server
