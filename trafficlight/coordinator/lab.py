"""The lab, put together from its settings."""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from trafficlight.clock import Clock, SystemClock, race
from trafficlight.config import Settings
from trafficlight.coordinator.engine import Engine
from trafficlight.coordinator.execution import InProcessExecutor
from trafficlight.coordinator.lab_lock import remembering
from trafficlight.coordinator.options import Options
from trafficlight.coordinator.past import Past
from trafficlight.coordinator.recovery import Legacy
from trafficlight.coordinator.runner import Deadlines, Executor
from trafficlight.coordinator.scheduling.scheduler import Limits
from trafficlight.coordinator.session import Session
from trafficlight.coordinator.sessions import LateFiles
from trafficlight.coordinator.workers.match_cache import RemoteMatchCache
from trafficlight.coordinator.workers.planner import InProcessPlanner, Planner, WorkerPlanner
from trafficlight.coordinator.workers.pool import WorkerPool
from trafficlight.errors import ConfigError, DeployError, ShuttingDownError, TrafficlightError, UsageError
from trafficlight.homeservers.composition import build_providers
from trafficlight.homeservers.registry import ProviderRegistry
from trafficlight.homeservers.tools import run_to_completion
from trafficlight.results.case import Expected
from trafficlight.results.folder import ResultsFolder
from trafficlight.results.journal import Journal
from trafficlight.results.metrics import Metrics
from trafficlight.results.names import folder_name
from trafficlight.results.reporters.host import load_reporters
from trafficlight.results.store import EndedSession, SqlStore, StoredSession
from trafficlight.server_types import HomeServerSpec
from trafficlight.suites.discovery import DEFAULT_PATTERNS
from trafficlight.suites.model import Case, Plan
from trafficlight.suites.selection import SessionRequest
from trafficlight.worker.output import capturing

logger = logging.getLogger(__name__)

# Cases at once, where no limit is set: they mostly wait for others, but each has a process.
_CASES, _CASES_PER_CORE = 8, 4
# How often in a row a case may be cut off where it may be what ends the coordinator.
_MOST_INTERRUPTIONS = 10


