"""An attempt of a case: its adapters, its homeservers, its test, and the clean-up."""

import asyncio
import json
import logging
import secrets
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from trafficlight.clients.base import ServerOperation
from trafficlight.clock import Clock, race
from trafficlight.coordinator.adapter import Adapter, Lease
from trafficlight.coordinator.channel import ActionResult, AdapterFailure
from trafficlight.coordinator.network import NetworkProxy, RunningProxy, unrecorded
from trafficlight.coordinator.pool import Pool
from trafficlight.coordinator.scheduling.queues import WaitingCase
from trafficlight.errors import (
    ActionError,
    AdapterError,
    DeployError,
    LabError,
    TrafficlightError,
    UnsupportedError,
)
from trafficlight.homeservers.provider import BY_THE_TEST, Provider, RunningServer, ServerRequest
from trafficlight.homeservers.shared import SharedLease, SharedServers
from trafficlight.protocol import ActionMessage, JsonObject
from trafficlight.results.events import (
    ActionAnswered,
    ActionDelivered,
    ActionFailed,
    ActionSent,
    Attachment,
    CaseState,
    Event,
    ServerExited,
    ServerFailed,
    ServerReady,
    State,
)
from trafficlight.results.folder import AttemptFolder, file_name
from trafficlight.results.journal import Journal, fits, redacted
from trafficlight.services.clusters import Cluster
from trafficlight.services.connections import NodeAddress
from trafficlight.suites.model import Case
from trafficlight.text import EVENT_LIMIT, read_tail
from trafficlight.worker.assignment import Assignment, CaseLink, ServerInfo, Verdict
from trafficlight.worker.verdicts import verdict_of

logger = logging.getLogger(__name__)

# Seconds between two checks whether the homeservers still run.
_SERVER_CHECK_INTERVAL = 1.0
# Seconds a test has to fail by itself after a homeserver exited: its own error says what that broke.
_TIME_TO_NOTICE = 5.0
# Lines of a dead homeserver's log that the verdict quotes, and bytes of the log that are searched for them.
_LOG_LINES, _LOG_BYTES = 30, 16 << 10

