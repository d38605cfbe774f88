"""The lab: everything that runs in a coordinator, built from the settings."""

import asyncio
import contextlib
import difflib
import functools
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from trafficlight import client_types, server_types
from trafficlight.clock import Clock, LoopClock, race
from trafficlight.config import KeepResults, Settings, key_of
from trafficlight.coordinator.attempt import Deadlines, Execute
from trafficlight.coordinator.dask.machines import Machines
from trafficlight.coordinator.engine import Engine
from trafficlight.coordinator.network import NetworkProxy
from trafficlight.coordinator.opening import SessionOptions
from trafficlight.coordinator.preparation import Preparation
from trafficlight.coordinator.provenance import provenance_of
from trafficlight.coordinator.recovery import (
    RecoveredSession,
    RecoveredState,
    open_state_directory,
    read_paused,
    write_paused,
)
from trafficlight.coordinator.scheduling.scheduler import Limits
from trafficlight.coordinator.session import Session
from trafficlight.coordinator.workers.match_cache import RemoteMatchCache
from trafficlight.coordinator.workers.planner import Planner, WorkerPlanner, plan_in_process
from trafficlight.coordinator.workers.pool import WorkerPool
from trafficlight.errors import (
    ConfigError,
    NothingLeftError,
    ShuttingDownError,
    TrafficlightError,
    UsageError,
)
from trafficlight.homeservers.docker.nodes import container_nodes
from trafficlight.homeservers.provider import all_of
from trafficlight.homeservers.registry import ProviderRegistry, build_providers
from trafficlight.homeservers.shared import SharedServers
from trafficlight.processes import run_to_completion
from trafficlight.results.catalog import SessionCatalog
from trafficlight.results.events import Expected, SessionEnded
from trafficlight.results.folder import ResultsFolder
from trafficlight.results.history.index import History
from trafficlight.results.journal import Journal, read_events
from trafficlight.results.metrics import Metrics
from trafficlight.results.reporters.host import load_reporters
from trafficlight.results.retention import enforce
from trafficlight.results.unclaimed import UnclaimedUploads
from trafficlight.results.writer import LATE, LateEventRecorder
from trafficlight.server_types import HomeServerSpec
from trafficlight.services.clusters import Cluster, open_cluster
from trafficlight.suites.discovery import DEFAULT_PATTERNS
from trafficlight.suites.model import Case, Plan
from trafficlight.suites.selection import SessionRequest
from trafficlight.suites.yaml_files import FAILED_CASES
from trafficlight.worker.execution import NO_ASSERTIONS, OnFailure, execute_in_process
from trafficlight.worker.output import capturing

logger = logging.getLogger(__name__)

# Stands for all programs among the paused ones that are kept: no program has an empty name.
_ALL = ""

# Cases at once by default: they mostly wait for adapters, but each has a process.
_CASES, _CASES_PER_CORE = 8, 4