@dataclass(frozen=True, slots=True)
class Lab:
    """A running lab: what the HTTP application and the commands work with."""

    settings: Settings
    clock: Clock
    journal: Journal
    servers: ProviderRegistry
    engine: Engine
    store: SqlStore | None
    executor: Executor
    planner: Planner
    metrics: Metrics
    past: Past
    legacy: Legacy

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        settings: Settings,
        *,
        progress: Callable[[str], None] | None = None,
        remember: bool = False,
    ) -> AsyncIterator["Lab"]:
        """Run a lab until it is left: what runs gets the grace period then, and nothing remains.

        :param progress: told what takes long, a line at a time.
        :param remember: whether the journal is kept, so that :meth:`resume` can go on after a sudden end.
        :raises ConfigError: another lab keeps its journal in the same results folder.
        """
        clock = SystemClock()
        async with AsyncExitStack() as stack:
            executor, planner, matches = await _executor(settings, clock, stack)
            servers = build_providers(settings, progress)
            stack.push_async_callback(servers.close)
            store = stack.enter_context(remembering(settings.results_root)) if remember else None
            journal = Journal(clock, first=store.last_sequence + 1 if store is not None else 1)
            if store is not None:
                journal.subscribe(store.append)
            metrics = Metrics()
            journal.subscribe(metrics)
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
                limits=lambda: _limits(settings, servers),
                queue_deadline=settings.queue_deadline,
                alive_deadline=settings.alive_deadline,
                keep_sessions=settings.keep_sessions,
            )
            # Absolute, because a test may change the working directory of its process.
            late = LateFiles(settings.results_root.absolute(), engine.sessions)
            journal.subscribe(late)
            stack.push_async_callback(late.close)
            past = Past(settings.results_root)
            stack.callback(past.close)
            legacy = Legacy.of(store) if store is not None else Legacy()
            for uuid in legacy.adapters:
                engine.pool.remember(uuid, "the coordinator was restarted")
            if matches is not None:
                matches.answered = engine.wake
            running = asyncio.create_task(engine.run(), name="engine")
            running.add_done_callback(_say_if_it_died)
            try:
                yield cls(
                    settings, clock, journal, servers, engine, store, executor, planner, metrics, past, legacy
                )
            finally:
                try:
                    await engine.stop("the lab was told to stop", grace=settings.grace)
                finally:
                    await running

    def new_folder(self) -> ResultsFolder:
        """Make the results folder of a new session; its name is the session's id.

        :raises ConfigError: it cannot be made.
        """
        # Absolute, because a test may change the working directory of its process.
        root = self.settings.results_root.absolute()
        try:
            return ResultsFolder.create(root, self.clock.now().date())
        except OSError as error:
            message = f"no folder can be made in {root}: {error.strerror or error}"
            raise ConfigError(message, key="RESULTS_FOLDER") from error

    async def plan(self, request: SessionRequest) -> Plan:
        """Return the cases that a request means.

        :raises UsageError: a target does not exist, the selection cannot be carried out, or leaves nothing.
        :raises StoppedError: the lab was told to stop meanwhile.
        """
        patterns = self.settings.test_patterns or DEFAULT_PATTERNS
        targets = request.targets or self.settings.tests
        planned = await race(self.planner.plan(targets, request, patterns=patterns), self._shut_down())
        if not planned.cases and not planned.problems:
            raise UsageError("there is nothing to run: no test was found, or the selection leaves none")
        return planned

    async def _shut_down(self) -> NoReturn:
        await self.engine.stopped.wait()
        raise ShuttingDownError(f"nothing is planned any more: {self.engine.stopping}")

    async def start(
        self,
        request: SessionRequest,
        *,
        command: str = "",
        plan: Plan | None = None,
        folder: ResultsFolder | None = None,
    ) -> Session:
        """Start a session.

        Where a homeserver cannot be prepared, the cases that need it end as errors, and say why.

        :param command: how it was asked for, for the record.
        :param plan: what the request means, if that is known already.
        :param folder: where the results go; a new one by default.
        :raises UsageError: there is nothing to run.
        :raises OSError: the results folder cannot be made.
        """
        plan = plan if plan is not None else await self.plan(request)
        options = await self._options(request, command)
        # First, as it takes long: whoever is called off meanwhile leaves no session behind.
        problems = await self._prepare(plan)
        folder = folder or self.new_folder()
        stored = StoredSession(folder.id, folder.path.absolute(), request.model_dump(mode="json"))

        def unstartable_reason(case: Case) -> str | None:
            return next((problems[spec] for spec in _specs(case) if spec in problems), None)

        try:
            if self.store is not None:
                await run_to_completion(asyncio.to_thread(self.store.add_session, stored))
            return await self.engine.submit(folder, plan, options, unstartable_reason=unstartable_reason)
        except BaseException:
            # Whoever asked for it is told that there is none: it must not begin after a restart.
            if self.store is not None:
                await run_to_completion(asyncio.to_thread(self.store.remove_session, stored.id))
            raise

    async def resume_or_start(
        self, request: SessionRequest, *, command: str
    ) -> tuple[list[Session], list[EndedSession]]:
        """Go on where coordinators left off that were killed; start what is asked for, unless they had.

        :return: the sessions that run now, and those of this request that ended before their coordinator
            could say so.
        :raises UsageError: there is nothing to run.
        :raises OSError: the results folder cannot be made.
        """
        sessions = await self.resume()
        await asyncio.to_thread(self.legacy.complete)
        asked = request.model_dump(mode="json")
        ended = [one for one in self.legacy.ended if one.session.request == asked]
        if not ended and request not in [one.options.request for one in sessions]:
            sessions.append(await self.start(request, command=command))
        return sessions, ended

    async def resume(self) -> list[Session]:
        """Go on with the sessions that an earlier coordinator left without ending them.

        :raises StoppedError: the lab was told to stop meanwhile.
        """
        if self.store is None:
            return []
        resumed = []
        for stored in self.legacy.unfinished:
            try:
                resumed.append(await self._resume(stored, self.store))
            except ShuttingDownError:
                raise
            except (TrafficlightError, OSError):
                logger.exception("session %s cannot go on", stored.id)
        return resumed

    async def _resume(self, stored: StoredSession, store: SqlStore) -> Session:
        folder = ResultsFolder.open(stored.folder)
        request = SessionRequest.read(stored.request)
        plan = await self.plan(request)
        await self._prepare(plan)
        return await self.engine.resume(
            folder, plan, await self._options(request, "resumed"), store.events(stored.id)
        )

    async def _options(self, request: SessionRequest, command: str) -> Options:
        def expected(case: str) -> Expected | None:
            entry = request.expected(case)
            return Expected(entry.reason, entry.link) if entry is not None else None

        return Options(
            exit_first=request.exit_first,
            deflake=request.deflake,
            expected=expected,
            command=command,
            configuration=self.settings.public(),
            seed=request.seed if request.sample is not None else None,
            deadline=self.settings.session_deadline,
            interruptions=_interruptions(self.settings),
            reporters=await asyncio.to_thread(load_reporters, self.settings.reporters),
            request=request,
        )

    async def _prepare(self, plan: Plan) -> dict[HomeServerSpec, str]:
        """Install what the cases' homeservers share, until it is done or the lab ends.

        :return: what went wrong with which.
        """
        problems: dict[HomeServerSpec, str] = {}
        with contextlib.suppress(ShuttingDownError):
            await race(self._install(plan, problems), self._shut_down())
        return problems

    async def _install(self, plan: Plan, problems: dict[HomeServerSpec, str]) -> None:
        wanted = {spec: None for case in plan.cases if case.skip is None for spec in _specs(case)}
        for spec in wanted:
            if self.servers.unsupported(spec) is not None:
                continue
            try:
                await self.servers.prepare([spec])
            except DeployError as error:
                problems[spec] = str(error)

    async def request_of(self, session: str) -> SessionRequest | None:
        """Return what a session was asked to run, of an earlier coordinator too; None where nobody knows."""
        known = self.engine.sessions.get(session)
        if known is not None and known.options.request is not None:
            return known.options.request
        if self.store is None:
            return None
        stored = await asyncio.to_thread(self.store.session, session)
        return SessionRequest.read(stored.request) if stored is not None else None

    def unclaimed_folder(self, uuid: str) -> Path:
        """Return the folder for files of an adapter that has no case; it is made."""
        folder = self.settings.results_root / "adapters" / folder_name(uuid)
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def _say_if_it_died(engine: "asyncio.Task[None]") -> None:
    if not engine.cancelled() and (error := engine.exception()) is not None:
        logger.critical("the engine has died, nothing will start any more", exc_info=error)


