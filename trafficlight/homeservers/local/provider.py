"""Homeservers as processes on this machine."""

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeAlias

from trafficlight.cache import CacheFolder
from trafficlight.errors import DeployError, UnsupportedError
from trafficlight.homeservers.certificates import Certificates
from trafficlight.homeservers.local.fork_server import Launcher
from trafficlight.homeservers.local.ports import PortPicker
from trafficlight.homeservers.local.run_folder import RunFolder
from trafficlight.homeservers.local.server import LocalServer
from trafficlight.homeservers.provider import RunningServer, ServerRequest, all_of, capacity_of_this_machine
from trafficlight.homeservers.recipes import default_recipes
from trafficlight.homeservers.recipes.recipe import Place, Recipe
from trafficlight.processes import run_to_completion
from trafficlight.server_types import HomeServerSpec

logger = logging.getLogger(__name__)

_ATTEMPTS = 3
_PORT_TAKEN = "address already in use"

Kind: TypeAlias = tuple[str, str]
"""A recipe's name and an exact version."""


class LocalProvider:
    """Starts every homeserver as a process on loopback, with its data in memory if there is enough.

    :param recipes: what can run; by default the built-in recipes, with the user's cache folder.
    :param data_folder: the folder for the homeservers' data; by default in memory, else the temporary folder.
    :param ready_timeout: how long a homeserver may take to become ready, in seconds.
    :param capacity: how many homeservers cases may have at once; by default as memory and cores allow.
    """

    name = "local"

    def __init__(
        self,
        *,
        recipes: Sequence[Recipe] | None = None,
        data_folder: Path | None = None,
        ready_timeout: float = 60,
        ports: PortPicker | None = None,
        capacity: int | None = None,
    ) -> None:
        if recipes is None:
            recipes = default_recipes(CacheFolder(), logger.info)
        self._recipes = {recipe.name: recipe for recipe in recipes}
        self._ready_timeout = ready_timeout
        # Measured once: homeservers that run already must not count twice.
        self.capacities = {all_of(self.name): capacity or capacity_of_this_machine()}
        self._ports = ports or PortPicker()
        self._folder = RunFolder(data_folder)
        self._certificates: Certificates | None = None
        self._launchers: dict[Kind, Launcher] = {}
        self._servers: set[LocalServer] = set()
        # By recipe and version: one that is slow to build holds up no other. By recipe, to resolve versions.
        self._preparing: defaultdict[tuple[str, ...], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._opening = asyncio.Lock()
        self._closed = False

    @property
    def servers(self) -> frozenset[LocalServer]:
        """Its homeservers."""
        return frozenset(self._servers)

    def unsupported(self, spec: HomeServerSpec) -> str | None:
        """Return why a homeserver can never run here; None if it can."""
        recipe = self._recipes.get(spec.recipe)
        if recipe is None:
            known = ", ".join(sorted(self._recipes))
            return (
                f"{spec.type_name}: the local provider has no recipe {spec.recipe!r}: set `recipe`"
                f" in the type to one of {known}, or its provider in SERVER_PROVIDERS to docker or homerunner"
            )
        return recipe.unsupported(spec.version)

    async def prepare(self, specs: Sequence[HomeServerSpec]) -> None:
        """Install what is missing and boot the fork servers.

        :raises DeployError: an installation failed.
        """
        problems: list[DeployError] = []
        for spec in specs:
            if await asyncio.to_thread(self.unsupported, spec) is not None:  # it may search the PATH
                continue
            try:
                await self._prepared(spec)
            except DeployError as problem:  # the others can still be installed
                problems.append(problem)
        if problems:
            logs = "\n".join(problem.log for problem in problems)
            raise DeployError("; ".join(problem.message for problem in problems), log=logs)

    @contextlib.asynccontextmanager
    async def deploy(
        self, case_id: str, requests: Sequence[ServerRequest]
    ) -> AsyncIterator[list[RunningServer]]:
        """Deploy fresh homeservers that federate with each other, and destroy them on leaving, in every case.

        :raises DeployError: one does not become ready; nothing is left behind.
        """
        mine: list[LocalServer] = []
        try:
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(self._start(request, mine)) for request in requests]
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
        await _destroy(self._servers)
        async with AsyncExitStack() as stack:
            for lock in list(self._preparing.values()):
                await stack.enter_async_context(lock)
            for launcher in self._launchers.values():
                await launcher.close()
            await asyncio.to_thread(self._folder.close)

    async def resolve(self, spec: HomeServerSpec) -> str:
        """Return the exact version that would be deployed; may query the package index once.

        :raises UnsupportedError: none can be.
        """
        recipe = await asyncio.to_thread(self._recipe, spec)
        return await recipe.resolve(spec.version)

    def _recipe(self, spec: HomeServerSpec) -> Recipe:
        if (reason := self.unsupported(spec)) is not None:
            raise UnsupportedError(reason)
        return self._recipes[spec.recipe]

    async def _prepared(self, spec: HomeServerSpec) -> Kind:
        """Return the kind of homeserver that a spec stands for, installed, with its fork server running."""
        recipe = await asyncio.to_thread(self._recipe, spec)  # it may search the PATH
        async with self._preparing[recipe.name,]:
            kind = (recipe.name, await recipe.resolve(spec.version))
        async with self._preparing[kind]:
            if self._closed:
                raise DeployError("the local provider is closed")
            async with self._opening:
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

    async def _start(self, request: ServerRequest, mine: list[LocalServer]) -> LocalServer:
        """Start a homeserver; it is added to `mine` before anything can fail."""
        try:
            kind = await self._prepared(request.spec)
            for attempt in range(1, _ATTEMPTS + 1):
                server = await self._create(kind, request)
                mine.append(server)
                try:
                    await server.start()
                except DeployError as error:
                    if attempt == _ATTEMPTS or _PORT_TAKEN not in error.log.lower():
                        raise
                    logger.info("%s: another program took a port, trying others", request.role)
                    await server.destroy()
                else:
                    return server
        except OSError as error:  # no disk space or file descriptors left: an error of the lab
            raise DeployError(f"{request.role}: {error}") from error
        raise AssertionError("unreachable")

    async def _create(self, kind: Kind, request: ServerRequest) -> LocalServer:
        """Allocate the place of a homeserver and write its configuration."""
        launcher, recipe = self._launchers[kind], self._recipes[kind[0]]
        ports = [self._ports.pick() for _ in range(3 if request.spec.behind_proxy else 2)]

        def create() -> LocalServer:
            assert self._certificates is not None
            request.log.touch()
            directory = self._folder.new(recipe.name)
            place = Place(
                directory=directory,
                log=request.log.absolute(),
                client_port=ports[0],
                federation_port=ports[1],
                authority=self._certificates.authority,
                certificate=self._certificates.certificate,
                private_key=self._certificates.private_key,
                config=request.spec.config,
                name_port=ports[2] if request.spec.behind_proxy else 0,
            )
            try:
                command = recipe.configure(launcher.installation, place)
            except DeployError as error:
                title = launcher.installation.title
                raise DeployError(f"{request.spec.type_name}: {title} {error.message}") from error
            return LocalServer(
                request.role,
                place,
                command,
                launcher,
                ready_timeout=self._ready_timeout,
                on_destroyed=self._forget,
            )

        try:
            server = await run_to_completion(asyncio.to_thread(create))
        except BaseException:
            self._release(*ports)
            raise
        self._servers.add(server)
        return server

    def _forget(self, server: LocalServer) -> None:
        self._servers.discard(server)
        self._release(server.place.client_port, server.place.federation_port, server.place.name_port)

    def _release(self, *ports: int) -> None:
        for port in ports:
            self._ports.release(port)


async def _destroy(servers: Iterable[LocalServer]) -> None:
    await asyncio.gather(*(server.destroy() for server in servers))


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the failure to report: a failed deployment rather than the cancellations that it caused."""
    deploys = failures.subgroup(DeployError)
    failure: BaseException = deploys if deploys is not None else failures
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure
