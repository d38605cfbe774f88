"""A Docker engine: where it is, how many homeservers it carries, and what dead labs left on it."""

import asyncio
import contextlib
import json
import logging
import os
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from trafficlight.errors import ConfigError, DeployError
from trafficlight.homeservers.docker_owner import LABEL, Owner, is_orphan
from trafficlight.homeservers.docker_watch import EngineWatch
from trafficlight.homeservers.tools import Progress

__all__ = ["DockerEngine", "Engines", "default_engine"]

logger = logging.getLogger(__name__)

KEY = "DOCKER_ENGINES"
_SOCKETS = ("/var/run/docker.sock", "/run/docker.sock")
_LOOPBACK = "127.0.0.1"
_PER_CORE = 4
_SHARE_OF_MEMORY = 0.8
_TYPICAL_BYTES = 150 * 2**20
_ASK_AGAIN_SECONDS = 30  # one that hangs must not hold up every case
_CONNECT = aiohttp.ClientTimeout(total=None, sock_connect=10)
_FRACTION = re.compile(r"\.\d+")


def default_engine() -> str:
    """Return the engine that the docker command would use."""
    return os.environ.get("DOCKER_HOST") or f"unix://{_SOCKETS[0]}"


class DockerEngine:
    """One engine.

    :param url: ``unix://``, ``tcp://``, ``http://`` or ``https://``; with ``DOCKER_TLS_VERIFY`` those with
        a host use TLS with the certificates in ``DOCKER_CERT_PATH``, as for the docker command.
    :param owner: who we are.
    :param capacity: how many homeservers it may carry at once; by default what its memory and cores allow.
    :raises ConfigError: the URL is none of these.
    """

    def __init__(self, url: str, owner: Owner, capacity: int | None = None) -> None:
        parsed = URL(url)
        if parsed.scheme not in ("unix", "tcp", "http", "https"):
            raise ConfigError(f"is {url!r}; write unix:///var/run/docker.sock or tcp://HOST:PORT", key=KEY)
        self.url = url
        self.owner = owner
        self.capacity = capacity
        self.in_use = 0
        self._host = "" if parsed.scheme == "unix" else parsed.host or ""
        self._docker: Any = None  # half of its methods have no types
        self._watch: EngineWatch | None = None
        self._address = ""
        self._connecting = asyncio.Lock()
        self._failure: str | None = None
        self._again = 0.0

    @property
    def docker(self) -> Any:
        """Its API, once it is connected."""
        return self._docker

    @property
    def watch(self) -> EngineWatch:
        """Its events, once it is connected."""
        assert self._watch is not None
        return self._watch

    @property
    def address(self) -> str:
        """The address at which homeservers are published: loopback, or a distant engine's own."""
        return self._address

    @property
    def distant(self) -> bool:
        """Whether it is on another machine."""
        return self._address != _LOOPBACK

    def room(self, count: int) -> bool:
        """Return whether it can carry so many more now; a case that needs more than all runs alone."""
        capacity = self.capacity or 1
        return self.in_use + min(count, capacity) <= capacity

    async def connect(self) -> None:
        """Make sure that it answers; the first time, remove what dead labs left on it.

        :raises DeployError: it does not answer.
        """
        async with self._connecting:
            if self._docker is not None:
                return
            if self._failure is not None and time.monotonic() < self._again:
                raise DeployError(self._failure)
            try:
                await self._connect()
            except DeployError as error:
                self._failure, self._again = error.message, time.monotonic() + _ASK_AGAIN_SECONDS
                raise

    async def _connect(self) -> None:
        from aiodocker import Docker
        from aiodocker.exceptions import DockerError

        # Constructed from a URL of its own: no context of the docker command may come in between.
        secure = self.url.startswith("https://") or os.environ.get("DOCKER_TLS_VERIFY", "") not in (
            "",
            "0",
        )
        context = await asyncio.to_thread(_tls) if secure and self._host else None
        url = re.sub(r"^(tcp|https?)://", "https://" if context else "http://", self.url)
        docker: Any = Docker(url=url, ssl_context=context, timeout=_CONNECT)
        try:
            info = await docker.system.info()
            self._address = await asyncio.to_thread(_publishing_address, self._host)
            await self._reclaim(docker)
        except (DockerError, aiohttp.ClientError, OSError) as error:
            await docker.close()
            reason = getattr(error, "message", "") or str(error) or type(error).__name__
            raise DeployError(f"the Docker engine {self.url} does not answer: {reason}") from error
        except BaseException:
            await docker.close()
            raise
        if self.capacity is None:
            by_memory = int(info["MemTotal"] * _SHARE_OF_MEMORY) // _TYPICAL_BYTES
            self.capacity = max(1, min(by_memory, _PER_CORE * int(info["NCPU"])))
        self._watch = EngineWatch(docker, self.owner.id, _unix_time(info["SystemTime"]))
        self._docker = docker

    async def ensure_image(self, image: str, progress: Progress) -> None:
        """Pull an image that it does not have.

        :raises DeployError: it cannot be had.
        """
        from aiodocker.exceptions import DockerError

        with contextlib.suppress(DockerError):
            await self._docker.images.inspect(image)
            return
        progress(f"{self.url}: pulling {image}")
        try:
            await self._docker.images.pull(image)
        except (DockerError, aiohttp.ClientError) as error:
            raise DeployError(
                f"the engine {self.url} has no image {image} and cannot pull it: {error}"
            ) from error

    async def close(self) -> None:
        """Let go of it. Idempotent."""
        docker, self._docker = self._docker, None
        if self._watch is not None:
            await self._watch.close()
        if docker is not None:
            await docker.close()

    async def _reclaim(self, docker: Any) -> None:
        """Remove the containers and networks whose owner is dead."""
        from aiodocker.exceptions import DockerError

        filters = {"label": [LABEL]}
        for container in await docker.containers.list(all=1, filters=json.dumps(filters)):
            labels = container["Labels"]
            if is_orphan(labels):
                logger.info("%s: removing %s, which a dead lab left behind", self.url, container["Names"][0])
                with contextlib.suppress(DockerError):  # another lab was quicker
                    await container.delete(force=True, v=True)
        for network in await docker.networks.list(filters=filters):
            if is_orphan(network["Labels"]):
                with contextlib.suppress(DockerError):
                    await (await docker.networks.get(network["Id"])).delete()