def _specs(case: Case) -> list[HomeServerSpec]:
    return [spec for slot in case.servers for spec in slot.homeservers]


def _interruptions(settings: Settings) -> int | None:
    """Return how often in a row a case may be cut off: without workers a test can end its coordinator."""
    if not settings.rerun_interrupted:
        return 1
    return _MOST_INTERRUPTIONS if settings.workers == 0 else None


def _limits(settings: Settings, servers: ProviderRegistry) -> Limits:
    cores = os.cpu_count() or 1
    return Limits(
        cases=settings.case_limit or max(_CASES, _CASES_PER_CORE * cores),
        homeservers=settings.homeserver_limit,
        types={**servers.capacities, **settings.client_limits},
        hosting=servers.hosting,
    )


async def _executor(
    settings: Settings, clock: Clock, stack: AsyncExitStack
) -> tuple[Executor, Planner, RemoteMatchCache | None]:
    """Return where code of test files runs: in worker processes, unless the settings ask for none."""
    if settings.workers == 0:
        stack.enter_context(capturing())
        return InProcessExecutor(clock), InProcessPlanner(), None
    ready, deadline = settings.workers or os.cpu_count() or 1, settings.import_deadline
    pool = await stack.enter_async_context(WorkerPool(ready, memory=settings.worker_memory, clock=clock))
    matches = await stack.enter_async_context(RemoteMatchCache(pool, deadline, clock))
    return pool, WorkerPlanner(pool, deadline, matches, clock=clock), matches
