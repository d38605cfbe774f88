"""One homeserver container, from its creation to its removal."""

import asyncio
import contextlib
import io
import logging
import tarfile
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import aiohttp

from trafficlight.errors import DeployError, UnsupportedError
from trafficlight.homeservers.docker.api import ContainerWatch, engine_errors, problem
from trafficlight.homeservers.docker.engine import CREATE_SECONDS, DockerEngine
from trafficlight.homeservers.probe import title_of, unless_exited, wait_until_ready
from trafficlight.homeservers.provider import BY_THE_TEST
from trafficlight.processes import run_to_completion

logger = logging.getLogger(__name__)

CLIENT_PORT, FEDERATION_PORT = "8008/tcp", "8448/tcp"
_READY_SECONDS = 60
_STOP_SECONDS = 10
_LOG_SECONDS = 10
_DESTROY_SECONDS = 60
_EVENT_SECONDS = 30  # from an exit to the engine's event about it
_TAIL_LINES = 40


class DockerServer:
    """A container with its published ports and its log.

    :param engine: the engine, connected.
    :param server_name: its server name, also its alias in the deployment's network.
    :param ports: where its client and federation ports are published; fixed, so that a restart keeps them.
    :param log: the file for its log.
    """

    federation = None

    def __init__(
        self, engine: DockerEngine, role: str, server_name: str, ports: tuple[int, int], log: Path
    ) -> None:
        self.role = role
        self.server_name = server_name
        self.version = self.image = ""
        self.ports = ports
        self.cs_api = f"http://{engine.address}:{ports[0]}"
        self._federation = f"https://{engine.address}:{ports[1]}"
        self._engine = engine
        self._log = log
        self._container: Any = None
        self._watch = ContainerWatch()
        self._following: asyncio.Task[None] | None = None
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._operating = asyncio.Lock()
        self._ended_by_test = False

    @property
    def exited(self) -> str | None:
        """How it exited, e.g. ``exit code 1, requested by the test``; None while it runs."""
        reason = self._watch.reason
        return reason + BY_THE_TEST if reason is not None and self._ended_by_test else reason

    async def create(self, name: str, configuration: dict[str, Any], archive: bytes) -> None:
        """Create its container, without starting it.

        :param configuration: the body of the API's request.
        :param archive: files to copy into it, a tar.
        :raises DockerError: the engine rejects it.
        :raises TimeoutError: it does not answer; if it creates one later, the next reclaim removes that.
        """
        self.image = configuration["Image"]

        async def create() -> None:
            async with asyncio.timeout(CREATE_SECONDS):
                self._container = await self._engine.docker.containers.create(configuration, name=name)
            self._engine.wanted.add(self._container.id)
            self._watch = self._engine.watch.add(self._container.id)

        await run_to_completion(create())  # a container created during a cancellation must not be lost
        await self._container.put_archive("/", archive)

    async def start(self) -> None:
        """Start it and wait until it is ready.

        :raises DockerError: the engine rejects it.
        :raises DeployError: it did not become ready; carries the end of its log.
        """
        since = self._watch.ended_at
        self._watch.begin()
        self._ended_by_test = False
        await self._container.start()
        self._following = asyncio.create_task(self._follow(since))
        try:
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
                ready = wait_until_ready(session, self.cs_api, _READY_SECONDS)
                await unless_exited(ready, self._watch.ended())
                if not self.version:
                    self.version = await title_of(session, self._federation, self.cs_api)
        except DeployError as error:
            if self._watch.reason is not None:
                await self._finish_log()
            raise DeployError(f"{self.role}: {error.message}", log=self._log_end()) from error

    async def operate(self, operation: str, config: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Start, stop, restart, kill, pause or unpause it. Its data and ports are kept.

        :raises UnsupportedError: there is no such operation, or settings are given.
        :raises DeployError: it did not become ready again; carries the end of its log.
        """
        if config:
            raise UnsupportedError("a homeserver in Docker has the settings of its image")
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
                raise DeployError(
                    f"{self.role}: the engine does not report its exit", log=self._log_end()
                ) from None
            except engine_errors() as error:
                raise DeployError(
                    f"{self.role}: cannot {operation}: {problem(error)}", log=self._log_end()
                ) from error

    async def destroy(self) -> None:
        """Remove the container with its data, and complete the log; problems are logged.

        If its engine does not answer, it is removed when that answers again.
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
            await self._stop_following()
            engine.watch.remove(container.id)
            engine.wanted.discard(container.id)

    async def _destroy(self) -> None:
        from aiodocker.exceptions import DockerError

        if self._watch.reason is None:
            with contextlib.suppress(DockerError):  # it may not be paused
                await self._container.unpause()
            with contextlib.suppress(DockerError):  # it may not be running
                await self._container.kill()
        await self._finish_log()
        await self._container.delete(force=True, v=True)

    async def _stop(self) -> None:
        state = (await self._container.show())["State"]
        if state["Paused"]:
            await self._container.unpause()
        await self._end(lambda: self._container.stop(t=_STOP_SECONDS))

    async def _end(self, end: Callable[[], Awaitable[Any]]) -> None:
        if self._watch.reason is not None:
            return
        self._ended_by_test = True
        await end()
        async with asyncio.timeout(_EVENT_SECONDS):
            await self._watch.ended()
        await self._finish_log()

    async def _follow(self, since: str | None) -> None:
        """Copy the container's log into the file until the container exits."""
        begin = {} if since is None else {"since": since}
        file = await asyncio.to_thread(self._log.open, "a", buffering=1)
        try:
            stream = self._container.log(stdout=True, stderr=True, follow=True, **begin)
            # Closed here, because a cancellation while the file is written does not end the stream.
            async with contextlib.aclosing(stream) as pieces:
                async for piece in pieces:
                    await run_to_completion(asyncio.to_thread(file.write, piece))
                    self._tail.append(piece.rstrip("\n"))
        except engine_errors() as error:
            await asyncio.to_thread(file.write, f"(the log ends here: {problem(error)})\n")
        finally:
            await asyncio.to_thread(file.close)

    async def _finish_log(self) -> None:
        """Wait for the end of the log, which the engine sends after the container exited."""
        if self._following is None:
            return
        done, _ = await asyncio.wait([self._following], timeout=_LOG_SECONDS)
        if not done:
            logger.warning("%s: the end of its log is lost", self.role)
        await self._stop_following()

    async def _stop_following(self) -> None:
        following, self._following = self._following, None
        if following is not None:
            following.cancel()
            await asyncio.wait([following])

    def _log_end(self) -> str:
        return "\n".join(self._tail)


def authority_archive(certificate: bytes, key: bytes) -> bytes:
    """Return the tar that puts an authority where Complement's images expect it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in (("ca.crt", certificate), ("ca.key", key)):
            entry = tarfile.TarInfo(f"complement/ca/{name}")
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
