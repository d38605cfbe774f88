"""The Docker engine: its connection, capacity, images, and the removal of what dead labs left on it."""

import asyncio
import contextlib
import logging
import os
import re
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any

import aiohttp
from yarl import URL

from trafficlight.config import DockerHost
from trafficlight.errors import ConfigError, DeployError
from trafficlight.homeservers.docker.api import (
    EngineWatch,
    Owner,
    certificate_folder,
    connection_problem,
    engine_errors,
    problem,
    reclaim,
    tls_context,
)
from trafficlight.homeservers.provider import capacity_of
from trafficlight.processes import Progress

logger = logging.getLogger(__name__)

CREATE_SECONDS = 60
"""How long the engine may take to create a network or a container, which cannot be cancelled."""
_KEY = "DOCKER_ENGINE"
_LOOPBACK = "127.0.0.1"
_SHARE_OF_MEMORY = 0.8
_CONNECT = aiohttp.ClientTimeout(total=None, sock_connect=10)
_ANSWER_SECONDS, _RECLAIM_SECONDS = 15, 120
_PULL_SILENCE_SECONDS = 300  # between two lines of a pull's progress
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_STEADY_SECONDS = 5.0  # an event stream shorter than this counts as a failed connection
# Without an answer for this long, the engine's homeservers count as lost: a restart of the engine is faster.
_LOST_SECONDS = 5.0