# Runs a test, in a worker or in this process. Cancelling it ends the test in bounded time.
# It calls the function when code of the test file starts.
Execute: TypeAlias = Callable[[Assignment, CaseLink, Callable[[], None]], Coroutine[Any, Any, Verdict]]


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Time limits, in seconds.

    :param action: from sending an action to its response.
    :param case: set-up and test together.
    :param prepare: until the homeservers answer.
    :param teardown: the test's tear-down.
    """

    action: float = 60.0
    case: float = 300.0
    prepare: float = 120.0
    teardown: float = 30.0


@dataclass(frozen=True, slots=True)
class Resources:
    """What all attempts of a lab share."""

    pool: Pool
    journal: Journal
    clock: Clock
    servers: Provider
    execute: Execute
    deadlines: Deadlines
    cluster: Cluster
    network: NetworkProxy | None = None
    record: str = "never"
    shared: SharedServers | None = None


@dataclass(eq=False)
class Attempt:
    """One attempt of a case. Also the test's link to the lab.

    :param session: the session's id: an adapter keeps its last attempt alive, but not the session.
    :param waiting: the case and the attempt's number.
    :param folder: the attempt's folder, which does not exist yet.
    :param nodes: the names of the nodes that the scheduler chose.
    :ivar cancel_reason: why an operator cancelled this case; empty if no one did.
    :ivar proxy: the network proxy, once the test uses it.
    :ivar waited: seconds that it waited for a worker.
    :ivar began: whether code of the test file has started.
    :ivar failures: the first error of each role's adapter.
    :ivar decisive: the first of them that no action of the test raised.
    :ivar aborted: set when there is one.
    :ivar fetched: the roles whose adapters have fetched an action.
    :ivar absent: the roles whose adapters failed without having fetched one.
    :ivar abandoned: descriptions of the actions that the test no longer waited for.
    :ivar exited: the roles whose homeservers exited unexpectedly.
    :ivar unclaimed: whether it ran on another machine, where an adapter never began it.
    """

    resources: Resources
    session: str
    waiting: WaitingCase
    folder: AttemptFolder
    adapters: Mapping[str, Adapter]
    nodes: Sequence[str] = ()
    cancel_reason: str = ""
    servers: dict[str, RunningServer] = field(default_factory=dict)
    failures: dict[str, AdapterFailure] = field(default_factory=dict)
    decisive: AdapterFailure | None = None
    aborted: asyncio.Event = field(default_factory=asyncio.Event)
    fetched: set[str] = field(default_factory=set)
    absent: set[str] = field(default_factory=set)
    abandoned: list[str] = field(default_factory=list)
    exited: set[str] = field(default_factory=set)
    proxy: "asyncio.Future[RunningProxy]" = field(init=False)
    waited: float = 0.0
    began: bool = False
    unclaimed: bool = False
    started: float = field(init=False)
    _stopped: float = field(init=False)
    lease: Lease = field(init=False)
    _shared: SharedLease | None = None
    _logs: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.started, self._stopped = self.resources.clock.monotonic(), self.resources.clock.stopped
        self.proxy = asyncio.get_running_loop().create_future()
        self.lease = Lease(
            session=self.session,
            case=self.case.id,
            attempt=self.waiting.attempt,
            adapters=self.adapters,
            folder=self.folder,
            emit=self.emit,
            on_lost=self._adapter_failed,
        )

    @property
    def case(self) -> Case:
        """The case."""
        return self.waiting.case

    @property
    def number(self) -> int | None:
        """Its number; None if nothing is recorded of it: the case ends without an attempt."""
        return self.waiting.attempt

    @property
    def held(self) -> bool:
        """Whether it waits on another machine, which has not started it."""
        return False

    # Running

    async def run(self) -> Verdict:
        """Run the case to its verdict; the adapters must be leased. Releases everything, in every ending.

        :raises asyncio.CancelledError: the attempt was cancelled; everything is cleaned up.
        """
        pool, verdict = self.resources.pool, None
        try:
            async with AsyncExitStack() as stack:
                stack.callback(pool.release, self.lease, "the case was cancelled")
                verdict = await self._run(stack)
                if self._shared is not None:
                    self._shared.failed = verdict.state not in (State.SUCCESS, State.SKIPPED)
                # Before the homeservers are destroyed, which takes a while.
                pool.release(self.lease, f"the case ended: {verdict.state}")
        except Exception as error:
            if verdict is None:
                raise
            logger.exception("cleaning up after %s failed", self.case.id)
            if verdict.state in (State.SUCCESS, State.SKIPPED):
                return verdict_of(error, "teardown")
        return verdict

    async def _run(self, stack: AsyncExitStack) -> Verdict:
        try:
            for role, adapter in self.adapters.items():
                adapter.channel.on_delivered = self._delivered(role)
            self.emit(CaseState(case=self.case.id, state=State.PREPARING))
            mark = secrets.token_hex(8)
            nodes = await self._lease_nodes(stack, mark)
            servers = await self._deploy(stack)
        except TrafficlightError as error:
            return verdict_of(error, "prepare")
        deadlines, network = self.resources.deadlines, self.resources.network
        record = "never" if network is None or network.failed else self.resources.record
        assignment = Assignment(
            case=self.case,
            attempt=self.waiting.attempt,
            folder=self.folder.path,
            clients={role: dict(adapter.fields) for role, adapter in self.adapters.items()},
            servers=servers,
            case_deadline=self.case.timeout or deadlines.case,
            teardown_deadline=deadlines.teardown,
            record=record,
            unrecorded=unrecorded(record, self.adapters, self.servers.values()),
            nodes=tuple(nodes),
            mark=mark,
        )
        verdict = await self._annotated(await self._run_until_aborted(assignment))
        at_fault = [role for role, error in self.failures.items() if isinstance(error, LabError)]
        self.resources.pool.judge(self.lease, at_fault)
        return verdict

    async def _lease_nodes(self, stack: AsyncExitStack, mark: str) -> list[NodeAddress]:
        """Lease the nodes; the stack cleans up on them and gives them back."""
        if (request := self.case.nodes) is None:
            return []
        folder, seconds = self.folder.path / "services", self.resources.deadlines.prepare
        lease = self.resources.cluster.lease(request, self.nodes, mark, folder)
        try:
            async with self.resources.clock.timeout(seconds) as limit:
                return await stack.enter_async_context(lease)
        except TimeoutError:
            if not limit.expired():
                raise
            raise DeployError(f"the nodes were not ready within {seconds:g} s") from None

    async def _deploy(self, stack: AsyncExitStack) -> dict[str, ServerInfo]:
        """Deploy the homeservers; the stack destroys them."""
        specs = {
            role: spec
            for slot in self.case.servers
            for role, spec in zip(slot.roles, slot.homeservers, strict=False)
        }
        if not specs:
            return {}
        if self.resources.network is not None and self.resources.record != "never":
            self.resources.network.start_ahead()
        try:
            await asyncio.to_thread(self.folder.create, specs)
        except OSError as error:
            raise DeployError(f"cannot create the folders of the homeservers: {error}") from error
        requests = [ServerRequest(role, spec, self.folder.server_log(role)) for role, spec in specs.items()]
        clock, seconds = self.resources.clock, self.resources.deadlines.prepare
        began = clock.monotonic()
        try:
            async with clock.timeout(seconds) as limit:
                servers = await self._servers(stack, requests)
        except TimeoutError as error:
            if not limit.expired():
                raise DeployError(f"the provider timed out: {error}") from error
            self.emit(ServerFailed(reason="no answer in time"))
            raise DeployError(f"the homeservers did not answer within {seconds:g} s") from None
        except (DeployError, UnsupportedError) as error:
            self.emit(ServerFailed(reason=str(error).splitlines()[0]))
            raise
        ready = {}
        shared = self._shared is not None
        logs = self._shared.logs if self._shared is not None else [(one.log, 0) for one in requests]
        for request, server, (log, start) in zip(requests, servers, logs, strict=True):
            self._logs[request.role] = log
            self.servers[request.role] = server
            self.emit(
                ServerReady(
                    role=request.role,
                    server_name=server.server_name,
                    cs_api=server.cs_api,
                    version=server.version,
                    type=request.spec.type_name,
                    image=server.image,
                    seconds=clock.monotonic() - began,
                    shared=shared,
                )
            )
            ready[request.role] = ServerInfo(
                server.server_name, server.cs_api, server.version, log, server.federation, shared, start
            )
        return ready

    async def _servers(
        self, stack: AsyncExitStack, requests: Sequence[ServerRequest]
    ) -> Sequence[RunningServer]:
        shared = self.resources.shared
        if shared is None or not shared.shares(self.case):
            deploy = (shared or self.resources.servers).deploy
            return await stack.enter_async_context(deploy(self.case.id, requests))
        self._shared = await stack.enter_async_context(shared.lease(requests))
        return self._shared.servers

    async def _run_until_aborted(self, assignment: Assignment) -> Verdict:
        """Run the test; cancel it when it loses an adapter, a homeserver or the network proxy."""
        ready = self.resources.clock.monotonic()

        def began() -> None:
            self.began, self.waited = True, self.resources.clock.monotonic() - ready
            self.emit(CaseState(case=self.case.id, state=State.RUNNING))

        contenders = [
            self.resources.execute(assignment, self, began),
            self._adapter_lost(),
            self._network_lost(),
        ]
        if self.servers:
            contenders.append(self._homeserver_lost())
        try:
            return await race(*contenders)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return verdict_of(error, "run")  # the test cancelled its own task

    async def _adapter_lost(self) -> Verdict:
        await self.aborted.wait()
        assert self.decisive is not None
        return verdict_of(self.decisive, "run")

    async def _network_lost(self) -> Verdict:
        """Return when the network proxy has ended, which the test uses."""
        return verdict_of(LabError(await (await self.proxy).wait()), "run")

    async def _homeserver_lost(self) -> Verdict:
        """Return when a homeserver has exited unexpectedly and the test had time to fail by itself."""
        clock = self.resources.clock
        while not self._exits():
            await clock.sleep(_SERVER_CHECK_INTERVAL)
        await clock.sleep(_TIME_TO_NOTICE)
        return verdict_of(LabError("cancelled, because the case lost its homeserver"), "run")

    async def _annotated(self, verdict: Verdict) -> Verdict:
        """Add what the test cannot know: adapters that failed, homeservers that exited."""
        if self.decisive is not None and verdict.state in (State.SUCCESS, State.SKIPPED):
            verdict = verdict_of(self.decisive, "run")
        if verdict.state is State.SUCCESS:
            return verdict
        if self._exits() and verdict.state is State.FAILURE:
            # Whatever a client did wrong, it did so without its homeserver.
            verdict = replace(verdict, state=State.ERROR)
        exited = {role: server.exited for role, server in self.servers.items() if server.exited is not None}
        why = self.abandoned.copy() if verdict.state is State.ERROR else []
        if (stopped := self.resources.clock.stopped - self._stopped) and verdict.state is State.ERROR:
            # The deadlines of a case run in its worker.
            why.append(f"the coordinator stood still for {stopped:.0f} s")
        if not exited and not why:
            return verdict
        # In the first line, which is what lists show.
        first, line_end, rest = verdict.message.partition("\n")
        notes = [f"the homeserver {role} exited ({how})" for role, how in exited.items()]
        message = "; ".join([first, *why, *notes]) + line_end + rest
        logs = [
            f"\nThe end of the log of {role}:\n{await asyncio.to_thread(self._log_end, role)}\n"
            for role in exited
        ]
        return replace(verdict, message=message, traceback=verdict.traceback + "".join(logs))

    def _exits(self) -> bool:
        """Record the homeservers that exited unexpectedly; return whether there are any."""
        found = {role: server for role, server in self.servers.items() if _exited_unexpectedly(server)}
        for role in found.keys() - self.exited:
            self.exited.add(role)
            self.emit(ServerExited(role=role, how=found[role].exited or ""))
        return bool(found)

    def _log_end(self, role: str) -> str:
        lines = read_tail(self._logs[role], _LOG_BYTES).splitlines()
        return "\n".join(lines[-_LOG_LINES:]) or "(nothing)"

    # The test's link to the lab

    async def perform(self, role: str, action: str, data: JsonObject, where: str = "") -> JsonObject:
        """Send an action to the client in a role and return its response, verbatim."""
        adapter, clock = self.adapters[role], self.resources.clock
        id = secrets.token_hex(8)
        self.emit(ActionSent(**self._about(role, id, action), data=data, where=where))
        declared = adapter.registration.actions
        if declared is not None and action not in declared:
            error = UnsupportedError(
                f"{action}: this {adapter.type} adapter declares its actions, without it"
            )
            self._action_ended(role, id, action, error, 0.0)
            raise _named(error, role, action)
        sent = clock.monotonic()
        over, large = False, None

        def ended(outcome: ActionResult, seconds: float) -> None:
            nonlocal over, large
            over, large = True, _beyond_event(outcome)
            self._action_ended(role, id, action, outcome, seconds)

        try:
            deadline = self.resources.deadlines.action
            return await adapter.channel.perform(action, data, deadline, id=id, on_end=ended)
        except (ActionError, LabError, UnsupportedError) as error:
            if isinstance(error, LabError) and role not in self.fetched:
                self.absent.add(role)
            raise _named(error, role, action) from None
        except asyncio.CancelledError:
            if not over:
                seconds = clock.monotonic() - sent
                self.abandoned.append(f"{role} was performing {action} for {seconds:.1f} s")
                abandoned = AdapterError("the test no longer waited for it", role=role)
                self._action_ended(role, id, action, abandoned, seconds, kind="cut_off")
            raise
        finally:
            if large is not None:
                await self._keep(role, f"{action}-{id}", large)

    async def network(self) -> Path:
        """Return the control socket of the network proxy."""
        if self.resources.network is None:
            raise LabError("there is no network proxy")
        proxy = await self.resources.network.running()
        if not self.proxy.done():
            self.proxy.set_result(proxy)
        return proxy.socket

    async def _keep(self, role: str, name: str, answer: JsonObject | str) -> None:
        """Write an answer of a client, which its event does not hold completely, to a file of the case."""

        def write() -> tuple[Path, int]:
            text, suffix = (
                (answer, "txt") if isinstance(answer, str) else (json.dumps(redacted(answer)), "json")
            )
            path = self.folder.client(role) / f"{file_name(name)}.{suffix}"
            path.write_text(text, "utf-8", errors="backslashreplace")
            return path, path.stat().st_size

        try:
            path, size = await asyncio.to_thread(write)
        except OSError as error:
            logger.warning("an answer of %s cannot be kept: %s", role, error)
            return
        self.emit(
            Attachment(
                role=role,
                name=path.name,
                path=path.relative_to(self.folder.path).as_posix(),
                size=size,
                media_type="text/plain" if isinstance(answer, str) else "application/json",
            )
        )

    def _action_ended(
        self,
        role: str,
        id: str,
        action: str,
        outcome: ActionResult,
        seconds: float,
        *,
        kind: Literal["cut_off"] | None = None,
    ) -> None:
        about = self._about(role, id, action)
        if not isinstance(outcome, Exception):
            self.emit(ActionAnswered(**about, response=outcome, seconds=seconds))
            return
        self.emit(
            ActionFailed(
                **about,
                type=kind or _type_of(outcome),
                path=getattr(outcome, "path", None) or "",
                details=getattr(outcome, "message", str(outcome)),
                seconds=seconds,
            )
        )

    def _about(self, role: str, id: str, action: str) -> dict[str, Any]:
        return {"role": role, "adapter": self.adapters[role].uuid, "id": id, "action": action}

    async def upload(self, role: str, name: str) -> Path:
        """Return the file that the client in a role uploaded under a name; the latest of that name."""
        try:
            return self.lease.uploads[role, name]
        except KeyError:
            sent = sorted(known for owner, known in self.lease.uploads if owner == role)
            message = f"uploaded no file {name!r}; it uploaded {', '.join(sent) or 'nothing'}"
            raise AdapterError(message, role=role) from None

    async def operate(self, role: str, operation: ServerOperation, config: JsonObject) -> None:
        """Start, stop, restart, kill, pause or unpause the homeserver in a role."""
        await self.servers[role].operate(operation, config)

    # Events

    def emit(self, event: Event, **context: Any) -> None:
        """Record an event of this attempt, with other fields to set."""
        self.resources.journal.append(
            event, session=self.session, case=self.case.id, attempt=self.waiting.attempt, **context
        )

    def _delivered(self, role: str) -> Callable[[ActionMessage], None]:
        def delivered(message: ActionMessage) -> None:
            self.fetched.add(role)
            self.emit(ActionDelivered(**self._about(role, message.id or "", message.action)))

        return delivered

    def _adapter_failed(self, role: str, error: AdapterFailure, raised_in_test: bool) -> None:
        error = _named(error, role)
        self.failures.setdefault(role, error)
        if isinstance(error, LabError) and role not in self.fetched:
            self.absent.add(role)
        if not raised_in_test:
            self.decisive = self.decisive or error
            self.aborted.set()


def _exited_unexpectedly(server: RunningServer) -> bool:
    return server.exited is not None and not server.exited.endswith(BY_THE_TEST)


def _beyond_event(outcome: ActionResult) -> JsonObject | str | None:
    """Return what of an answer is too large for an event; None if it is not."""
    if isinstance(outcome, Exception):
        details = getattr(outcome, "message", str(outcome))
        return details if len(details) > EVENT_LIMIT else None
    return None if fits(outcome) else outcome


def _type_of(outcome: Exception) -> Literal["action", "adapter", "unsupported"]:
    if isinstance(outcome, ActionError):
        return "action"
    return "unsupported" if isinstance(outcome, UnsupportedError) else "adapter"


def _named(error: AdapterFailure, role: str, action: str = "") -> AdapterFailure:
    """Return the error with the role and the action in its message."""
    if isinstance(error, ActionError | AdapterError):
        kind = ActionError if isinstance(error, ActionError) else AdapterError
        named = error.action or action
        # Some adapters name the action themselves.
        return kind(error.message.removeprefix(f"{named}: "), role=role, action=named, path=error.path)
    return type(error)(f"{role}: {error}")