@dataclass(frozen=True, slots=True)
class Lab:
    """A running lab, as the HTTP application and the commands use it."""

    settings: Settings
    #: The folder of all sessions' results: absolute, because a test may change the working directory.
    root: Path
    clock: Clock
    journal: Journal
    servers: ProviderRegistry
    engine: Engine
    workers: WorkerPool | None
    matches: RemoteMatchCache | None
    planner: Planner
    metrics: Metrics
    catalog: SessionCatalog
    history: History
    recovered: RecoveredState
    resumable: bool
    unclaimed: UnclaimedUploads
    #: The machines that cases run on; None if they run here.
    elsewhere: Machines | None

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        settings: Settings,
        *,
        progress: Callable[[str], None] | None = None,
        resumable: bool = False,
        on_failure: OnFailure | None = None,
        elsewhere: Machines | None = None,
    ) -> AsyncIterator["Lab"]:
        """Run a lab until it is left: running cases get the grace period then, and nothing remains.

        :param progress: called with a line about each step that takes long.
        :param resumable: lock the results folder, so that the next lab can :meth:`resume` the sessions of
            this one if it is killed.
        :param on_failure: called with every exception of a test, if there are no workers.
        :param elsewhere: the machines that cases run on; None if they run here.
        :raises ConfigError: another resumable lab runs in the same results folder.
        """
        clock = LoopClock()
        root = settings.results_root.absolute()
        async with AsyncExitStack() as stack:
            workers, run_test, planner, matches = await _executor(settings, clock, stack, on_failure)
            servers = build_providers(settings, progress)
            stack.push_async_callback(servers.close)
            shared = _shared_servers(settings, servers)
            if shared is not None:
                stack.push_async_callback(shared.close)
            containers = functools.partial(container_nodes, settings.docker_engine)
            cluster = open_cluster(settings.cluster, settings.cluster_command, containers)
            nodes = await stack.enter_async_context(cluster)
            network = NetworkProxy()
            stack.push_async_callback(network.close)
            recovered = RecoveredState()
            if resumable:
                directory = open_state_directory(root)
                recovered = await asyncio.to_thread(directory.__enter__)
                stack.push_async_exit(lambda *error: asyncio.to_thread(directory.__exit__, *error))
            journal = Journal(clock)
            metrics = Metrics(journal)
            engine = Engine(
                clock=clock,
                journal=journal,
                servers=servers,
                shared=shared,
                execute=run_test,
                deadlines=Deadlines(
                    action=settings.action_deadline,
                    case=settings.case_deadline,
                    prepare=settings.prepare_deadline,
                    teardown=settings.teardown_deadline,
                ),
                limits=lambda: (
                    elsewhere.limits(settings)
                    if elsewhere is not None
                    else _limits(settings, servers, nodes, shared)
                ),
                queue_deadline=settings.queue_deadline,
                alive_deadline=settings.alive_deadline,
                network=network,
                record=settings.record_traffic,
                cluster=nodes,
                elsewhere=elsewhere.attempt if elsewhere is not None else None,
            )
            engine.pool.known_types.update(settings.adapters.keys())
            if resumable:
                engine.pool.paused.update(await asyncio.to_thread(read_paused, root))
                engine.pool.drained = engine.pool.paused.pop(_ALL, "")
            history = History(root, settings.history)
            late = LateEventRecorder(
                root, lambda id: (known := engine.sessions.get(id)) is not None and not known.closing, history
            )
            journal.subscribe(late, LATE)
            stack.push_async_callback(asyncio.to_thread, late.close)
            if settings.keep_results is not None:
                _remove_results(settings.keep_results, root, journal, stack)
            catalog = SessionCatalog(
                root,
                lambda: {id: session.record for id, session in engine.sessions.items()},
                keep=settings.keep_sessions,
            )
            stack.callback(catalog.close)
            if matches is not None:
                matches.answered = engine.wake
            running = asyncio.create_task(engine.run(), name="engine")
            running.add_done_callback(_say_if_it_died)
            try:
                yield cls(
                    settings=settings,
                    root=root,
                    clock=clock,
                    journal=journal,
                    servers=servers,
                    engine=engine,
                    workers=workers,
                    matches=matches,
                    planner=planner,
                    metrics=metrics,
                    catalog=catalog,
                    history=history,
                    recovered=recovered,
                    resumable=resumable,
                    unclaimed=UnclaimedUploads(root),
                    elsewhere=elsewhere,
                )
            finally:
                try:
                    await engine.stop("the coordinator is shutting down", grace=settings.grace)
                finally:
                    await running

    async def keep_paused(self) -> None:
        """Keep what is paused or drained for the next coordinator, if this one is resumable."""
        if self.resumable:
            pool = self.engine.pool
            kept = {name: why for name, why in pool.paused.items() if name not in pool.started_here}
            if pool.drained:
                kept[_ALL] = pool.drained
            await asyncio.to_thread(write_paused, self.root, kept)

    async def new_folder(self) -> ResultsFolder:
        """Create the results folder of a new session; its name is the session's id.

        :raises ConfigError: it cannot be created.
        """
        try:
            return await asyncio.to_thread(ResultsFolder.create, self.root, self.clock.now().date())
        except OSError as error:
            message = f"cannot create a folder in {self.root}: {error.strerror or error}"
            raise ConfigError(message, key="RESULTS_FOLDER") from error

    async def plan(self, request: SessionRequest) -> Plan:
        """Return the cases that a request selects.

        :raises UsageError: a target does not exist, or the selection is invalid or selects nothing.
        :raises NothingLeftError: the targets list the failed cases of sessions in which nothing failed, or
            the shard is empty.
        :raises ShuttingDownError: the lab is being stopped.
        """
        patterns = self.settings.test_patterns or DEFAULT_PATTERNS
        targets = request.targets or self.settings.tests
        request = request.with_types(self.settings.clients, self.settings.servers)
        planned = await race(self.planner(targets, request, patterns), self._shut_down())
        if not planned.cases and not planned.problems:
            if targets and all(Path(target).name == FAILED_CASES for target in targets):
                raise NothingLeftError(f"nothing to run: {' and '.join(targets)} lists no failed case")
            where = f", by {key_of('test_pattern')} {patterns[0]!r}" if self.settings.test_pattern else ""
            raise UsageError(f"{planned.emptiness}{where}")
        return planned

    async def _shut_down(self) -> NoReturn:
        await self.engine.stopped.wait()
        raise ShuttingDownError(f"the coordinator is shutting down: {self.engine.stopping}")

    async def start(
        self,
        request: SessionRequest,
        *,
        command: str = "",
        plan: Plan | None = None,
        folder: ResultsFolder | None = None,
    ) -> Session:
        """Start a session.

        Cases wait until their homeservers are prepared, and end as errors if they cannot be.

        :param command: how it was started, for the record.
        :param plan: the cases that the request selects, if it is planned already.
        :param folder: where the results go; a new one by default.
        :raises UsageError: there is nothing to run.
        :raises ConfigError: no homeserver can be prepared in this place, or the folder cannot be created.
        :raises OSError: no homeserver can be prepared, or the results cannot be written.
        """
        plan = plan if plan is not None else await self.plan(request)
        options = await self._options(request, command, plan)
        preparation = self.prepare(plan.cases)
        try:
            # First, because it is slow: a request that is cancelled during it leaves no session.
            if all(case.servers for case in plan.cases if case.skip is None):
                with contextlib.suppress(ShuttingDownError):
                    await race(preparation.first_result(), self._shut_down())
            folder = folder or await self.new_folder()
            asked = request.model_dump(mode="json")
            try:
                writing = asyncio.to_thread(folder.write_request, asked, resumable=self.resumable)
                await run_to_completion(writing)  # never after it is removed
                return await self.engine.submit(folder, plan, options, preparation=preparation)
            except BaseException:
                # The caller gets an error, so the session must not start after a restart either.
                await run_to_completion(asyncio.to_thread(folder.remove_request))
                raise
        except BaseException:
            await run_to_completion(preparation.close())
            raise

    async def resume_or_start(
        self, request: SessionRequest, *, command: str
    ) -> tuple[list[Session], list[RecoveredSession]]:
        """Resume the sessions of killed coordinators; start a new one unless one of them had this request.

        :return: the sessions that run now, and those of this request that ended before their coordinator
            could report it.
        :raises UsageError: there is nothing to run.
        :raises OSError: the results folder cannot be created.
        """
        sessions = await self.resume()
        await asyncio.to_thread(self.recovered.write_missing_reports)
        resumed = {session.id for session in sessions}
        begun = any(one.asks(request) for one in self.recovered.unfinished if one.folder.id in resumed)
        ended = [one for one in self.recovered.unreported if one.asks(request)]
        if not begun and not ended:
            sessions.append(await self.start(request, command=command))
        return sessions, ended

    async def resume(self) -> list[Session]:
        """Resume the sessions that an earlier coordinator left unfinished.

        :raises ShuttingDownError: the lab is being stopped.
        """
        resumed = []
        for session in self.recovered.unfinished:
            try:
                resumed.append(await self._resume(session))
            except ShuttingDownError:
                raise
            except (TrafficlightError, OSError):
                logger.exception("session %s cannot be resumed", session.folder.id)
        return resumed

    async def _resume(self, session: RecoveredSession) -> Session:
        request = SessionRequest.read(session.request)
        plan = await self.plan(request)
        options = await self._options(request, "resumed", plan)
        preparation, earlier = self.prepare(plan.cases), read_events(session.folder.events)
        try:
            return await self.engine.submit(
                session.folder, plan, options, preparation=preparation, earlier=earlier
            )
        except BaseException:
            await run_to_completion(preparation.close())
            raise

    async def _options(self, request: SessionRequest, command: str, plan: Plan) -> SessionOptions:
        def expected(case: str) -> Expected | None:
            entry = request.expected(case)
            return Expected(**entry.model_dump(exclude={"case"})) if entry is not None else None

        return SessionOptions(
            max_failures=1 if request.exit_first else request.max_failures,
            deflake=request.deflake,
            retry_errors=request.retry_errors,
            expected=expected,
            command=command,
            provenance=await provenance_of(
                [case.path for case in plan.whole], request.job or self.settings.job_url
            ),
            configuration=self.settings.public(),
            warnings=tuple(_warnings(self.settings, request, plan)),
            strict=request.strict or self.settings.strict,
            seed=request.seed if request.sample is not None else None,
            deadline=self.settings.session_deadline,
            interruptions=self.settings.interruption_limit if self.settings.rerun_interrupted else 1,
            reporters=await asyncio.to_thread(load_reporters, self.settings.reporters),
            history=self.history,
        )

    def prepare(self, cases: Iterable[Case]) -> Preparation:
        """Begin to install what the cases' homeservers share; not for cases that run on other machines."""
        here = () if self.elsewhere is not None else cases
        specs = [spec for case in here if case.skip is None for spec in _specs(case)]
        return Preparation(specs, self._prepare_one, self.clock)

    async def _prepare_one(self, spec: HomeServerSpec) -> None:
        if await asyncio.to_thread(self.servers.unsupported, spec) is None:
            await self.servers.prepare([spec])

    async def request_of(self, session: str) -> SessionRequest | None:
        """Return what a session was asked to run, in any version; None if that is not recorded."""
        folder = ResultsFolder(self.root / session)
        request = await asyncio.to_thread(folder.read_request)
        return SessionRequest.read(request) if request is not None else None


