"""Homeservers as processes on this machine."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path

from trafficlight.errors import DeployError, UnsupportedError
from trafficlight.homeservers.certificates import Certificates
from trafficlight.homeservers.local.cache import CacheFolder
from trafficlight.homeservers.local.launcher import Launcher
from trafficlight.homeservers.local.pool import WarmPool
from trafficlight.homeservers.local.ports import PortPicker
from trafficlight.homeservers.local.run_folder import RunFolder
from trafficlight.homeservers.local.server import LocalServer
from trafficlight.homeservers.provider import RunningServer, ServerRequest
from trafficlight.homeservers.recipes import default_recipes
from trafficlight.homeservers.recipes.recipe import Place, Recipe
from trafficlight.homeservers.resources import default_capacity, default_warm, room_for_another
from trafficlight.homeservers.tools import Progress, run_to_completion
from trafficlight.server_types import HomeServerSpec

logger = logging.getLogger(__name__)

_ATTEMPTS = 3
_TAKEN = "address already in use"
_Kind = tuple[str, str]  # a recipe's name and an exact version


class LocalProvider:
    """Starts every homeserver as a process on loopback, with its data in memory where there is enough.

    :param cache_folder: where installations are kept; by default the user's cache folder.
    :param stable: the exact version that ``stable`` stands for, by recipe; missing ones have a built-in one.
    :param recipes: what can be run; by default all that are shipped.
    :param warm: how many homeservers to keep started ahead; by default what the machine can spare.
    :param progress: gets a line for every slow step, such as an installation.
    :param data_folder: where data of running homeservers go; by default memory, else the temporary folder.
    :param ready_timeout: how long a homeserver may take to answer, in seconds.
    :param ports: where ports come from.
    :param capacity: homeservers for cases at once; by default what this machine's memory and cores carry.
    """

    name = "local"

    def __init__(
        self,
        *,
        cache_folder: Path | None = None,
        stable: Mapping[str, str] | None = None,
        recipes: Sequence[Recipe] | None = None,
        warm: int | None = None,
        progress: Progress | None = None,
        data_folder: Path | None = None,
        ready_timeout: float = 60,
        ports: PortPicker | None = None,
        capacity: int | None = None,
    ) -> None:
        if recipes is None:
            recipes = default_recipes(CacheFolder(cache_folder), progress or logger.info, stable or {})
        self._recipes = {recipe.name: recipe for recipe in recipes}
        self._ready_timeout = ready_timeout
        # Asked once: what runs already must not count twice.
        self._capacity = default_capacity() if capacity is None else capacity
        self.ports = ports or PortPicker()
        self._folder = RunFolder(data_folder)
        self._certificates: Certificates | None = None
        self._launchers: dict[_Kind, Launcher] = {}
        self._servers: set[LocalServer] = set()
        self._preparing = asyncio.Lock()
        self._closed = False
        self.pool: WarmPool[_Kind, LocalServer] = WarmPool(
            default_warm() if warm is None else warm, self._start_ahead, room_for_another
        )

    @property
    def hosts(self) -> dict[str, int]:
        """How many homeservers this machine carries for cases at once."""
        return {"this machine": self._capacity}

    @property
    def folder(self) -> Path:
        """Where the data of its running homeservers are."""
        return self._folder.path

    @property
    def servers(self) -> frozenset[LocalServer]:
        """Its homeservers, those started ahead included."""
        return frozenset(self._servers)

    @property
    def running(self) -> int:
        """How many homeservers there are, those started ahead included."""
        return len(self._servers)

    def unsupported(self, spec: HomeServerSpec) -> str | None:
        """Return why what is asked for can never run here, or None where it can."""
        recipe = self._recipes.get(spec.recipe)
        if recipe is None:
            known = ", ".join(sorted(self._recipes))
            return f"{spec.type_name}: the local provider has no recipe {spec.recipe!r}, only {known}"
        return recipe.unsupported(spec.version)

    async def prepare(self, specs: Sequence[HomeServerSpec]) -> None:
        """Install what is missing, load it, and begin to start homeservers ahead.

        :raises DeployError: an installation failed.
        """
        problems: list[DeployError] = []
        for spec in specs:
            if self.unsupported(spec) is not None:
                continue
            try:
                kind = await self._prepared(spec)
            except DeployError as problem:  # the others can be had all the same
                problems.append(problem)
            else:
                if self._recipes[kind[0]].follows_log:
                    self.pool.want([kind])
        if problems:
            logs = "\n".join(problem.log for problem in problems)
            raise DeployError("; ".join(problem.message for problem in problems), log=logs)

    @contextlib.asynccontextmanager
    async def deploy(
        self, case_id: str, requests: Sequence[ServerRequest]
    ) -> AsyncIterator[list[RunningServer]]:
        """Deploy fresh homeservers that answer and federate with each other; leaving destroys them, always.

        :raises DeployError: one does not come up; nothing is left behind.
        """
        mine: list[LocalServer] = []
        try:
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(self._obtain(request, mine)) for request in requests]
            except BaseExceptionGroup as failures:
                raise _first(failures) from failures
            servers: list[RunningServer] = [task.result() for task in tasks]
            logger.debug("%s: deployed %s", case_id, ", ".join(server.server_name for server in servers))
            yield servers
        finally:
            await run_to_completion(_destroy(mine))

    async def close(self) -> None:
        """Destroy every homeserver and remove all data. Idempotent."""
        self._closed = True
        await run_to_completion(self._close())

    async def _close(self) -> None:
        await self.pool.close()
        await _destroy(self._servers)
        async with self._preparing:
            for launcher in self._launchers.values():
                await launcher.close()
            await asyncio.to_thread(self._folder.close)

    async def resolve(self, spec: HomeServerSpec) -> str:
        """Return the exact version that would be deployed; may ask the package index once.

        :raises UnsupportedError: none can be.
        """
        return await self._recipe(spec).resolve(spec.version)

    def _recipe(self, spec: HomeServerSpec) -> Recipe:
        reason = self.unsupported(spec)
        if reason is not None:
            raise UnsupportedError(reason)
        return self._recipes[spec.recipe]

    async def _prepared(self, spec: HomeServerSpec) -> _Kind:
        """Return the kind of homeserver that is meant, installed and loaded."""
        recipe = self._recipe(spec)
        async with self._preparing:
            if self._closed:
                raise DeployError("the local provider is closed")
            kind = (recipe.name, await recipe.resolve(spec.version))
            if self._certificates is None:
                await run_to_completion(asyncio.to_thread(self._folder.open))
                self._certificates = await asyncio.to_thread(Certificates.create, self._folder.path)
            if kind not in self._launchers:
                installation = await recipe.install(kind[1])
                log = self._folder.path / f"{'-'.join(kind)}-fork-server.log"
                launcher = Launcher(installation, log)
                await launcher.warm_up()
                self._launchers[kind] = launcher
        return kind

    async def _obtain(self, request: ServerRequest, mine: list[LocalServer]) -> LocalServer:
        """Take a homeserver from the pool or start one; it is in `mine` from its first moment."""
        try:
            return await self._take_or_start(request, mine)
        except OSError as error:  # no space, no file descriptors: the lab's trouble
            raise DeployError(f"{request.role}: {error}") from error

    async def _take_or_start(self, request: ServerRequest, mine: list[LocalServer]) -> LocalServer:
        kind = await self._prepared(request.spec)
        # One that cannot move its log to the case's folder is never started ahead.
        warmed = self.pool.take(kind) if self._recipes[kind[0]].follows_log else None
        if warmed is not None:
            mine.append(warmed)
            await warmed.assign(request.role, request.log)
            return warmed
        for attempt in range(1, _ATTEMPTS + 1):
            server = await self._make(kind)
            mine.append(server)
            await server.assign(request.role, request.log)
            try:
                await server.start()
            except DeployError as error:
                if attempt == _ATTEMPTS or _TAKEN not in error.log.lower():
                    raise
                logger.info("%s: a port was taken meanwhile, trying others", request.role)
                await server.destroy()
            else:
                return server
        raise AssertionError("unreachable")

    async def _start_ahead(self, kind: _Kind) -> LocalServer:
        server = await self._make(kind)
        try:
            await server.start()
        except BaseException:
            await server.destroy()
            raise
        return server

    async def _make(self, kind: _Kind) -> LocalServer:
        """Lay out a homeserver that is not started yet."""
        launcher, recipe = self._launchers[kind], self._recipes[kind[0]]
        ports = self.ports.pick(), self.ports.pick()

        def lay_out() -> LocalServer:
            assert self._certificates is not None
            directory = self._folder.new(recipe.name)
            certificates = self._certificates
            place = Place(
                directory=directory,
                log=directory / "homeserver.log",
                client_port=ports[0],
                federation_port=ports[1],
                authority=certificates.authority,
                certificate=certificates.certificate,
                private_key=certificates.private_key,
            )
            command = recipe.configure(launcher.installation, place)
            return LocalServer(place, command, launcher, ready_timeout=self._ready_timeout)

        try:
            server = await run_to_completion(asyncio.to_thread(lay_out))
        except BaseException:
            self._release(ports)
            raise
        server.on_destroyed = lambda: self._forget(server, ports)
        self._servers.add(server)
        return server

    def _forget(self, server: LocalServer, ports: tuple[int, int]) -> None:
        self._servers.discard(server)
        self._release(ports)

    def _release(self, ports: tuple[int, int]) -> None:
        for port in ports:
            self.ports.release(port)


async def _destroy(servers: Iterable[LocalServer]) -> None:
    await asyncio.gather(*(server.destroy() for server in servers))


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the failure to show: what went wrong in the lab rather than what followed from it."""
    deploys = failures.subgroup(DeployError)
    failure: BaseException = deploys if deploys is not None else failures
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure
