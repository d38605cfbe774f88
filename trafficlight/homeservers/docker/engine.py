"""A Docker engine: where it is, whether it answers, how much it carries, and what dead labs left on it."""

import asyncio
import logging
import os
import re
import socket
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import aiohttp
from yarl import URL

from trafficlight.config import DockerHost
from trafficlight.errors import ConfigError, DeployError
from trafficlight.homeservers.docker.answers import Answers
from trafficlight.homeservers.docker.errors import engine_errors, problem
from trafficlight.homeservers.docker.events import EngineWatch
from trafficlight.homeservers.docker.images import EngineImages
from trafficlight.homeservers.docker.owner import Owner
from trafficlight.homeservers.docker.reclaim import reclaim
from trafficlight.homeservers.docker.tls import certificate_folder, explained, tls_context

logger = logging.getLogger(__name__)

KEY = "DOCKER_ENGINES"
CREATE_SECONDS = 60
"""How long an engine may take to make a network or a container: nobody can be called off meanwhile."""
_SOCKETS = ("/var/run/docker.sock", "/run/docker.sock")
_LOOPBACK = "127.0.0.1"
_PER_CORE = 4
_SHARE_OF_MEMORY = 0.8
_TYPICAL_BYTES = 150 * 2**20
_CONNECT = aiohttp.ClientTimeout(total=None, sock_connect=10)
_ANSWER_SECONDS, _RECLAIM_SECONDS = 15, 120
_ASK_AGAIN_SECONDS = 5  # one that hangs must not hold up every session
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_STEADY_SECONDS = 5.0  # events that break off sooner are as good as none
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
        self._answers = Answers()
        #: What it is to have whenever it comes.
        self.images = EngineImages(host.url, self._answers)
        self._folder = certificate_folder(host)
        self._host = "" if parsed.scheme == "unix" else parsed.host or ""
        self._docker: Any = None  # half of its methods have no types
        self._watch: EngineWatch | None = None
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
    def ready(self) -> bool:
        """Whether it answers, and has all images that it can have."""
        return self._up and not self.images.filling

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
        if self._failure is not None and self._connecting.locked():
            raise self._failure  # somebody asks it again already, which may take long
        async with self._connecting:
            if self._failure is not None and time.monotonic() < self._again:
                raise self._failure
            await self._ask()

    def look_for_images(self) -> None:
        """Begin to let it have all images that it is to have; it is not ready until that is done."""
        if self._up:  # else it does so when it answers
            self.images.fill(self._docker)

    async def close(self) -> None:
        """Let go of it. Idempotent."""
        self._up = False
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        await self.images.stop()
        docker, self._docker = self._docker, None
        if docker is not None:
            await docker.close()

    async def _ask(self) -> None:
        """Ask it whether it is there, and get it ready for use; whoever asks has the lock."""
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
        self.look_for_images()  # takes long, and others are to know meanwhile that it answers

    async def _connect(self) -> None:
        try:
            await self._greet()
        except DeployError:
            raise
        except engine_errors() as error:
            reason = explained(error, self._folder)
            raise DeployError(f"the Docker engine {self.url} does not answer: {reason}") from error
        except Exception as error:
            logger.debug("%s: its answer makes no sense", self.url, exc_info=True)
            raise DeployError(
                f"the Docker engine {self.url} does not answer as one does: {error!r}"
            ) from error

    async def _greet(self) -> None:
        docker = self._docker or await self._client()
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                info = await docker.system.info()
                self._address = await asyncio.to_thread(_publishing_address, self._host)
            self._take(docker, info)
            async with asyncio.timeout(_RECLAIM_SECONDS):
                await reclaim(docker, self.url, self.owner.id, self.wanted)
            self._docker = docker
        finally:
            if docker is not self._docker:
                await docker.close()

    def _take(self, docker: Any, info: dict[str, Any]) -> None:
        """Take in what it says of itself."""
        if self.capacity is None:
            by_memory = int(info["MemTotal"] * _SHARE_OF_MEMORY) // _TYPICAL_BYTES
            self.capacity = max(1, min(by_memory, _PER_CORE * int(info["NCPU"])))
        if self._docker is None:
            self._watch = EngineWatch(docker, self.owner.id, _unix_time(info["SystemTime"]))

    async def _client(self) -> Any:
        from aiodocker import Docker

        context = await asyncio.to_thread(tls_context, self._folder) if self._folder else None
        # Constructed from a URL of its own, and with TLS or without: no context of the docker command, and no
        # DOCKER_TLS_VERIFY that is meant for another engine, may come in between.
        url = re.sub(r"^(tcp|https?)://", "https://" if context else "http://", self.url)
        options: dict[str, Any] = {"ssl_context": context or False}
        docker = Docker(url=url, timeout=_CONNECT, **options)
        docker.session.trace_configs.append(self._answers.trace())
        return docker

    async def _keep(self) -> None:
        """Follow its events while it answers; when it does not, ask again until it does."""
        waits, silent_since = pauses(), time.monotonic()
        told = self.failure  # whoever asked first knows it
        while True:
            wait = not self._up
            if self._up:
                began = time.monotonic()
                reason = await self._followed()
                logger.warning("%s: its events broke off, asking again: %s", self.url, reason)
                self._up, silent_since, told = False, time.monotonic(), ""
                await self.images.stop()
                wait = silent_since - began < _STEADY_SECONDS
                if not wait:
                    waits = pauses()
            if wait:
                await asyncio.sleep(next(waits))
            try:
                async with self._connecting:
                    await self._ask()
            except DeployError as error:
                self._answers.hang_up()
                if error.message != told:
                    told = error.message
                    logger.warning("%s", told)
                if self._watch is not None and time.monotonic() - silent_since >= _LOST_SECONDS:
                    self._watch.lose(told)

    async def _followed(self) -> str:
        """Follow its events until they break off, and return why: nothing that it sends ends its keeper."""
        try:
            return await self.watch.follow()
        except Exception as error:
            logger.exception("%s: cannot take its events in", self.url)
            return problem(error)


def pauses() -> Iterator[float]:
    """Return how many seconds to wait each time before an engine that is away is asked again."""
    pause = _FIRST_PAUSE
    while True:
        yield pause
        pause = min(2 * pause, _LONGEST_PAUSE)


def _publishing_address(host: str) -> str:
    """Return the address of an engine's machine, as seen from here. Blocks shortly."""
    if not host:
        return _LOOPBACK
    address = str(socket.getaddrinfo(host, None, socket.AF_INET)[0][4][0])
    return _LOOPBACK if address.startswith("127.") else address


def _unix_time(moment: str) -> str:
    """Return a moment as the engine's API takes it, rounded down."""
    return str(int(datetime.fromisoformat(_FRACTION.sub("", moment)).timestamp()))