def _remove_results(keep: KeepResults, root: Path, journal: Journal, stack: AsyncExitStack) -> None:
    """Whenever a session ends, remove those that are not to be kept."""
    # One at a time; a session that ends does not wait for it.
    remover = ThreadPoolExecutor(1, "retention")
    stack.push_async_callback(asyncio.to_thread, remover.shutdown)

    def begin(_: SessionEnded) -> None:
        remover.submit(enforce, root, keep)

    journal.subscribe(begin, (SessionEnded,))


def _say_if_it_died(engine: "asyncio.Task[None]") -> None:
    if not engine.cancelled() and (error := engine.exception()) is not None:
        logger.critical("the engine has failed: no more cases start", exc_info=error)


def _specs(case: Case) -> list[HomeServerSpec]:
    return [spec for slot in case.servers for spec in slot.homeservers]


def _warnings(settings: Settings, request: SessionRequest, plan: Plan) -> Iterator[str]:
    """Yield what of the request or the settings has no effect."""
    yield from plan.warnings
    if not request.narrows:
        yield from request.unused(case.id for case in plan.whole)
    types = {*vars(client_types), *vars(server_types)}
    types |= {kind.type_name for case in plan.whole for kind in case.clients.values()}
    types |= {spec.type_name for case in plan.whole for spec in _specs(case)}
    for key in ("server_providers", "server_overrides", "images", "client_limits", "share_servers"):
        value = getattr(settings, key)
        for name in () if isinstance(value, bool) else value:
            # A name that is not close to any other may be a type of another session's tests.
            if name not in types and (close := difflib.get_close_matches(name, types, n=1, cutoff=0.85)):
                yield f"{key_of(key)}.{name}: no test has such a type; did you mean {close[0]}?"


