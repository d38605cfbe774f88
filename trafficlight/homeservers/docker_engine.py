"""A Docker engine: where it is, whether it answers, how much it carries, and what dead labs left on it."""

import asyncio
import contextlib
import json
import logging
import os
import re
import socket
import time
import weakref
from datetime import datetime
from typing import Any

import aiohttp
from yarl import URL

from trafficlight.config import DockerHost
from trafficlight.errors import ConfigError, DeployError
from trafficlight.homeservers.docker_errors import engine_errors
from trafficlight.homeservers.docker_owner import LABEL, Owner, is_orphan
from trafficlight.homeservers.docker_tls import certificate_folder, explained, tls_context
from trafficlight.homeservers.docker_watch import EngineWatch
from trafficlight.homeservers.tools import Progress

__all__ = ["DockerEngine", "default_engine"]

logger = logging.getLogger(__name__)

KEY = "DOCKER_ENGINES"
_SOCKETS = ("/var/run/docker.sock", "/run/docker.sock")
_LOOPBACK = "127.0.0.1"
_PER_CORE = 4
_SHARE_OF_MEMORY = 0.8
_TYPICAL_BYTES = 150 * 2**20
_CONNECT = aiohttp.ClientTimeout(total=None, sock_connect=10)
_ANSWER_SECONDS, _RECLAIM_SECONDS = 15, 120
_ASK_AGAIN_SECONDS = 5  # one that hangs must not hold up every session
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
# Seconds without an answer after which its homeservers count as lost: a restart of the engine takes less.
_LOST_SECONDS = 5.0
_FRACTION = re.compile(r"\.\d+")


def default_engine() -> str:
    """Return the engine that the docker command would use."""
    return os.environ.get("DOCKER_HOST") or f"unix://{_SOCKETS[0]}"