class Engines:
    """Several engines as one capacity: who came first is served first, by the emptiest engine.

    :param engines: the engines.
    """

    def __init__(self, engines: Sequence[DockerEngine]) -> None:
        self.all = tuple(engines)
        self._turn = asyncio.Lock()
        self._released = asyncio.Event()

    async def connect(self) -> list[DockerEngine]:
        """Return the engines that answer.

        :raises DeployError: none does.
        """
        found = await asyncio.gather(*(engine.connect() for engine in self.all), return_exceptions=True)
        problems = [error for error in found if isinstance(error, DeployError)]
        for error in found:
            if isinstance(error, BaseException) and not isinstance(error, DeployError):
                raise error
        if len(problems) == len(self.all):
            raise DeployError("; ".join(problem.message for problem in problems))
        for problem in problems:
            logger.warning("%s", problem)
        return [engine for engine, error in zip(self.all, found, strict=True) if error is None]

    @contextlib.asynccontextmanager
    async def claim(self, count: int) -> AsyncIterator[DockerEngine]:
        """Have room for homeservers on one engine until this is left; waits while there is none.

        :raises DeployError: no engine answers.
        """
        async with self._turn:
            while True:
                self._released.clear()
                usable = [engine for engine in await self.connect() if engine.room(count)]
                if usable:
                    break
                await self._released.wait()
            engine = max(usable, key=lambda candidate: (candidate.capacity or 1) - candidate.in_use)
            taken = min(count, engine.capacity or 1)
            engine.in_use += taken
        try:
            yield engine
        finally:
            engine.in_use -= taken
            self._released.set()

    async def close(self) -> None:
        """Let go of all of them. Idempotent."""
        await asyncio.gather(*(engine.close() for engine in self.all))


def _tls() -> ssl.SSLContext:
    """Return what the docker command would use: ca.pem, cert.pem and key.pem. Blocks shortly."""
    folder = Path(os.environ.get("DOCKER_CERT_PATH") or Path.home() / ".docker")
    try:
        context = ssl.create_default_context(cafile=folder / "ca.pem")
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    except OSError as error:
        raise DeployError(
            f"TLS to the Docker engine needs ca.pem, cert.pem and key.pem in {folder}: {error}"
        ) from error
    return context


def _publishing_address(host: str) -> str:
    """Return the address of an engine's machine, as seen from here. Blocks shortly."""
    if not host:
        return _LOOPBACK
    address = str(socket.getaddrinfo(host, None, socket.AF_INET)[0][4][0])
    return _LOOPBACK if address.startswith("127.") else address


def _unix_time(moment: str) -> str:
    """Return a moment as the engine's API takes it, rounded down."""
    return str(int(datetime.fromisoformat(_FRACTION.sub("", moment)).timestamp()))
