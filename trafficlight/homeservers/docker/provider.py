"""Homeservers as containers, through the Docker Engine API."""

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
from trafficlight.homeservers.docker.api import engine_errors, problem
from trafficlight.homeservers.docker.engine import CREATE_SECONDS, DockerEngine
from trafficlight.homeservers.docker.server import (
    CLIENT_PORT,
    FEDERATION_PORT,
    DockerServer,
    authority_archive,
)
from trafficlight.homeservers.local.ports import PortPicker
from trafficlight.homeservers.provider import RunningServer, ServerRequest, all_of
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

    :param host: the engine; by default the one that the docker command would use.
    :param images: images by server type, where it is not the type's own.
    :param memory_bytes: the memory that one homeserver may use.
    :param cpus: the processors that one homeserver may use, e.g. 0.5; 0 for no limit.
    :param progress: called with a line for every slow step, such as a pull.
    :raises ConfigError: the engine's URL is invalid.
    """

    name = "docker"

    def __init__(
        self,
        host: DockerHost | None = None,
        *,
        images: Mapping[str, str] | None = None,
        memory_bytes: int = 2**30,
        cpus: float = 0,
        progress: Progress | None = None,
    ) -> None:
        self.engine = DockerEngine(host)
        self._images = dict(images or {})
        self._memory_bytes = memory_bytes
        self._cpus = cpus
        self._progress = progress or logger.info
        self._ports = PortPicker()
        self._archive: bytes | None = None
        self._creating = asyncio.Lock()

    @property
    def capacities(self) -> dict[str, int]:
        """How many homeservers the engine carries at once; 0 while it does not answer."""
        return {all_of(self.name): (self.engine.capacity or 1) if self.engine.up else 0}

    def unsupported(self, spec: HomeServerSpec) -> str | None:
        """Return that the library or an image is missing; None if neither is."""
        if importlib.util.find_spec("aiodocker") is None:
            return f"the provider docker needs aiodocker: {install_command('docker')}"
        if not self._image(spec):
            return f"{spec.type_name} ({spec.recipe}): no image is named for it, see IMAGES"
        return None

    async def prepare(self, specs: Sequence[HomeServerSpec]) -> None:
        """Connect to the engine and pull missing images.

        :raises DeployError: it does not answer, or cannot pull an image.
        """
        supported = [spec for spec in specs if await asyncio.to_thread(self.unsupported, spec) is None]
        if supported:
            await self._ready(supported)

    async def _ready(self, specs: Iterable[HomeServerSpec]) -> None:
        await self.engine.connect()
        for image in {self._image(spec): None for spec in specs}:
            await self.engine.ensure_image(image, self._progress)

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
            await self._ready([request.spec for request in requests])
            network = await stack.enter_async_context(self._network(case_id))
            mine: list[DockerServer] = []
            stack.push_async_callback(lambda: run_to_completion(self._destroy(mine)))
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [
                        group.create_task(self._start(network, f"hs{number}", case_id, request, mine))
                        for number, request in enumerate(requests, 1)
                    ]
            except ExceptionGroup as failures:
                raise failures.exceptions[0] from failures
            yield [task.result() for task in tasks]

    async def close(self) -> None:
        """Disconnect from the engine. Idempotent."""
        await self.engine.close()

    @contextlib.asynccontextmanager
    async def _network(self, case_id: str) -> AsyncIterator[str]:
        engine = self.engine
        name = f"trafficlight-{secrets.token_hex(6)}"
        configuration = {"Name": name, "CheckDuplicate": True, "Labels": self.engine.owner.labels(case_id)}
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
                await run_to_completion(self._remove_network(network))

    async def _remove_network(self, network: Any) -> None:
        engine = self.engine
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
        network: str,
        server_name: str,
        case_id: str,
        request: ServerRequest,
        mine: list[DockerServer],
    ) -> DockerServer:
        """Start one homeserver and wait until it is ready; it is in `mine` before anything can fail."""
        archive = await self._authority()
        for attempt in range(1, _ATTEMPTS + 1):
            ports = self._pick_ports()
            server = DockerServer(self.engine, request.role, server_name, ports, request.log)
            mine.append(server)
            configuration = self._configuration(server, request, case_id, network)
            try:
                await server.create(f"{network}-{server_name}-{attempt}", configuration, archive)
                await server.start()
            except engine_errors() as error:
                reason = problem(error)
                if attempt == _ATTEMPTS or not any(sign in reason for sign in _PORT_TAKEN):
                    raise DeployError(f"{request.role}: {self.engine.url}: {reason}") from error
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

    def _pick_ports(self) -> tuple[int, int]:
        """Return two ports to publish; those of another machine are a guess that the start verifies."""
        if self.engine.remote:
            first, second = random.sample(range(*_REMOTE_PORTS), 2)
            return first, second
        return self._ports.pick(), self._ports.pick()

    def _image(self, spec: HomeServerSpec) -> str:
        return self._images.get(spec.type_name, spec.image)

    def _configuration(
        self, server: DockerServer, request: ServerRequest, case_id: str, network: str
    ) -> dict[str, Any]:
        """Return the body of the API's request for a container."""
        client, federation = ({"HostIp": self.engine.address, "HostPort": str(port)} for port in server.ports)
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
            "Labels": self.engine.owner.labels(case_id, request.role),
            "ExposedPorts": {CLIENT_PORT: {}, FEDERATION_PORT: {}},
            "HostConfig": host,
            "NetworkingConfig": {"EndpointsConfig": {network: {"Aliases": [server.server_name]}}},
        }
