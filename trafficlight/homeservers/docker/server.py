"""One homeserver in one container, from its creation to its removal."""

import asyncio
import contextlib
import io
import logging
import tarfile
from collections import deque
from pathlib import Path
from typing import Any

import aiohttp

from trafficlight.clock import race
from trafficlight.errors import DeployError, UnsupportedError
from trafficlight.homeservers.docker.engine import CREATE_SECONDS, DockerEngine
from trafficlight.homeservers.docker.errors import engine_errors, problem
from trafficlight.homeservers.docker.events import ContainerWatch
from trafficlight.homeservers.probe import title_of, wait_for_versions
from trafficlight.homeservers.provider import AS_ASKED
from trafficlight.homeservers.tools import run_to_completion

logger = logging.getLogger(__name__)

CLIENT_PORT, FEDERATION_PORT = "8008/tcp", "8448/tcp"
_STOP_SECONDS = 10
_LOG_SECONDS = 10
_DESTROY_SECONDS = 60
_TOLD_SECONDS = 30  # from an end to the engine's event of it
_TAIL_LINES = 40


class DockerServer:
    """A container, its published ports and its log.

    :param engine: where it is; connected.
    :param role: the role that it plays.
    :param server_name: its name, which is its alias in the deployment's network too.
    :param ports: where its client and federation ports are published, fixed so that a restart keeps them.
    :param log: the file for its log.
    :param ready_timeout: how long it may take to answer, in seconds.
    """

    def __init__(
        self,
        engine: DockerEngine,
        role: str,
        server_name: str,
        ports: tuple[int, int],
        log: Path,
        *,
        ready_timeout: float,
    ) -> None:
        self.role = role
        self.server_name = server_name
        self.version = ""
        self.ports = ports
        self.cs_api = f"http://{engine.address}:{ports[0]}"
        self._federation = f"https://{engine.address}:{ports[1]}"
        self._engine = engine
        self._log = log
        self._ready_timeout = ready_timeout
        self._container: Any = None
        self._watch = ContainerWatch()
        self._following: asyncio.Task[None] | None = None
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._operating = asyncio.Lock()
        self._asked = False

    @property
    def exited(self) -> str | None:
        """Why it runs no more, e.g. ``exit code 1``; None while it runs. What `operate` ended says so."""
        reason = self._watch.reason
        return reason + AS_ASKED if reason is not None and self._asked else reason

    async def create(self, name: str, configuration: dict[str, Any], archive: bytes) -> None:
        """Make its container, not started yet.

        :param name: the container's name.
        :param configuration: as the engine's API takes it.
        :param archive: files to put into it, a tar.
        :raises DockerError: the engine refuses.
        :raises TimeoutError: it does not answer; if it makes one yet, the next reclaim removes that.
        """

        async def make() -> None:
            async with asyncio.timeout(CREATE_SECONDS):
                self._container = await self._engine.docker.containers.create(configuration, name=name)
            self._engine.wanted.add(self._container.id)
            self._watch = self._engine.watch.add(self._container.id)

        await run_to_completion(make())  # nobody would find a container that is made while we are called off
        await self._container.put_archive("/", archive)

    async def start(self) -> None:
        """Start it and return when it answers.

        :raises DockerError: the engine refuses.
        :raises DeployError: it did not come up; carries the end of its log.
        """
        since = self._watch.ended_at
        self._watch.begin()
        self._asked = False
        await self._container.start()
        self._following = asyncio.create_task(self._follow(since))
        await self._until_ready()

    async def operate(self, operation: str) -> None:
        """Start, stop, restart, kill, pause or unpause it, with its data kept, and its ports.

        :raises UnsupportedError: there is no such operation.
        :raises DeployError: it did not come back; carries the end of its log.
        """
        async with self._operating:
            try:
                match operation:
                    case "start":
                        if self._watch.reason is not None:
                            await self.start()
                    case "stop":
                        await self._stop()
                    case "restart":
                        await self._stop()
                        await self.start()
                    case "kill":
                        await self._end(self._container.kill)
                    case "pause":
                        await self._container.pause()
                    case "unpause":
                        await self._container.unpause()
                    case _:
                        raise UnsupportedError(f"a homeserver in Docker cannot {operation}")
            except TimeoutError:
                raise DeployError(f"{self.role}: nothing tells that it ended", log=self._log_end()) from None
            except engine_errors() as error:
                raise DeployError(
                    f"{self.role}: cannot {operation}: {problem(error)}", log=self._log_end()
                ) from error

    async def destroy(self) -> None:
        """Remove the container with its data, and complete the log; problems are logged.

        Where its engine does not answer it is removed when that comes back.
        """
        if self._container is None:
            return
        engine, container = self._engine, self._container
        try:
            if engine.up:
                async with asyncio.timeout(_DESTROY_SECONDS):
                    await self._destroy()
        except engine_errors() as error:
            if getattr(error, "status", 0) != 404:
                logger.warning(
                    "%s: cannot remove the container of %s: %s", engine.url, self.role, problem(error)
                )
        finally:
            if self._following is not None:
                self._following.cancel()
                await asyncio.wait([self._following])
            engine.watch.remove(container.id)
            engine.wanted.discard(container.id)

    async def _destroy(self) -> None:
        from aiodocker.exceptions import DockerError

        if self._watch.reason is None:
            with contextlib.suppress(DockerError):  # it is not running, or paused, which removal ends
                await self._container.unpause()
            with contextlib.suppress(DockerError):
                await self._container.kill()
        await self._finish_log()
        await self._container.delete(force=True, v=True)

    async def _stop(self) -> None:
        state = (await self._container.show())["State"]
        if state["Paused"]:
            await self._container.unpause()
        await self._end(lambda: self._container.stop(t=_STOP_SECONDS))

    async def _end(self, how: Any) -> None:
        if self._watch.reason is not None:
            return
        self._asked = True
        await how()
        async with asyncio.timeout(_TOLD_SECONDS):
            await self._watch.ended()
        await self._finish_log()

    async def _until_ready(self) -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
            try:
                answering = wait_for_versions(session, self.cs_api, self._ready_timeout)
                exited = await race(self._watch.ended(), answering)
            except DeployError as error:
                raise DeployError(f"{self.role}: {error}", log=self._log_end()) from error
            if exited is not None:
                await self._finish_log()
                raise DeployError(f"{self.role}: ended while starting, {exited}", log=self._log_end())
            if not self.version:
                self.version = await title_of(session, self._federation, self.cs_api)

    async def _follow(self, since: str | None) -> None:
        """Write the container's log into the file as it comes, until the container ends."""
        begin = {} if since is None else {"since": since}
        file = await asyncio.to_thread(self._log.open, "a", buffering=1)
        try:
            async for piece in self._container.log(stdout=True, stderr=True, follow=True, **begin):
                file.write(piece)
                self._tail.append(piece.rstrip("\n"))
        except engine_errors() as error:
            file.write(f"(its log broke off here: {problem(error)})\n")
        finally:
            await asyncio.to_thread(file.close)

    async def _finish_log(self) -> None:
        """Wait for the end of the log, which the engine sends when the container has ended."""
        if self._following is None:
            return
        done, _ = await asyncio.wait([self._following], timeout=_LOG_SECONDS)
        if not done:
            self._following.cancel()
            await asyncio.wait([self._following])
            logger.warning("%s: the end of its log is lost", self.role)
        self._following = None

    def _log_end(self) -> str:
        return "\n".join(self._tail)


def authority_archive(certificate: bytes, key: bytes) -> bytes:
    """Return the tar that puts an authority where Complement's images look for it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in (("ca.crt", certificate), ("ca.key", key)):
            entry = tarfile.TarInfo(f"complement/ca/{name}")
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