def _shared_servers(settings: Settings, servers: ProviderRegistry) -> SharedServers | None:
    if not (types := settings.share_servers):
        return None

    def can_share(spec: HomeServerSpec) -> bool:
        return (types is True or spec.type_name in types) and servers.can_share(spec)

    capacity = settings.homeserver_limit or servers.capacities[all_of("local")]
    return SharedServers(servers, can_share, capacity=capacity)


def _limits(
    settings: Settings, servers: ProviderRegistry, nodes: Cluster, shared: SharedServers | None
) -> Limits:
    cores = os.cpu_count() or 1
    capacities = servers.capacities
    return Limits(
        # In one process a task, a thread or a coroutine that is left behind could be any case's.
        cases=settings.case_limit or (1 if settings.workers == 0 else max(_CASES, _CASES_PER_CORE * cores)),
        homeservers=settings.homeserver_limit,
        types={**capacities, **settings.client_limits},
        unreachable=frozenset(name for name, most in capacities.items() if not most),
        provider_of=servers.provider_name,
        nodes=nodes.limited,
        shares=shared.shares if shared is not None else lambda _: False,
    )


async def _executor(
    settings: Settings, clock: Clock, stack: AsyncExitStack, on_failure: OnFailure | None
) -> tuple[WorkerPool | None, Execute, Planner, RemoteMatchCache | None]:
    """Return where code of test files runs: in worker processes, unless the settings ask for none."""
    if settings.workers == 0:
        if sys.flags.optimize:
            raise UsageError(NO_ASSERTIONS)
        stack.enter_context(capturing(shown=True))
        run_test = functools.partial(execute_in_process, clock=clock, on_failure=on_failure)
        return None, run_test, plan_in_process, None
    ready, deadline = settings.workers or os.cpu_count() or 1, settings.import_deadline
    pool = await stack.enter_async_context(WorkerPool(ready, memory=settings.worker_memory, clock=clock))
    matches = await stack.enter_async_context(RemoteMatchCache(pool, deadline, clock))
    return pool, pool.execute, WorkerPlanner(pool, deadline, matches, clock=clock).plan, matches
