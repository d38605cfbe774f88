"""Homeservers from Complement's homerunner: Docker containers behind a small HTTP service."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import aiohttp
from yarl import URL

from trafficlight.clock import Clock, SystemClock
from trafficlight.errors import ConfigError, DeployError, UnsupportedError
from trafficlight.homeservers.homerunner.api import (
    CreateFailedError,
    Deployed,
    Homerunner,
    HomerunnerUnreachableError,
)
from trafficlight.homeservers.probe import title_of, wait_until_ready
from trafficlight.homeservers.provider import RunningServer, ServerRequest, all_of, capacity_of_this_machine
from trafficlight.processes import run_to_completion
from trafficlight.server_types import HomeServerSpec

logger = logging.getLogger(__name__)

KEY = "HOMERUNNER_URL"
_ATTEMPTS = 3
_LEAST_LIFETIME_SECONDS = 60
_REST_SECONDS = 30  # an unreachable homerunner is not used for so long
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class HomerunnerServer:
    """A homeserver in a container that homerunner started."""

    role: str
    server_name: str
    cs_api: str
    version: str
    image: str
    until: float
    clock: Clock
    federation: None = None

    @property
    def exited(self) -> str | None:
        """That homerunner's lifetime for it is over; None before."""
        if self.clock.monotonic() < self.until:
            return None
        return "homerunner's lifetime for it is over, raise HOMERUNNER_LIFETIME_MINS"

    async def operate(self, operation: str, config: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Refuse: homerunner can only create and destroy.

        :raises UnsupportedError: always.
        """
        raise UnsupportedError(f"homerunner cannot {operation} a homeserver; the provider docker can")


class HomerunnerProvider:
    """Deploys through one homerunner or several, each on a Docker engine of its own.

    :param urls: where they listen.
    :param images: images by server type, where it is not the type's own.
    :param ready_timeout: how long a homeserver that was reported ready may take to answer, in seconds.
    :param settle: how long a create may go on after its connection broke, in seconds.
    :param capacity: homeservers at once behind each; by default as many as this machine carries, because
        homerunner does not report the capacity of its own.
    :raises ConfigError: there is no URL, or one is wrong.
    """

    name = "homerunner"

    def __init__(
        self,
        urls: Sequence[str],
        *,
        images: Mapping[str, str] | None = None,
        clock: Clock | None = None,
        ready_timeout: float = 20,
        settle: float = 60,
        capacity: int | None = None,
    ) -> None:
        if not urls:
            raise ConfigError("names no homerunner, e.g. http://127.0.0.1:54321", key=KEY)
        for url in urls:
            if not url.startswith(("http://", "https://")) or not URL(url).host:
                raise ConfigError(f"is {url!r}; write a URL such as http://127.0.0.1:54321", key=KEY)
        self._clock = clock or SystemClock()
        self._ready_timeout = ready_timeout
        self._images = dict(images or {})
        self._runners = [Homerunner(url, self._clock, settle=settle) for url in dict.fromkeys(urls)]
        self._capacity = capacity_of_this_machine() if capacity is None else capacity
        self._work: set[asyncio.Task[Any]] = set()
        self._session: aiohttp.ClientSession | None = None

    @property
    def capacities(self) -> dict[str, int]:
        """How many homeservers they carry at once, without those that were just unreachable."""
        return {all_of(self.name): self._capacity * len(self._usable())}

    def _usable(self) -> list[Homerunner]:
        now = self._clock.monotonic()
        return [runner for runner in self._runners if runner.resting_until <= now] or self._runners

    def unsupported(self, spec: HomeServerSpec) -> str | None:
        """Return that no image is configured; None if one is."""
        if self._image(spec):
            return None
        return f"{spec.type_name} ({spec.recipe}): no image is named for it, see IMAGES"

    def _image(self, spec: HomeServerSpec) -> str:
        return self._images.get(spec.type_name, spec.image)

    async def health(self) -> dict[str, str | None]:
        """Return why each homerunner cannot be used, or None, by URL."""
        session = self._connected()
        found = await asyncio.gather(*(runner.health(session) for runner in self._runners))
        return {runner.url: reason for runner, reason in zip(self._runners, found, strict=True)}

    async def prepare(self, specs: Sequence[HomeServerSpec]) -> None:
        """Check that a homerunner answers. Whether its Docker works shows only in a create.

        :raises DeployError: none answers.
        """
        health = await self.health()
        for reason in filter(None, health.values()):
            logger.warning("homerunner: %s", reason)
        if all(health.values()):
            raise DeployError(f"{KEY}: " + "; ".join(filter(None, health.values())))

    @contextlib.asynccontextmanager
    async def deploy(
        self, case_id: str, requests: Sequence[ServerRequest]
    ) -> AsyncIterator[list[RunningServer]]:
        """Deploy fresh homeservers that federate with each other, and destroy them on leaving, in every case.

        :raises DeployError: no homerunner can deploy them; carries the answer of each.
        """
        runner, deployed, servers = await self._deploy(requests)
        logger.debug("%s: %s deployed %s", case_id, runner.url, deployed.name)
        try:
            yield list(servers)
        finally:
            await run_to_completion(self._destroy(runner, deployed))

    async def close(self) -> None:
        """Wait for abandoned creates and destroy what they deploy. Idempotent."""
        while self._work:
            await asyncio.wait(self._work)
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _deploy(
        self, requests: Sequence[ServerRequest]
    ) -> tuple[Homerunner, Deployed, list[HomerunnerServer]]:
        images = [self._image(request.spec) for request in requests]
        problems: list[str] = []
        unreachable: set[Homerunner] = set()
        for _ in range(_ATTEMPTS + len(self._runners)):
            usable = [runner for runner in self._usable() if runner not in unreachable]
            if not usable or len(problems) - len(unreachable) >= _ATTEMPTS:
                break
            runner = min(usable, key=lambda candidate: candidate.load)
            try:
                deployed = await self._create(runner, images)
                return runner, deployed, await self._verified(runner, deployed, requests)
            except DeployError as error:
                problems.append(error.message)
                logger.info("homerunner: %s", error.message)
                if isinstance(error, HomerunnerUnreachableError):
                    unreachable.add(runner)
                    runner.resting_until = self._clock.monotonic() + _REST_SECONDS
                elif isinstance(error, CreateFailedError) and error.permanent:
                    break
        roles = ", ".join(request.role for request in requests)
        raise DeployError(f"{roles}: {'; '.join(dict.fromkeys(problems))}")

    async def _create(self, runner: Homerunner, images: Sequence[str]) -> Deployed:
        """Create a deployment; if cancelled, destroy it when the create is done."""
        runner.load += 1  # before the next choice among several
        creating = self._owned(self._counted(runner, images))
        try:
            return await asyncio.shield(creating)
        except asyncio.CancelledError:
            self._owned(self._abandon(runner, creating))
            raise

    async def _counted(self, runner: Homerunner, images: Sequence[str]) -> Deployed:
        try:
            return await runner.create(self._connected(), images)
        except BaseException:
            runner.load -= 1
            raise

    async def _abandon(self, runner: Homerunner, creating: "asyncio.Task[Deployed]") -> None:
        await asyncio.wait([creating])
        if not creating.cancelled() and creating.exception() is None:
            await self._destroy(runner, creating.result())

    async def _destroy(self, runner: Homerunner, deployed: Deployed) -> None:
        runner.load -= 1
        await runner.destroy(self._connected(), deployed.name)

    async def _verified(
        self, runner: Homerunner, deployed: Deployed, requests: Sequence[ServerRequest]
    ) -> list[HomerunnerServer]:
        """Wait until the homeservers of a deployment are ready; destroys it if one does not become so."""
        try:
            left = deployed.until - self._clock.monotonic()
            if left < _LEAST_LIFETIME_SECONDS:
                raise DeployError(
                    f"{runner.url} keeps homeservers for {left:.0f} s only, raise HOMERUNNER_LIFETIME_MINS"
                )
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._server(runner, deployed, request, server, f"hs{number}"))
                    for number, (request, server) in enumerate(
                        zip(requests, deployed.servers, strict=True), 1
                    )
                ]
            return [task.result() for task in tasks]
        except BaseException as error:
            await run_to_completion(self._destroy(runner, deployed))
            if isinstance(error, ExceptionGroup):
                raise error.exceptions[0] from error
            raise

    async def _server(
        self,
        runner: Homerunner,
        deployed: Deployed,
        request: ServerRequest,
        facts: Mapping[str, Any],
        server_name: str,
    ) -> HomerunnerServer:
        cs_api = str(facts["BaseURL"]).rstrip("/")
        container = str(facts.get("ContainerID", ""))
        line = f"{server_name} at {cs_api} is container {container} of {deployed.name} at {runner.url}.\n"
        await asyncio.to_thread(_append, request.log, line)
        try:
            await wait_until_ready(self._connected(), cs_api, self._ready_timeout)
        except DeployError as error:
            hint = ""
            if URL(cs_api).host in _LOOPBACK and URL(runner.url).host not in _LOOPBACK:
                hint = (
                    f"; set HOMERUNNER_HS_PORTBINDING_IP of {runner.url} to an address that is not loopback"
                )
            raise DeployError(f"created, but {error.message}{hint}") from error
        federation = str(facts.get("FedBaseURL", "")).rstrip("/")
        version = await title_of(self._connected(), *filter(None, [federation, cs_api]))
        return HomerunnerServer(
            request.role,
            server_name,
            cs_api,
            version,
            self._image(request.spec),
            deployed.until,
            self._clock,
        )

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            # A connection per request: some versions exit while they answer one.
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True, limit=0))
        return self._session

    def _owned(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Start a task that outlives its caller and is awaited by `close`."""
        task = asyncio.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: "asyncio.Task[Any]") -> None:
        self._work.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.debug("homerunner: %s", error)  # retrieves it, which nothing else may do


def _append(log: Path, line: str) -> None:
    with log.open("a") as file:
        file.write(line)
