"""The engine: runs sessions over one pool of adapters and starts each case as soon as it can start."""

import asyncio
import contextlib
import logging
import math
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Set
from functools import partial
from itertools import islice

from trafficlight.client_types import ClientTypeSpec
from trafficlight.clock import Clock
from trafficlight.coordinator.adapter import Adapter, AdapterState
from trafficlight.coordinator.attempt import Attempt, Deadlines, Execute, Resources
from trafficlight.coordinator.network import NetworkProxy
from trafficlight.coordinator.opening import SessionOptions
from trafficlight.coordinator.pool import Pool
from trafficlight.coordinator.preparation import Preparation
from trafficlight.coordinator.scheduling.inventory import AvailableAdapter, MissingAdapter
from trafficlight.coordinator.scheduling.queues import WaitingGroup, server_types
from trafficlight.coordinator.scheduling.scheduler import Limits, Start, Usage, decide
from trafficlight.coordinator.session import HELD, Session
from trafficlight.coordinator.stalls import StallDetector
from trafficlight.errors import UsageError
from trafficlight.homeservers.provider import Provider
from trafficlight.homeservers.shared import SharedServers
from trafficlight.logs import LogContext
from trafficlight.results.case import INTERRUPTED
from trafficlight.results.events import Event, Log, State
from trafficlight.results.folder import ResultsFolder
from trafficlight.results.journal import Journal
from trafficlight.server_types import HomeServerSpec
from trafficlight.services.clusters import Cluster
from trafficlight.suites.model import Case, Plan
from trafficlight.worker.assignment import Verdict

logger = logging.getLogger(__name__)

# Known types that a name is compared with.
_SUGGESTED = 100
# What the keys of nodes begin with, where adapters have their UUIDs.
_NODE = "node "
# Seconds between two checks for silent adapters and expired deadlines.
_SWEEP_INTERVAL = 1.0
# Seconds after which a case that no other adapter can have gets quarantined ones: adapters that left after a
# case come back within that time.
_LAST_RESORT = 10.0
# Seconds that a case is held ready before that is recorded.
_NOTED = 2.0


