"""Homeservers as containers, straight through the Docker Engine API, on one engine or several."""

import asyncio
import contextlib
import importlib.util
import logging
import random
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from trafficlight.config import DockerHost
from trafficlight.errors import DeployError, UnsupportedError
from trafficlight.homeservers.docker.authority import make_authority
from trafficlight.homeservers.docker.engine import CREATE_SECONDS, DockerEngine, default_engine
from trafficlight.homeservers.docker.engines import Engines
from trafficlight.homeservers.docker.errors import engine_errors, problem
from trafficlight.homeservers.docker.owner import Owner
from trafficlight.homeservers.docker.server import (
    CLIENT_PORT,
    FEDERATION_PORT,
    DockerServer,
    authority_archive,
)
from trafficlight.homeservers.local.ports import PortPicker
from trafficlight.homeservers.provider import RunningServer, ServerRequest
from trafficlight.homeservers.tools import Progress, run_to_completion
from trafficlight.server_types import HomeServerSpec
from trafficlight.version import install_command

logger = logging.getLogger(__name__)

_ATTEMPTS = 3
_TAKEN = ("port is already allocated", "address already in use")
_DISTANT_PORTS = (20_000, 30_000)
_REMOVE_SECONDS = 30


class DockerProvider:
    """Runs images in Complement's conventions, a network for each deployment.

    :param hosts: the engines, or their URLs; by default the one that the docker command would use.
    :param images: the image for a server type, by the type's name, where it is not the type's own.
    :param memory_bytes: the memory that one homeserver may use.
    :param cpus: the processors that one homeserver may use, e.g. 0.5; 0 for no limit.
    :param ready_timeout: how long a homeserver may take to answer, in seconds.
    :param progress: gets a line for every slow step, such as a pull.
    :raises ConfigError: the URL of an engine is wrong.
    """

    name = "docker"

    def __init__(
        self,
        hosts: Sequence[DockerHost | str] = (),
        *,
        images: Mapping[str, str] | None = None,
        memory_bytes: int = 2**30,
        cpus: float = 0,
        ready_timeout: float = 60,
        progress: Progress | None = None,
    ) -> None:
        owner = Owner()
        named = [
            DockerHost(url=host) if isinstance(host, str) else host for host in hosts or [default_engine()]
        ]
        by_url = {host.url: host for host in named}
        self.engines = Engines([DockerEngine(host, owner) for host in by_url.values()])
        self._owner = owner
        self._images = dict(images or {})
        self._memory_bytes = memory_bytes
        self._cpus = cpus
        self._ready_timeout = ready_timeout
        self._progress = progress or logger.info
        self._ports = PortPicker()
        self._archive: bytes | None = None
        self._making = asyncio.Lock()

    @property
    def owner(self) -> Owner:
        """Who its labels say that we are."""
        return self._owner

    @property
    def hosts(self) -> dict[str, int]:
        """How many homeservers each of its engines carries at once, of those that answer."""
        return self.engines.capacities

    def unsupported(self, spec: HomeServerSpec) -> str | None:
        """Return that the library or an image is missing, or None."""
        if importlib.util.find_spec("aiodocker") is None:
            return f"the provider docker needs aiodocker: {install_command('docker')}"
        if not self._image(spec):
            return f"{spec.type_name} ({spec.recipe}): no image is named for it, see IMAGES"
        return None

    def _image(self, spec: HomeServerSpec) -> str:
        return self._images.get(spec.type_name, spec.image)

    async def prepare(self, specs: Sequence[HomeServerSpec]) -> None:
        """Connect to the engines, remove what dead labs left there, and pull images that they do not have.

        :raises DeployError: no engine answers, or an image cannot be had.
        """
        images = dict.fromkeys(self._image(spec) for spec in specs if self.unsupported(spec) is None)
        if images:
            await self.engines.ensure_images(images, self._progress)

    @contextlib.asynccontextmanager
    async def deploy(
        self, case_id: str, requests: Sequence[ServerRequest]
    ) -> AsyncIterator[list[RunningServer]]:
        """Deploy fresh homeservers that answer and federate with each other; leaving destroys them, always.

        :raises DeployError: one does not come up; carries its log.
        :raises UnsupportedError: the library is missing.
        """
        for request in requests:
            if (reason := self.unsupported(request.spec)) is not None:
                raise UnsupportedError(reason)
        async with contextlib.AsyncExitStack() as stack:
            engine = await self.engines.at(requests[0].host)
            network = await stack.enter_async_context(self._network(engine, case_id))
            deployment = _Deployment(self, engine, network, case_id)
            stack.push_async_callback(lambda: run_to_completion(deployment.destroy()))
            servers = await deployment.start(requests)
            logger.debug("%s: %s started %d homeservers", case_id, engine.url, len(servers))
            yield list(servers)

    async def close(self) -> None:
        """Let go of the engines. Idempotent."""
        await self.engines.close()

    @contextlib.asynccontextmanager
    async def _network(self, engine: DockerEngine, case_id: str) -> AsyncIterator[str]:
        name = f"trafficlight-{secrets.token_hex(6)}"
        configuration = {"Name": name, "CheckDuplicate": True, "Labels": self._owner.labels(case_id)}
        made: list[Any] = []

        async def make() -> None:
            async with asyncio.timeout(CREATE_SECONDS):  # if it makes one yet, the next reclaim removes that
                made.append(await engine.docker.networks.create(configuration))
            engine.wanted.add(made[0].id)

        try:
            try:
                await run_to_completion(make())
            except engine_errors() as error:
                raise DeployError(f"{engine.url} makes no network: {problem(error)}") from error
            yield name
        finally:
            for network in made:
                await run_to_completion(self._remove_network(engine, network))

    @staticmethod
    async def _remove_network(engine: DockerEngine, network: Any) -> None:
        engine.wanted.discard(network.id)  # from now on it is reclaimed, whenever the engine comes back
        if not engine.up:
            return
        try:
            async with asyncio.timeout(_REMOVE_SECONDS):
                await network.delete()
        except engine_errors() as error:
            logger.warning("%s: cannot remove a network: %s", engine.url, problem(error))

    async def archive(self) -> bytes:
        """Return the authority that all its homeservers trust, as their images expect it."""
        async with self._making:  # one for all, also when several ask at once for the first time
            if self._archive is None:
                self._archive = authority_archive(*await asyncio.to_thread(make_authority))
        return self._archive

    def ports(self, engine: DockerEngine) -> tuple[int, int]:
        """Return two ports to publish at; those of another machine are a guess, tried when it is started."""
        if engine.distant:
            first, second = random.sample(range(*_DISTANT_PORTS), 2)
            return first, second
        return self._ports.pick(), self._ports.pick()

    def release(self, ports: tuple[int, int]) -> None:
        """Take ports back."""
        for port in ports:
            self._ports.release(port)

    def configuration(
        self, server: DockerServer, request: ServerRequest, case_id: str, network: str, address: str
    ) -> dict[str, Any]:
        """Return a container's configuration as the engine's API takes it."""
        client, federation = ({"HostIp": address, "HostPort": str(port)} for port in server.ports)
        host: dict[str, Any] = {
            "PortBindings": {CLIENT_PORT: [client], FEDERATION_PORT: [federation]},
            "NetworkMode": network,
            "Memory": self._memory_bytes,
            "MemorySwap": self._memory_bytes,  # the same: none of it in swap
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

    @property
    def ready_timeout(self) -> float:
        """How long a homeserver may take to answer, in seconds."""
        return self._ready_timeout


class _Deployment:
    """The homeservers of one case on one engine."""

    def __init__(self, provider: DockerProvider, engine: DockerEngine, network: str, case_id: str) -> None:
        self._provider = provider
        self._engine = engine
        self._network = network
        self._case_id = case_id
        self._servers: list[DockerServer] = []

    async def start(self, requests: Sequence[ServerRequest]) -> list[DockerServer]:
        """Start all of them at once and return them when they answer."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._start(request, f"hs{number}"))
                    for number, request in enumerate(requests, 1)
                ]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from failures
        return [task.result() for task in tasks]

    async def destroy(self) -> None:
        """Remove all of them."""
        await asyncio.gather(*(self._remove(server) for server in self._servers))

    async def _start(self, request: ServerRequest, server_name: str) -> DockerServer:
        provider, engine = self._provider, self._engine
        archive = await provider.archive()
        for attempt in range(1, _ATTEMPTS + 1):
            server = DockerServer(
                engine,
                request.role,
                server_name,
                provider.ports(engine),
                request.log,
                ready_timeout=provider.ready_timeout,
            )
            self._servers.append(server)
            configuration = provider.configuration(
                server, request, self._case_id, self._network, engine.address
            )
            try:
                await server.create(f"{self._network}-{server_name}-{attempt}", configuration, archive)
                await server.start()
            except engine_errors() as error:
                reason = problem(error)
                if attempt == _ATTEMPTS or not any(sign in reason for sign in _TAKEN):
                    raise DeployError(f"{request.role}: {engine.url}: {reason}") from error
                self._servers.remove(server)
                await run_to_completion(self._remove(server))
            else:
                return server
        raise AssertionError("unreachable")

    async def _remove(self, server: DockerServer) -> None:
        await server.destroy()
        self._provider.release(server.ports)
