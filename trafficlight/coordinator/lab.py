"""The lab, put together from its settings."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from trafficlight.clock import Clock, SystemClock
from trafficlight.config import Settings
from trafficlight.coordinator.engine import Engine
from trafficlight.coordinator.execution import InProcess
from trafficlight.coordinator.runner import Deadlines, Executor
from trafficlight.coordinator.scheduler import Limits
from trafficlight.coordinator.session import Options, Session
from trafficlight.coordinator.workers import WorkerPool
from trafficlight.errors import DeployError, UsageError
from trafficlight.homeservers.local import LocalProvider
from trafficlight.homeservers.registry import Providers
from trafficlight.results.folder import ResultsFolder
from trafficlight.results.journal import Journal
from trafficlight.results.names import folder_name
from trafficlight.server_types import HomeServerSpec
from trafficlight.suites.discovery import DEFAULT_PATTERNS
from trafficlight.suites.model import Case, Plan
from trafficlight.suites.planning import plan as plan_of
from trafficlight.worker.output import capturing

__all__ = ["Lab"]

# Cases at once, where no limit is set: they mostly wait for others, but each has a process.
_CASES, _CASES_PER_CORE = 8, 4


@dataclass(frozen=True, slots=True)
class Lab:
    """A running lab: what the HTTP application and the commands work with."""

    settings: Settings
    clock: Clock
    journal: Journal
    servers: Providers
    engine: Engine

    @classmethod
    @asynccontextmanager
    async def open(
        cls, settings: Settings, *, progress: Callable[[str], None] | None = None
    ) -> AsyncIterator["Lab"]:
        """Run a lab until it is left: what runs gets the grace period then, and nothing remains.

        :param progress: told what takes long, a line at a time.
        """
        clock = SystemClock()
        journal = Journal(clock)
        async with AsyncExitStack() as stack:
            executor = await _executor(settings, stack)
            servers = _servers(settings, progress)
            stack.push_async_callback(servers.close)
            engine = Engine(
                clock=clock,
                journal=journal,
                servers=servers,
                executor=executor,
                deadlines=Deadlines(
                    action=settings.action_deadline,
                    case=settings.case_deadline,
                    prepare=settings.prepare_deadline,
                    teardown=settings.teardown_deadline,
                ),
                limits=_limits(settings, servers.capacity),
                queue_deadline=settings.queue_deadline,
                alive_deadline=settings.alive_deadline,
            )
            running = asyncio.create_task(engine.run(), name="engine")
            try:
                yield cls(settings, clock, journal, servers, engine)
            finally:
                await engine.stop("the lab was told to stop", grace=settings.grace)
                await running

    def new_folder(self) -> ResultsFolder:
        """Make the results folder of a new session; its name is the session's id.

        :raises OSError: it cannot be made.
        """
        return ResultsFolder.create(self.settings.results_root, self.clock.now().date())

    async def start_session(self, folder: ResultsFolder, plan: Plan, options: Options) -> Session:
        """Prepare what the cases need and start them.

        Where a homeserver cannot be prepared, the cases that need one end as errors, and say why.
        """
        problems = await self._prepare(plan)

        def hopeless(case: Case) -> str | None:
            return next((problems[spec] for spec in _specs(case) if spec in problems), None)

        return self.engine.submit(folder, plan, options, hopeless=hopeless)

    async def start_configured(self, options: Options, targets: Sequence[str] = ()) -> Session:
        """Start the session that the settings describe, or one with these targets.

        :raises UsageError: there is nothing to run.
        """
        patterns = self.settings.test_patterns or DEFAULT_PATTERNS
        planned = await asyncio.to_thread(plan_of, targets or self.settings.tests, patterns=patterns)
        if not planned.cases and not planned.problems:
            raise UsageError("there is nothing to run: no test was found")
        return await self.start_session(self.new_folder(), planned, options)

    async def _prepare(self, plan: Plan) -> dict[HomeServerSpec, str]:
        """Install what the cases' homeservers share. Return what went wrong with which."""
        wanted = {spec: None for case in plan.cases if case.skip is None for spec in _specs(case)}
        problems = {}
        for spec in wanted:
            if self.servers.unsupported(spec) is not None:
                continue
            try:
                await self.servers.prepare([spec])
            except DeployError as error:
                problems[spec] = str(error)
        return problems

    def spool(self, uuid: str) -> Path:
        """Return the folder for files of an adapter that has no case; it is made."""
        folder = self.settings.results_root / "adapters" / folder_name(uuid)
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def _specs(case: Case) -> list[HomeServerSpec]:
    return [spec for slot in case.servers for spec in slot.type.homeservers()]


def _limits(settings: Settings, homeservers: int) -> Limits:
    cores = os.cpu_count() or 1
    return Limits(
        cases=settings.case_limit or max(_CASES, _CASES_PER_CORE * cores),
        homeservers=homeservers,
        clients=settings.client_limits,
    )


async def _executor(settings: Settings, stack: AsyncExitStack) -> Executor:
    """Return where test code runs: in worker processes, unless the settings ask for none."""
    if settings.workers == 0:
        stack.enter_context(capturing())
        return InProcess()
    ready = settings.workers or os.cpu_count() or 1
    return await stack.enter_async_context(WorkerPool(ready, memory=settings.worker_memory))


def _servers(settings: Settings, progress: Callable[[str], None] | None) -> Providers:
    local = LocalProvider(
        cache_folder=settings.cache_folder,
        stable={"synapse": settings.synapse_version},
        warm=settings.warm_servers,
        progress=progress,
    )
    return Providers({"local": local}, settings.server_providers, capacity=settings.homeserver_limit)