class Engine:
    """Runs sessions over one pool of adapters.

    :param limits: returns how much may run at once; called before every decision, because providers
        come and go.
    :param queue_deadline: seconds that a case waits while no adapters or providers can fill its roles.
    :param alive_deadline: seconds without a request after which an adapter is dropped.
    :param network: the proxy between clients and homeservers; None for none.
    :param record: of which attempts it keeps the recordings: ``always``, ``failures`` or ``never``.
    :param cluster: the nodes for services; None for none.
    :param shared: the homeservers that cases share; None if they share none.
    :param elsewhere: makes the attempts of cases that run on other machines; None if they run here.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        journal: Journal,
        servers: Provider,
        execute: Execute,
        deadlines: Deadlines,
        limits: Callable[[], Limits],
        queue_deadline: float = 300.0,
        alive_deadline: float = 60.0,
        network: NetworkProxy | None = None,
        record: str = "never",
        cluster: Cluster | None = None,
        shared: SharedServers | None = None,
        elsewhere: Callable[..., Attempt] | None = None,
    ) -> None:
        self.clock = clock
        self.journal = journal
        self.pool = Pool(clock, journal, self.wake, alive=alive_deadline)
        #: The sessions that have not ended, by their ids.
        self.sessions: dict[str, Session] = {}
        self._cluster = cluster or Cluster([])
        self._resources = Resources(
            self.pool, journal, clock, servers, execute, deadlines, self._cluster, network, record, shared
        )
        self._elsewhere = elsewhere
        self._ask_limits = limits
        self._limits = limits()
        self._queue_deadline = self._adapters_deadline = queue_deadline
        self._changed = asyncio.Event()
        self._running: dict[asyncio.Task[None], Attempt] = {}
        #: Set when no more cases start.
        self.stopped = asyncio.Event()
        self._closing: set[asyncio.Task[None]] = set()
        self._resets: set[asyncio.Task[None]] = set()
        #: Why no more cases start; empty while they may.
        self.stopping = ""
        self._interrupted = False
        self.stalled = StallDetector(clock)
        #: Returns the seconds that cases wait for adapters that are missing and not being started: less once
        #: all have registered, no limit while drivers are being built.
        self.adapters_deadline: Callable[[], float] = lambda: queue_deadline
        #: Returns the types of the adapters that the lab is starting, for the first time or again.
        self.starting: Callable[[], Set[str]] = frozenset
        #: Whether no missing adapter will register, because the programs that would be one keep exiting.
        self.programs_failed: Callable[[], bool] = lambda: False
        #: Why no adapter of a type can register, by the type of the registration.
        self.unsupported_clients: Mapping[str, str] = {}
        #: Returns why no adapter of a type will register that is not there; empty if one may.
        self.absence_of: Callable[[ClientTypeSpec], str] = lambda _: ""
        #: Whether :meth:`run` is running.
        self.alive = False

    def wake(self) -> None:
        """Make the scheduler decide again."""
        self._changed.set()

    async def submit(
        self,
        folder: ResultsFolder,
        plan: Plan,
        options: SessionOptions,
        *,
        preparation: Preparation | None = None,
        earlier: Iterable[Event] | None = None,
    ) -> Session:
        """Add a session; its cases start as soon as they can.

        :param preparation: what its homeservers share; the session stops it at its end.
        :param earlier: the events of an unfinished session of an earlier coordinator, which is resumed.
        """
        session = await self._open(folder, plan, options)
        try:
            if earlier is not None:
                await session.restore(earlier)
            # In a thread, because it searches the PATH; and once for each homeserver.
            await session.begin(await asyncio.to_thread(self.unsupported, plan.cases))
        except BaseException:
            if earlier is None:
                session.cancel("cancelled before it started")
                await session.close(interrupted=True)
            else:
                await session.release()
            raise
        if preparation is not None:
            session.preparation, preparation.on_change = preparation, self.wake
        self.admit(session)
        return session

    async def _open(self, folder: ResultsFolder, plan: Plan, options: SessionOptions) -> Session:
        # In a thread, because it opens files.
        opening = asyncio.to_thread(Session, folder, plan, self.journal, self.clock, options)
        opened = asyncio.create_task(opening, name=f"open {folder.id}")
        try:
            return await asyncio.shield(opened)
        except asyncio.CancelledError:
            await (await opened).release()
            raise

    def admit(self, session: Session) -> None:
        """Let the cases of a session start; close it at once if the engine is stopping."""
        self.sessions[session.id] = session
        if self.stopping:
            session.stop(self.stopping)
            if not self.alive:  # no loop runs that would close it
                closing = self._close(session, interrupted=True)
                task = asyncio.create_task(closing, name=f"close {session.id}")
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)
        self.wake()

    async def _close(self, session: Session, *, interrupted: bool = False) -> None:
        """End a session; from then on it is read from its folder."""
        await session.close(interrupted=interrupted or self._interrupted or session.cancelled)
        self.sessions.pop(session.id, None)
        if not self.sessions and self._resources.shared is not None:
            await self._resources.shared.end_unused()

    async def run(self) -> None:
        """Run sessions until :meth:`stop`. Leaves no attempt running, also if it is cancelled or fails."""
        self.alive = True
        try:
            async with asyncio.TaskGroup() as group:
                sweeping = group.create_task(self._sweep())
                checking = group.create_task(self._cluster.watch(self.wake))
                self.pool.on_reusable = lambda adapter: self._reset(group, adapter)
                while not self.stopping or self._running:
                    await self._changed.wait()
                    self._changed.clear()
                    self._schedule(group)
                sweeping.cancel()
                checking.cancel()
                self.pool.on_reusable = None
                for reset in self._resets:
                    reset.cancel()
        finally:
            while self.sessions:
                for session in list(self.sessions.values()):
                    session.stop("the coordinator has stopped")
                    await self._close(session)
            self.alive = False
            self.stopping = self.stopping or "the coordinator failed"
            self.pool.close(self.stopping)

    async def stop(self, reason: str, *, grace: float = 0.0, interrupted: bool = False) -> None:
        """Start no more cases; cancel those that still run after `grace` seconds.

        :param interrupted: whether an operator stopped it; sessions that have not ended are recorded as
            interrupted.
        """
        self.stopping = self.stopping or reason
        self.stopped.set()
        self._interrupted = self._interrupted or interrupted
        for session in self.sessions.values():
            session.stop(reason)
        for task, attempt in self._running.items():
            if attempt.held and not task.cancelling():  # else it starts when another one has ended
                task.cancel()
        self.wake()
        with contextlib.suppress(TimeoutError):
            async with self.clock.timeout(grace):
                while self._running:
                    await asyncio.wait(set(self._running))
        self.cancel_running()

    def cancel(self, session: Session, reason: str) -> None:
        """Cancel a session: start no more of its cases and cancel those that run."""
        session.cancel(reason)
        self.cancel_running(session)
        self.wake()

    def cancel_case(self, session: Session, case: str, reason: str) -> bool:
        """Cancel a case, once: it ends as skipped if it waits, as an error if it runs. It is not tried again.

        One that waits for a further attempt keeps the verdict that it has.

        :return: whether the case was waiting or running.
        """
        if case in session.waiting:
            session.cancel_case(case, None, reason, waits=True)
            self.wake()
            return True
        for task, attempt in self._running.items():
            if attempt.session == session.id and attempt.case.id == case:
                if not attempt.cancel_reason:
                    session.cancel_case(case, attempt.number, reason, waits=False)
                    attempt.cancel_reason = reason
                    if not task.cancelling():  # a second cancellation would end its tear-down
                        task.cancel()
                return True
        return False

    async def rerun_case(self, session: Session, case: str, reason: str) -> bool:
        """Give a case that has ended a further attempt in its session; one that waits or runs has it already.

        :return: whether it has one; False if the session starts no more cases.
        :raises UsageError: the case cannot run here.
        """
        found = next((one for one in enumerate(session.plan.whole) if one[1].id == case), None)
        if found is None:
            raise UsageError(f"{case}: the test no longer exists")
        order, planned = found
        unsupported = await asyncio.to_thread(self.unsupported, [planned])
        if lacks := planned.skip or unsupported(planned):
            raise UsageError(f"{case} cannot run here: {lacks}")
        if case in session.waiting or case in session.running:
            return True
        if session.reruns:
            session.rerun(planned, order, reason)
            self.wake()
            return True
        return False

    def cancel_running(self, session: Session | None = None, *, at_once: bool = False) -> None:
        """Cancel the running cases of one session or of all; each ends as an error.

        :param at_once: whether to cancel again those that are being cancelled, which ends their tear-down.
        """
        for task, attempt in self._running.items():
            if (session is None or attempt.session == session.id) and (at_once or not task.cancelling()):
                task.cancel()

    def unsupported(self, cases: Collection[Case]) -> Callable[[Case], str | None]:
        """Return what returns why a case cannot run on this machine; None if it can. Blocks."""
        if self._elsewhere is not None:
            return lambda _: None  # the machine that it comes to says so

        def specs(case: Case) -> Iterator[HomeServerSpec]:
            return (spec for slot in case.servers for spec in slot.homeservers)

        found = {spec: None for case in cases for spec in specs(case)}
        reasons = {spec: self._resources.servers.unsupported(spec) for spec in found}
        clients = self.unsupported_clients

        def why(case: Case) -> str | None:
            kinds = (kind for kind in case.clients.values() if kind.custom is None)
            found = [*(reasons[spec] for spec in specs(case)), *(clients.get(kind.type) for kind in kinds)]
            if case.nodes is not None:
                found.append(self._cluster.unsupported(case.nodes))
            return next(filter(None, found), None)

        return why

    def _schedule(self, tasks: asyncio.TaskGroup) -> None:
        """Start the cases that can start, note why the others wait, and close the sessions that are done."""
        waiting = [group for session in self.sessions.values() for group in session.startable]
        if waiting:
            self._limits = self._ask_limits()
            self._start_cases(tasks, waiting)
        for session in list(self.sessions.values()):
            if session.done and not session.closing:
                tasks.create_task(self._close(session), name=f"close {session.id}")

    def _start_cases(self, tasks: asyncio.TaskGroup, waiting: list[WaitingGroup]) -> None:
        now, limits, usage = self.clock.monotonic(), self._limits, self._usage()
        free = _available(self.pool.free)
        busy = _available(one for one in self.pool if one.state is AdapterState.LEASED)
        free += [AvailableAdapter(_NODE + one.name, {}, node=one) for one in self._cluster.free]
        busy += [AvailableAdapter(_NODE + one.name, {}, node=one) for one in self._cluster.busy]
        missing = [
            *self.pool.missing,
            *(MissingAdapter(None, why, node=node) for node, why in self._cluster.set_aside),
        ]
        known = tuple(islice(self.pool.known_types, _SUGGESTED))
        decision = decide(waiting, now, free, busy, limits, usage, missing, known)
        paused = _available(self.pool.held_back) if decision.unsatisfiable else []
        # Paused adapters can be resumed, so no deadline runs for cases that need them.
        wider = decision
        if paused:
            wider = decide(waiting, now, free, busy + paused, limits, usage, missing, known)
        starts = decision.starts
        if not starts and (quarantined := self.pool.quarantined):
            # One bad case must not cost all later ones their verdicts.
            patience = min(_LAST_RESORT, self._adapters_deadline / 2)
            stuck = [
                group
                for group in decision.no_adapter
                if group.no_adapter_since is not None and now - group.no_adapter_since >= patience
            ]
            starts = decide(stuck, now, free + _available(quarantined), busy, limits, usage).starts[:1]
        if starts:
            self.wake()  # more cases of the same groups may be able to start
        for start in starts:
            self._start(tasks, start)
        for group, reason in decision.reasons.items():
            unsatisfiable = group in decision.unsatisfiable
            group.note_waiting(
                wider.reasons.get(group, reason) if unsatisfiable else reason,
                now,
                unsatisfiable=unsatisfiable and group in wider.unsatisfiable,
                no_adapter=group in decision.no_adapter and group in wider.no_adapter,
            )

    def _start(self, tasks: asyncio.TaskGroup, start: Start) -> None:
        """Lease the adapters of a case and start its attempt."""
        session = self.sessions[start.group.session]
        nodes = [key.removeprefix(_NODE) for key in start.adapters.values() if key.startswith(_NODE)]
        adapters = {
            role: self.pool.get(key) for role, key in start.adapters.items() if not key.startswith(_NODE)
        }
        waiting = session.start(start.case)
        folder = session.folder.attempt(start.case, waiting.attempt)
        make = self._elsewhere or Attempt
        attempt = make(self._resources, session.id, waiting, folder, adapters, nodes)
        self.pool.acquire(attempt.lease)  # before the next decision
        self._cluster.take(nodes)
        task = tasks.create_task(self._run(attempt), name=f"attempt of {start.case}")
        self._running[task] = attempt
        task.add_done_callback(self._forget)

    def _usage(self) -> Usage:
        homeservers, types, shared = 0, Counter[str](), set[tuple[str, ...]]()
        for attempt in self._running.values():
            servers = server_types(attempt.case)
            if self._limits.shares(attempt.case):
                servers, added = () if servers in shared else servers, servers
                shared.add(added)
            homeservers += len(servers)
            types += self._limits.needs(attempt.case, servers)
        if self._resources.shared is not None:
            homeservers = max(homeservers, self._resources.shared.in_use)
        cases = Counter(attempt.session for attempt in self._running.values())
        return Usage(cases=cases, homeservers=homeservers, types=types, shared=shared)

    async def _run(self, attempt: Attempt) -> None:
        # Every record that this task and its children log carries them.
        LogContext(session=attempt.session, case=attempt.case.id).enter()
        try:
            verdict = await attempt.run()
        except asyncio.CancelledError:
            verdict = self._cancelled(attempt)
        except Exception as error:
            logger.exception("an attempt of %s failed with an internal error", attempt.case.id)
            message = f"internal error of the coordinator: {type(error).__name__}: {error}"
            verdict = Verdict(State.ERROR, message, traceback.format_exc(), "run")
        self._finish(attempt, verdict)

    def _cancelled(self, attempt: Attempt) -> Verdict:
        session = self.sessions[attempt.session]
        if attempt.number is None:  # nothing is recorded of it
            if attempt.cancel_reason:
                return session.kept(attempt.case.id, attempt.cancel_reason)
            return Verdict(State.WAITING)
        if (
            session.options.max_failures
            and session.stopped
            and not attempt.began
            and not attempt.cancel_reason
        ):
            return Verdict(State.SKIPPED, session.stopped, phase="waiting")
        why = attempt.cancel_reason or self.stopping or self.sessions[attempt.session].stopped
        why = why or "the coordinator failed"
        phase = INTERRUPTED if attempt.cancel_reason else "run"
        return Verdict(State.ERROR, f"cancelled while running: {why}", phase=phase)

    def _finish(self, attempt: Attempt, verdict: Verdict) -> None:
        took = self.clock.monotonic() - attempt.started - attempt.waited
        seconds = took if attempt.number is not None else 0.0
        session = self.sessions[attempt.session]
        if verdict.state is State.WAITING:
            session.put_back(attempt.waiting)
            return
        stopped_before = session.stopped
        absent = {attempt.adapters[role].type for role in attempt.absent}
        session.finish(
            attempt.waiting,
            verdict,
            seconds,
            by_hand=bool(attempt.cancel_reason),
            unclaimed=attempt.unclaimed
            or (verdict.state is State.ERROR and any(one.type in absent for one in self.pool.free)),
            number=attempt.number,
        )
        if session.stopped and not stopped_before:  # at its first failure
            for task, other in self._running.items():
                if other.session == session.id and not other.began and not task.cancelling():
                    task.cancel()

    def _forget(self, task: "asyncio.Task[None]") -> None:
        attempt = self._running.pop(task)
        self._cluster.give_back(attempt.nodes)
        if task.cancelled():  # before it began
            self.pool.release(attempt.lease, "the case was cancelled")
            self._finish(attempt, self._cancelled(attempt))
        self.wake()

    def _reset(self, group: asyncio.TaskGroup, adapter: Adapter) -> None:
        work = self.pool.reset(adapter, self._resources.deadlines.action)
        try:
            task = group.create_task(work, name=f"reset {adapter.uuid}")
        except RuntimeError:  # the group is ending
            work.close()
            self.pool.end(adapter, "the coordinator is shutting down")
            return
        self._resets.add(task)
        task.add_done_callback(self._resets.discard)

    async def _sweep(self) -> None:
        """Check regularly for silent adapters, expired deadlines and stalls."""
        stopped = self.clock.stopped
        while True:
            await self.clock.sleep(_SWEEP_INTERVAL)
            if self.clock.stopped > stopped:
                logger.warning(
                    "stood still for %.0f s, which no deadline counts", self.clock.stopped - stopped
                )
                stopped = self.clock.stopped
            self.pool.sweep()
            if self.pool.free or self.pool.quarantined or self._limits != self._ask_limits():
                self.wake()  # a reservation may have expired
            self._check_progress()
            adapters_deadline = self.adapters_deadline()
            all_registered = adapters_deadline < self._queue_deadline
            self._adapters_deadline = adapters_deadline
            starting, programs_failed = self.starting(), self.programs_failed()
            for session in list(self.sessions.values()):
                if await session.sweep(
                    self._queue_deadline,
                    adapters_deadline,
                    self._lacking_actions,
                    self._absent,
                    partial(_needs_any, types=starting),
                    all_registered=all_registered,
                    programs_failed=programs_failed,
                ):
                    self.wake()
                session.note_held(self._held(session))
                if (over := session.deadline_exceeded()) is not None:
                    self.cancel(session, over)

    def _held(self, session: Session) -> list[str]:
        """Return the cases that machines have held ready for a while."""
        sent = self.clock.monotonic() - _NOTED
        return [
            one.case.id
            for one in self._running.values()
            if one.held and one.started <= sent and one.session == session.id
        ]

    def _absent(self, case: Case) -> str:
        kinds = {role: kind for role, kind in case.clients.items() if kind.custom is None}
        return next((f"{role}: {why}" for role, kind in kinds.items() if (why := self.absence_of(kind))), "")

    def _lacking_actions(self, case: Case) -> str:
        """Return which role no adapter fills because all of its type declare their actions without some."""
        if self.programs_failed():
            return ""  # one that supports them may be missing for that reason
        for role, kind in case.clients.items():
            if kind.custom is not None or not kind.actions:
                continue
            # Also those that have ended: they may be between two cases.
            declared = [one.registration.actions for one in self.pool if one.type == kind.type]
            lacking = [", ".join(sorted(kind.actions - set(some))) for some in declared if some is not None]
            if declared and len(lacking) == len(declared) and all(lacking):
                fewest = min(lacking, key=len)
                return f"{role}: no {kind.type} adapter supports {fewest}; all of them declare their actions"
        return ""

    def _check_progress(self) -> None:
        # A driver that is being built prints where it is.
        building = self._adapters_deadline == math.inf
        open_ones = [one for one in self.sessions.values() if not one.stopped and not building]
        held = sum(attempt.held for attempt in self._running.values())
        alarmed = self.stalled.observe(
            running=len(self._running) - held,
            waiting=held + sum(len(group.cases) for session in open_ones for group in session.startable),
            reasons=lambda: [
                *(reason for session in open_ones for reason in session.reasons()),
                *([HELD] if held else []),
            ],
        )
        for session in open_ones if alarmed else []:
            # Pages wait for events, of which there are none otherwise.
            message = self.stalled.alarm
            self.journal.append(Log(session=session.id, level="error", logger="engine", message=message))


def _needs_any(case: Case, types: Set[str]) -> bool:
    """Return whether a case may need an adapter of one of these types."""
    return any(types if kind.custom else kind.type in types for kind in case.clients.values())


def _available(adapters: Iterable[Adapter]) -> list[AvailableAdapter]:
    """Prefer adapters that are waiting in a poll: they are certainly there."""
    return [
        AvailableAdapter(one.uuid, one.fields, 0 if one.channel.polling else 1, one.alike) for one in adapters
    ]
