"""One Docker engine: its connection, capacity, images, and the removal of what dead labs left on it."""

import asyncio
import logging
import os
import re
import socket
import time
import weakref
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import aiohttp
from yarl import URL

from trafficlight.config import DockerHost
from trafficlight.errors import ConfigError, DeployError
from trafficlight.homeservers.docker.errors import (
    EngineSilentError,
    certificate_folder,
    connection_problem,
    engine_errors,
    problem,
    tls_context,
)
from trafficlight.homeservers.docker.events import EngineWatch
from trafficlight.homeservers.docker.owner import Owner, reclaim
from trafficlight.homeservers.provider import capacity_of
from trafficlight.processes import Progress

logger = logging.getLogger(__name__)

CREATE_SECONDS = 60
"""How long an engine may take to create a network or a container, which cannot be cancelled."""
_KEY = "DOCKER_ENGINES"
_LOOPBACK = "127.0.0.1"
_SHARE_OF_MEMORY = 0.8
_CONNECT = aiohttp.ClientTimeout(total=None, sock_connect=10)
_ANSWER_SECONDS, _RECLAIM_SECONDS = 15, 120
_PULL_SILENCE_SECONDS = 300  # between two lines of a pull's progress
_RETRY_SECONDS = 5  # a new session does not wait for an engine that failed less than this ago
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_STEADY_SECONDS = 5.0  # an event stream shorter than this counts as a failed connection
# Without an answer for this long, an engine's homeservers count as lost: a restart of the engine is faster.
_LOST_SECONDS = 5.0


def default_engine() -> str:
    """Return the engine that the docker command would use."""
    return os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"