class DockerEngine:
    """One engine. From the first :meth:`connect` on it is looked after: it may go away and come back.

    :param host: where it is.
    :param owner: who we are.
    :raises ConfigError: its URL is none.
    """

    def __init__(self, host: DockerHost, owner: Owner) -> None:
        parsed = URL(host.url)
        if parsed.scheme not in ("unix", "tcp", "http", "https"):
            raise ConfigError(
                f"is {host.url!r}; write unix:///var/run/docker.sock or tcp://HOST:PORT", key=KEY
            )
        if host.certificates is not None and parsed.scheme not in ("tcp", "https"):
            raise ConfigError(f"{host.url} has certificates, but is not spoken to over TLS", key=KEY)
        self.url = host.url
        self.owner = owner
        #: How many homeservers it may carry at once; None until it has told.
        self.capacity = host.capacity
        #: The ids of the containers and networks that somebody here still wants.
        self.wanted: set[str] = set()
        #: What it is to have whenever it comes, and who is told of a pull.
        self.images: dict[str, Progress] = {}
        self._folder = certificate_folder(host)
        self._host = "" if parsed.scheme == "unix" else parsed.host or ""
        self._docker: Any = None  # half of its methods have no types
        self._watch: EngineWatch | None = None
        self._answers: weakref.WeakSet[aiohttp.ClientResponse] = weakref.WeakSet()
        self._address = ""
        self._connecting = asyncio.Lock()
        self._keeper: asyncio.Task[None] | None = None
        self._up = False
        self._failure: DeployError | None = None
        self._again = 0.0

    @property
    def docker(self) -> Any:
        """Its API, once it has answered."""
        return self._docker

    @property
    def watch(self) -> EngineWatch:
        """Its events, once it has answered."""
        assert self._watch is not None
        return self._watch

    @property
    def up(self) -> bool:
        """Whether it answers, as far as that is known."""
        return self._up

    @property
    def failure(self) -> str:
        """Why it does not answer; empty while it does, and before it was asked."""
        return self._failure.message if self._failure is not None else ""

    @property
    def address(self) -> str:
        """The address at which homeservers are published: loopback, or a distant engine's own."""
        return self._address

    @property
    def distant(self) -> bool:
        """Whether it is on another machine."""
        return self._address != _LOOPBACK

    async def connect(self) -> None:
        """Make sure that it answers, after which nothing of dead labs is left on it.

        :raises DeployError: it does not answer, or did not a moment ago.
        """
        if self._failure is not None and time.monotonic() < self._again:
            raise self._failure
        await self._ask()

    async def ensure_image(self, image: str, progress: Progress) -> None:
        """Pull an image that it does not have.

        :raises DeployError: it cannot be had.
        """
        with contextlib.suppress(*engine_errors()):
            await self._docker.images.inspect(image)
            return
        progress(f"{self.url}: pulling {image}")
        try:
            await self._docker.images.pull(image)
        except engine_errors() as error:
            raise DeployError(
                f"the engine {self.url} has no image {image} and cannot pull it: {error}"
            ) from error

    async def close(self) -> None:
        """Let go of it. Idempotent."""
        self._up = False
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        docker, self._docker = self._docker, None
        if docker is not None:
            await docker.close()

    async def _ask(self) -> None:
        """Ask it whether it is there, and get it ready for use."""
        async with self._connecting:
            if self._up:
                return
            try:
                await self._connect()
            except DeployError as error:
                self._failure, self._again = error, time.monotonic() + _ASK_AGAIN_SECONDS
                raise
            finally:
                if self._keeper is None:
                    self._keeper = asyncio.create_task(self._keep(), name=f"keeper of {self.url}")
            self._up, self._failure = True, None

    async def _connect(self) -> None:
        docker = self._docker or await self._client()
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                info = await docker.system.info()
                self._address = await asyncio.to_thread(_publishing_address, self._host)
            async with asyncio.timeout(_RECLAIM_SECONDS):
                await self._reclaim(docker)
        except BaseException as error:
            if docker is not self._docker:
                await docker.close()
            if not isinstance(error, engine_errors()):
                raise
            reason = explained(error, self._folder)
            raise DeployError(f"the Docker engine {self.url} does not answer: {reason}") from error
        if self.capacity is None:
            by_memory = int(info["MemTotal"] * _SHARE_OF_MEMORY) // _TYPICAL_BYTES
            self.capacity = max(1, min(by_memory, _PER_CORE * int(info["NCPU"])))
        if self._watch is None:
            self._watch = EngineWatch(docker, self.owner.id, _unix_time(info["SystemTime"]))
        self._docker = docker
        for image, progress in self.images.items():
            try:
                await self.ensure_image(image, progress)
            except DeployError as error:  # there may be others that it has
                logger.warning("%s", error.message)

    async def _client(self) -> Any:
        from aiodocker import Docker

        context = await asyncio.to_thread(tls_context, self._folder) if self._folder else None
        # Constructed from a URL of its own, and with TLS or without: no context of the docker command, and no
        # DOCKER_TLS_VERIFY that is meant for another engine, may come in between.
        url = re.sub(r"^(tcp|https?)://", "https://" if context else "http://", self.url)
        options: dict[str, Any] = {"ssl_context": context or False}
        docker = Docker(url=url, timeout=_CONNECT, **options)
        trace = aiohttp.TraceConfig()
        trace.on_request_end.append(self._answered)
        trace.freeze()
        docker.session.trace_configs.append(trace)
        return docker

    async def _answered(self, _session: Any, _context: Any, end: aiohttp.TraceRequestEndParams) -> None:
        self._answers.add(end.response)

    def _hang_up(self) -> None:
        """End every answer that is still coming: nobody else does, where the engine is only silent."""
        for answer in tuple(self._answers):
            answer.close()

    async def _keep(self) -> None:
        """Follow its events while it answers; when it does not, ask again until it does."""
        pause, silent_since = _FIRST_PAUSE, time.monotonic()
        told = self.failure  # whoever asked first knows it
        while True:
            if self._up:
                reason = await self.watch.follow()
                logger.warning("%s: its events broke off, asking again: %s", self.url, reason)
                self._up, pause, silent_since, told = False, _FIRST_PAUSE, time.monotonic(), ""
            else:
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            try:
                await self._ask()
            except DeployError as error:
                self._hang_up()
                if error.message != told:
                    told = error.message
                    logger.warning("%s", told)
                if self._watch is not None and time.monotonic() - silent_since >= _LOST_SECONDS:
                    self._watch.lose(told)

    async def _reclaim(self, docker: Any) -> None:
        """Remove the containers and networks of dead owners, and ours that could not be removed before."""
        from aiodocker.exceptions import DockerError

        filters = {"label": [LABEL]}
        for container in await docker.containers.list(all=1, filters=json.dumps(filters)):
            if self._left_behind(container.id, container["Labels"]):
                logger.info("%s: removing %s, which was left behind", self.url, container["Names"][0])
                with contextlib.suppress(DockerError):  # another lab was quicker
                    await container.delete(force=True, v=True)
        for network in await docker.networks.list(filters=filters):
            if self._left_behind(network["Id"], network["Labels"]):
                with contextlib.suppress(DockerError):
                    await (await docker.networks.get(network["Id"])).delete()

    def _left_behind(self, id: str, labels: dict[str, str]) -> bool:
        return is_orphan(labels) or (labels.get(LABEL) == self.owner.id and id not in self.wanted)


def _publishing_address(host: str) -> str:
    """Return the address of an engine's machine, as seen from here. Blocks shortly."""
    if not host:
        return _LOOPBACK
    address = str(socket.getaddrinfo(host, None, socket.AF_INET)[0][4][0])
    return _LOOPBACK if address.startswith("127.") else address


def _unix_time(moment: str) -> str:
    """Return a moment as the engine's API takes it, rounded down."""
    return str(int(datetime.fromisoformat(_FRACTION.sub("", moment)).timestamp()))