class DockerEngine:
    """The engine. After the first :meth:`connect` a task keeps the connection and reconnects when it is lost.

    :param host: its URL, certificates and capacity; by default what the docker command would use.
    :raises ConfigError: its URL is invalid.
    """

    def __init__(self, host: DockerHost | None = None) -> None:
        host = host or DockerHost(url=os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock")
        parsed = URL(host.url)
        if parsed.scheme not in ("unix", "tcp", "http", "https"):
            raise ConfigError(
                f"is {host.url!r}; write unix:///var/run/docker.sock or tcp://HOST:PORT", key=_KEY
            )
        if host.certificates is not None and parsed.scheme not in ("tcp", "https"):
            raise ConfigError(f"{host.url} has certificates, but its URL is not for TLS", key=_KEY)
        self.url = host.url
        self.owner = Owner()
        #: How many homeservers it carries at once; None before it was connected.
        self.capacity = host.capacity
        #: The ids of the containers and networks that are in use.
        self.wanted: set[str] = set()
        self._folder = certificate_folder(host)
        self._host = "" if parsed.scheme == "unix" else parsed.host or ""
        #: The client of its API, once connected; half of its methods have no types.
        self.docker: Any = None
        self._watch: EngineWatch | None = None
        #: The address where homeservers are published: loopback, or a remote engine's own.
        self.address = ""
        self._connecting = asyncio.Lock()
        self._keeper: asyncio.Task[None] | None = None
        #: Whether it answers, as far as is known.
        self.up = False
        #: Why it does not answer; empty if it does, or was not connected yet.
        self.failure = ""

    @property
    def watch(self) -> EngineWatch:
        """Its events, once connected."""
        assert self._watch is not None
        return self._watch

    @property
    def remote(self) -> bool:
        """Whether it is on another machine."""
        return self.address != _LOOPBACK

    async def connect(self) -> None:
        """Ensure that it answers. The first time, and after a break, remove what dead labs left on it.

        :raises DeployError: it does not answer.
        """
        async with self._connecting:
            if self.up:
                return
            try:
                await self._greet()
            except DeployError as error:
                self.failure = error.message
                raise
            finally:
                if self._keeper is None:
                    self._keeper = asyncio.create_task(self._keep(), name=f"keeper of {self.url}")
            self.up, self.failure = True, ""

    async def ensure_image(self, image: str, progress: Progress) -> None:
        """Pull an image if the engine does not have it.

        :raises DeployError: it cannot pull it, or does not answer.
        """
        errors: tuple[type[Exception], ...] = (*engine_errors(), ValueError)  # the answer may not be JSON
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await self.docker.images.inspect(image)
                return
        except TimeoutError as error:
            raise DeployError(
                f"the Docker engine {self.url} does not report whether it has {image}"
            ) from error
        except errors:
            progress(f"{self.url}: pulling {image}")
        loop = asyncio.get_running_loop()
        try:
            async with (
                asyncio.timeout(_PULL_SILENCE_SECONDS) as limit,
                contextlib.aclosing(self.docker.images.pull(image, stream=True)) as lines,
            ):
                async for _ in lines:
                    limit.reschedule(loop.time() + _PULL_SILENCE_SECONDS)
        except TimeoutError as error:
            raise DeployError(
                f"the Docker engine {self.url} reports no progress of pulling {image}"
            ) from error
        except errors as error:
            raise DeployError(
                f"the engine {self.url} has no image {image} and cannot pull it: {error}"
            ) from error

    async def close(self) -> None:
        """Disconnect. Idempotent."""
        self.up = False
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        docker, self.docker = self.docker, None
        if docker is not None:
            await docker.close()

    async def _greet(self) -> None:
        """Check that it answers, read its properties, and reclaim what is left on it.

        :raises DeployError: it does not answer.
        """
        docker = self.docker
        try:
            docker = docker or await self._client()
            async with asyncio.timeout(_ANSWER_SECONDS):
                info = await docker.system.info()
                self.address = await asyncio.to_thread(_publishing_address, self._host)
            if self.capacity is None:
                self.capacity = capacity_of(int(info["MemTotal"] * _SHARE_OF_MEMORY), int(info["NCPU"]))
            if self.docker is None:
                system_time = datetime.fromisoformat(info["SystemTime"]).timestamp()
                self._watch = EngineWatch(docker, self.owner.id, str(int(system_time)))
            async with asyncio.timeout(_RECLAIM_SECONDS):
                await reclaim(docker, self.url, self.owner.id, self.wanted)
            self.docker = docker
        except DeployError:
            raise
        except engine_errors() as error:
            reason = connection_problem(error, self._folder)
            raise DeployError(f"the Docker engine {self.url} does not answer: {reason}") from error
        except Exception as error:
            logger.debug("%s: invalid answer", self.url, exc_info=True)
            raise DeployError(
                f"the Docker engine {self.url} does not answer as one does: {error!r}"
            ) from error
        finally:
            if docker is not None and docker is not self.docker:
                await docker.close()

    async def _client(self) -> Any:
        from aiodocker import Docker

        context = await asyncio.to_thread(tls_context, self._folder) if self._folder else None
        # With an explicit URL and TLS context the library reads neither the docker command's contexts nor
        # DOCKER_TLS_VERIFY, which may be meant for another engine.
        url = re.sub(r"^(tcp|https?)://", "https://" if context else "http://", self.url)
        options: dict[str, Any] = {"ssl_context": context or False}
        docker: Any = Docker(url=url, timeout=_CONNECT, **options)
        docker._query = _closing_responses(docker._query)
        return docker

    async def _keep(self) -> None:
        """Follow its events while it answers, and reconnect when it does not."""
        waits, silent_since = pauses(), time.monotonic()
        reported = self.failure  # the first caller has it from the exception
        while True:
            wait = not self.up
            if self.up:
                began = time.monotonic()
                reason = await self._followed()
                logger.warning("%s: lost its events, reconnecting: %s", self.url, reason)
                self.up, silent_since, reported = False, time.monotonic(), ""
                wait = silent_since - began < _STEADY_SECONDS
                if not wait:
                    waits = pauses()
            if wait:
                await asyncio.sleep(next(waits))
            try:
                await self.connect()
            except DeployError as error:
                if error.message != reported:
                    reported = error.message
                    logger.warning("%s", reported)
                if self._watch is not None and time.monotonic() - silent_since >= _LOST_SECONDS:
                    self._watch.mark_lost(reported)

    async def _followed(self) -> str:
        """Follow its events until the stream ends, also with an unexpected exception, and return why."""
        try:
            return await self.watch.follow()
        except Exception as error:
            logger.exception("%s: cannot process its events", self.url)
            return problem(error)


def pauses() -> Iterator[float]:
    """Yield the seconds to wait before each attempt to reconnect."""
    pause = _FIRST_PAUSE
    while True:
        yield pause
        pause = min(2 * pause, _LONGEST_PAUSE)


def _closing_responses(query: Callable[..., AbstractAsyncContextManager[Any]]) -> Callable[..., Any]:
    """Return the library's request function, closing each response, which it leaves to the garbage collector.

    A stream that breaks or is cancelled, such as a log, would keep its connection until then.
    """

    @contextlib.asynccontextmanager
    async def closing(*args: Any, **options: Any) -> AsyncIterator[Any]:
        async with query(*args, **options) as response:
            with contextlib.closing(response):
                yield response

    return closing


def _publishing_address(host: str) -> str:
    """Return the address of an engine's machine, as seen from here. Blocks shortly."""
    if not host:
        return _LOOPBACK
    address = str(socket.getaddrinfo(host, None, socket.AF_INET)[0][4][0])
    return _LOOPBACK if address.startswith("127.") else address
