"""Homeservers as containers, through the Docker Engine API, on one engine or several."""

import asyncio
import contextlib
import importlib.util
import logging
import random
import secrets
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

from trafficlight.config import DockerHost
from trafficlight.errors import DeployError, UnsupportedError
from trafficlight.homeservers.certificates import create_rsa_authority
from trafficlight.homeservers.docker.engine import CREATE_SECONDS, DockerEngine, default_engine
from trafficlight.homeservers.docker.errors import EngineSilentError, engine_errors, problem
from trafficlight.homeservers.docker.owner import Owner
from trafficlight.homeservers.docker.server import (
    CLIENT_PORT,
    FEDERATION_PORT,
    DockerServer,
    authority_archive,
)
from trafficlight.homeservers.local.ports import PortPicker
from trafficlight.homeservers.provider import RunningServer, ServerRequest
from trafficlight.processes import Progress, run_to_completion
from trafficlight.server_types import HomeServerSpec
from trafficlight.version import install_command

logger = logging.getLogger(__name__)

_ATTEMPTS = 3
_PORT_TAKEN = ("port is already allocated", "address already in use")
_REMOTE_PORTS = (20_000, 30_000)
_REMOVE_SECONDS = 30


class DockerProvider:
    """Runs images in Complement's conventions, each deployment in a network of its own.

    :param hosts: the engines, or their URLs; by default the one that the docker command would use.
    :param images: images by server type, where it is not the type's own.
    :param memory_bytes: the memory that one homeserver may use.
    :param cpus: the processors that one homeserver may use, e.g. 0.5; 0 for no limit.
    :param progress: called with a line for every slow step, such as a pull.
    :raises ConfigError: an engine's URL is invalid.
    """

    name = "docker"

    def __init__(
        self,
        hosts: Sequence[DockerHost | str] = (),
        *,
        images: Mapping[str, str] | None = None,
        memory_bytes: int = 2**30,
        cpus: float = 0,
        progress: Progress | None = None,
    ) -> None:
        named = [
            DockerHost(url=host) if isinstance(host, str) else host for host in hosts or [default_engine()]
        ]
        self._owner = Owner()
        self.engines = tuple(
            DockerEngine(host, self._owner) for host in {host.url: host for host in named}.values()
        )
        self._images = dict(images or {})
        self._memory_bytes = memory_bytes
        self._cpus = cpus
        self._progress = progress or logger.info
        self._ports = PortPicker()
        self._archive: bytes | None = None
        self._creating = asyncio.Lock()

    @property
    def hosts(self) -> dict[str, int]:
        """How many homeservers each engine that is ready carries at once, by its URL."""
        return {engine.url: engine.capacity or 1 for engine in self.engines if engine.ready}

    def unsupported(self, spec: HomeServerSpec) -> str | None:
        """Return that the library or an image is missing; None if neither is."""
        if importlib.util.find_spec("aiodocker") is None:
            return f"the provider docker needs aiodocker: {install_command('docker')}"
        if not self._image(spec):
            return f"{spec.type_name} ({spec.recipe}): no image is named for it, see IMAGES"
        return None

    async def connect(self) -> list[DockerEngine]:
        """Connect to the engines and return those that answer.

        :raises DeployError: none does.
        """
        results = await asyncio.gather(*(engine.connect() for engine in self.engines), return_exceptions=True)
        failures = [error for error in results if isinstance(error, DeployError)]
        for error in results:
            if isinstance(error, BaseException) and not isinstance(error, DeployError):
                raise error
        if len(failures) == len(self.engines):
            raise DeployError("; ".join(failure.message for failure in failures))
        for failure in failures:
            logger.warning("%s", failure)
        return [engine for engine, error in zip(self.engines, results, strict=True) if error is None]

    async def prepare(self, specs: Sequence[HomeServerSpec]) -> None:
        """Connect to the engines and pull missing images; an engine that is away pulls them when it is back.

        :raises DeployError: no engine answers, or one that answers cannot pull an image.
        """
        supported = [spec for spec in specs if await asyncio.to_thread(self.unsupported, spec) is None]
        images = {self._image(spec): self._progress for spec in supported}
        if not images:
            return
        connected = await self.connect()
        ready = [engine for engine in connected if engine.ready] or connected
        for engine in connected:
            if engine not in ready:  # it is pulling already and continues with these
                engine.images |= images
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(_ensure_images(engine, images)) for engine in ready]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from failures
        silent = {
            engine: error.message
            for engine, task in zip(ready, tasks, strict=True)
            if (error := task.result()) is not None
        }
        if len(silent) == len(ready):
            raise DeployError("; ".join(silent.values()))
        for engine in self.engines:
            engine.images |= images
        for engine, message in silent.items():
            logger.warning("%s", message)
            engine.pull_missing()

    @contextlib.asynccontextmanager
    async def deploy(
        self, case_id: str, requests: Sequence[ServerRequest]
    ) -> AsyncIterator[list[RunningServer]]:
        """Deploy fresh homeservers that federate with each other, and destroy them on leaving, in every case.

        :raises DeployError: one does not become ready; carries its log.
        :raises UnsupportedError: the library is missing.
        """
        for request in requests:
            if (reason := await asyncio.to_thread(self.unsupported, request.spec)) is not None:
                raise UnsupportedError(reason)
        async with contextlib.AsyncExitStack() as stack:
            engine = await self.engine_at(requests[0].host)
            network = await stack.enter_async_context(self._network(engine, case_id))
            mine: list[DockerServer] = []
            stack.push_async_callback(lambda: run_to_completion(self._destroy(mine)))
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [
                        group.create_task(self._start(engine, network, f"hs{number}", case_id, request, mine))
                        for number, request in enumerate(requests, 1)
                    ]
            except ExceptionGroup as failures:
                raise failures.exceptions[0] from failures
            logger.debug("%s: %s started %d homeservers", case_id, engine.url, len(tasks))
            yield [task.result() for task in tasks]

    async def close(self) -> None:
        """Disconnect from the engines. Idempotent."""
        await asyncio.gather(*(engine.close() for engine in self.engines))

    async def engine_at(self, url: str) -> DockerEngine:
        """Return an engine that answers.

        :param url: its URL; empty for the one with the largest capacity.
        :raises DeployError: it does not answer, or is not configured.
        """
        if not url:
            return max(await self.connect(), key=lambda engine: engine.capacity or 1)
        engine = next((engine for engine in self.engines if engine.url == url), None)
        if engine is None:
            raise DeployError(f"there is no Docker engine {url} in DOCKER_ENGINES")
        await engine.connect()
        return engine

    @contextlib.asynccontextmanager
    async def _network(self, engine: DockerEngine, case_id: str) -> AsyncIterator[str]:
        name = f"trafficlight-{secrets.token_hex(6)}"
        configuration = {"Name": name, "CheckDuplicate": True, "Labels": self._owner.labels(case_id)}
        created: list[Any] = []

        async def create() -> None:
            async with asyncio.timeout(CREATE_SECONDS):  # one that is created later is reclaimed
                created.append(await engine.docker.networks.create(configuration))
            engine.wanted.add(created[0].id)

        try:
            try:
                await run_to_completion(create())
            except engine_errors() as error:
                raise DeployError(f"{engine.url} cannot create a network: {problem(error)}") from error
            yield name
        finally:
            for network in created:
                await run_to_completion(self._remove_network(engine, network))

    @staticmethod
    async def _remove_network(engine: DockerEngine, network: Any) -> None:
        engine.wanted.discard(network.id)  # if it is not removed now, it is reclaimed after a reconnect
        if not engine.up:
            return
        try:
            async with asyncio.timeout(_REMOVE_SECONDS):
                await network.delete()
        except engine_errors() as error:
            logger.warning("%s: cannot remove a network: %s", engine.url, problem(error))

    async def _start(
        self,
        engine: DockerEngine,
        network: str,
        server_name: str,
        case_id: str,
        request: ServerRequest,
        mine: list[DockerServer],
    ) -> DockerServer:
        """Start one homeserver and wait until it is ready; it is in `mine` before anything can fail."""
        archive = await self._authority()
        for attempt in range(1, _ATTEMPTS + 1):
            ports = self._pick_ports(engine)
            server = DockerServer(engine, request.role, server_name, ports, request.log)
            mine.append(server)
            configuration = self._configuration(server, request, case_id, network, engine.address)
            try:
                await server.create(f"{network}-{server_name}-{attempt}", configuration, archive)
                await server.start()
            except engine_errors() as error:
                reason = problem(error)
                if attempt == _ATTEMPTS or not any(sign in reason for sign in _PORT_TAKEN):
                    raise DeployError(f"{request.role}: {engine.url}: {reason}") from error
                mine.remove(server)
                await run_to_completion(self._destroy([server]))
            else:
                return server
        raise AssertionError("unreachable")

    async def _destroy(self, servers: Iterable[DockerServer]) -> None:
        async def destroy(server: DockerServer) -> None:
            await server.destroy()
            for port in server.ports:
                self._ports.release(port)

        await asyncio.gather(*(destroy(server) for server in servers))

    async def _authority(self) -> bytes:
        """Return the archive with the authority that all its homeservers trust."""
        async with self._creating:
            if self._archive is None:
                self._archive = authority_archive(*await asyncio.to_thread(create_rsa_authority))
        return self._archive

    def _pick_ports(self, engine: DockerEngine) -> tuple[int, int]:
        """Return two ports to publish; those of another machine are a guess that the start verifies."""
        if engine.remote:
            first, second = random.sample(range(*_REMOTE_PORTS), 2)
            return first, second
        return self._ports.pick(), self._ports.pick()

    def _image(self, spec: HomeServerSpec) -> str:
        return self._images.get(spec.type_name, spec.image)

    def _configuration(
        self, server: DockerServer, request: ServerRequest, case_id: str, network: str, address: str
    ) -> dict[str, Any]:
        """Return the body of the API's request for a container."""
        client, federation = ({"HostIp": address, "HostPort": str(port)} for port in server.ports)
        host: dict[str, Any] = {
            "PortBindings": {CLIENT_PORT: [client], FEDERATION_PORT: [federation]},
            "NetworkMode": network,
            "Memory": self._memory_bytes,
            "MemorySwap": self._memory_bytes,  # the sum of both: no swap
            "ExtraHosts": ["host.docker.internal:host-gateway"],
        }
        if self._cpus:
            host["NanoCpus"] = int(self._cpus * 1e9)
        return {
            "Image": self._image(request.spec),
            "Env": [f"SERVER_NAME={server.server_name}"],
            "Hostname": server.server_name,
            "Labels": self._owner.labels(case_id, request.role),
            "ExposedPorts": {CLIENT_PORT: {}, FEDERATION_PORT: {}},
            "HostConfig": host,
            "NetworkingConfig": {"EndpointsConfig": {network: {"Aliases": [server.server_name]}}},
        }


async def _ensure_images(engine: DockerEngine, images: dict[str, Progress]) -> EngineSilentError | None:
    """Pull missing images, and return the error if the engine falls silent: others can do without it.

    :raises DeployError: it cannot pull one.
    """
    try:
        for image, progress in images.items():
            await engine.ensure_image(image, progress)
    except EngineSilentError as error:
        return error
    return None