class DockerEngine:
    """One engine. After the first :meth:`connect` a task keeps the connection and reconnects when it is lost.

    :param host: its URL, certificates and capacity.
    :param owner: the owner of the containers and networks that are created here.
    :raises ConfigError: its URL is invalid.
    """

    def __init__(self, host: DockerHost, owner: Owner) -> None:
        parsed = URL(host.url)
        if parsed.scheme not in ("unix", "tcp", "http", "https"):
            raise ConfigError(
                f"is {host.url!r}; write unix:///var/run/docker.sock or tcp://HOST:PORT", key=_KEY
            )
        if host.certificates is not None and parsed.scheme not in ("tcp", "https"):
            raise ConfigError(f"{host.url} has certificates, but its URL is not for TLS", key=_KEY)
        self.url = host.url
        self.owner = owner
        #: How many homeservers it carries at once; None before it was connected.
        self.capacity = host.capacity
        #: The ids of the containers and networks that are in use.
        self.wanted: set[str] = set()
        #: The images that it must have before it is ready, and where a pull of each is reported.
        self.images: dict[str, Progress] = {}
        self._responses = _OpenResponses()
        self._folder = certificate_folder(host)
        self._host = "" if parsed.scheme == "unix" else parsed.host or ""
        #: The client of its API, once connected; half of its methods have no types.
        self.docker: Any = None
        self._watch: EngineWatch | None = None
        #: The address where homeservers are published: loopback, or a remote engine's own.
        self.address = ""
        self._connecting = asyncio.Lock()
        self._keeper: asyncio.Task[None] | None = None
        self._pulling: asyncio.Task[None] | None = None
        #: Whether it answers, as far as is known.
        self.up = False
        self._failure: DeployError | None = None
        self._retry_at = 0.0

    @property
    def watch(self) -> EngineWatch:
        """Its events, once connected."""
        assert self._watch is not None
        return self._watch

    @property
    def ready(self) -> bool:
        """Whether it answers and has every image that it can have."""
        return self.up and (self._pulling is None or self._pulling.done())

    @property
    def failure(self) -> str:
        """Why it does not answer; empty if it does, or was not connected yet."""
        return self._failure.message if self._failure is not None else ""

    @property
    def remote(self) -> bool:
        """Whether it is on another machine."""
        return self.address != _LOOPBACK

    async def connect(self) -> None:
        """Ensure that it answers. The first time, and after a break, remove what dead labs left on it.

        :raises DeployError: it does not answer, or did not a moment ago.
        """
        if self._failure is not None and self._connecting.locked():
            raise self._failure  # a slow attempt is running already
        async with self._connecting:
            if self._failure is not None and time.monotonic() < self._retry_at:
                raise self._failure
            await self._connect()

    async def ensure_image(self, image: str, progress: Progress) -> None:
        """Pull an image if the engine does not have it.

        :raises EngineSilentError: it does not report whether it has it, or stops reporting the pull.
        :raises DeployError: it cannot pull it.
        """
        errors: tuple[type[Exception], ...] = (*engine_errors(), ValueError)  # the answer may not be JSON
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await self.docker.images.inspect(image)
                return
        except TimeoutError as error:
            raise EngineSilentError(
                f"the Docker engine {self.url} does not report whether it has {image}"
            ) from error
        except errors:
            progress(f"{self.url}: pulling {image}")
        try:
            await self._pull(image)
        except TimeoutError as error:
            raise EngineSilentError(
                f"the Docker engine {self.url} reports no progress of pulling {image}"
            ) from error
        except errors as error:
            raise DeployError(
                f"the engine {self.url} has no image {image} and cannot pull it: {error}"
            ) from error

    def pull_missing(self) -> None:
        """Begin to pull what is missing of :attr:`images`; it is not ready until that is done."""
        if self.up and self.images and (self._pulling is None or self._pulling.done()):
            self._pulling = asyncio.create_task(self._pull_missing(), name=f"images for {self.url}")

    async def close(self) -> None:
        """Disconnect. Idempotent."""
        self.up = False
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        await self._stop_pulling()
        docker, self.docker = self.docker, None
        if docker is not None:
            await docker.close()

    async def _connect(self) -> None:
        """Connect if it is not connected; the caller holds the lock."""
        if self.up:
            return
        try:
            await self._greet()
        except DeployError as error:
            self._failure, self._retry_at = error, time.monotonic() + _RETRY_SECONDS
            raise
        finally:
            if self._keeper is None:
                self._keeper = asyncio.create_task(self._keep(), name=f"keeper of {self.url}")
        self.up, self._failure = True, None
        self.pull_missing()

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
        docker = Docker(url=url, timeout=_CONNECT, **options)
        docker.session.trace_configs.append(self._responses.trace())
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
                await self._stop_pulling()
                wait = silent_since - began < _STEADY_SECONDS
                if not wait:
                    waits = pauses()
            if wait:
                await asyncio.sleep(next(waits))
            try:
                async with self._connecting:
                    await self._connect()
            except DeployError as error:
                self._responses.close_all()
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

    async def _pull(self, image: str) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_PULL_SILENCE_SECONDS) as limit:
                async for _ in self.docker.images.pull(image, stream=True):
                    limit.reschedule(loop.time() + _PULL_SILENCE_SECONDS)
        except BaseException:
            self._responses.close_own()
            raise

    async def _pull_missing(self) -> None:
        tried: set[str] = set()  # images may be added during a pull
        while missing := [image for image in self.images if image not in tried]:
            image = missing[0]
            try:
                await self.ensure_image(image, self.images[image])
            except EngineSilentError as error:  # not ready until it answers
                logger.warning("%s", error.message)
                continue
            except DeployError as error:  # it may have the others
                logger.warning("%s", error.message)
            tried.add(image)

    async def _stop_pulling(self) -> None:
        pulling, self._pulling = self._pulling, None  # another may begin while this one is cancelled
        if pulling is not None:
            pulling.cancel()
            await asyncio.wait([pulling])


class _OpenResponses:
    """Tracks an engine's open responses by the task that requested them, to close them when it is silent."""

    def __init__(self) -> None:
        self._requester: weakref.WeakKeyDictionary[aiohttp.ClientResponse, asyncio.Task[Any] | None] = (
            weakref.WeakKeyDictionary()
        )

    def trace(self) -> aiohttp.TraceConfig:
        """Return the hook for the client's session."""
        trace = aiohttp.TraceConfig()
        trace.on_request_end.append(self._begun)
        trace.freeze()
        return trace

    def close_all(self) -> None:
        """Close all of them."""
        for response in tuple(self._requester):
            response.close()

    def close_own(self) -> None:
        """Close those of the calling task, which the library leaves open when it is cancelled."""
        current = asyncio.current_task()
        for response, requester in tuple(self._requester.items()):
            if requester is current:
                response.close()

    async def _begun(self, _session: Any, _context: Any, end: aiohttp.TraceRequestEndParams) -> None:
        self._requester[end.response] = asyncio.current_task()


def pauses() -> Iterator[float]:
    """Yield the seconds to wait before each attempt to reconnect."""
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
