"""Runs one attempt from its leased adapters to its verdict, and cleans up after it, in every ending."""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Protocol

from trafficlight.clock import Clock
from trafficlight.coordinator.adapter import Lease
from trafficlight.coordinator.attempt import Attempt
from trafficlight.coordinator.pool import Pool
from trafficlight.errors import ActionError, DeployError, LabError, TrafficlightError, UnsupportedError
from trafficlight.homeservers.provider import AS_ASKED, Provider, RunningServer, ServerRequest
from trafficlight.results.events import EventKind, State
from trafficlight.text import read_tail
from trafficlight.worker.assignment import Assignment, CaseLink, ServerInfo, Verdict
from trafficlight.worker.verdicts import verdict_of

logger = logging.getLogger(__name__)

# Seconds between two looks at whether the homeservers are still there.
_LOOK_EVERY = 1.0
# Seconds that a test has to fail by itself when a homeserver is gone: it knows better what that broke.
_TIME_TO_NOTICE = 5.0
# Lines of a dead homeserver's log that its case quotes.
_LOG_LINES = 30
# Bytes of it in which those are looked for.
_LOG_BYTES = 16 << 10


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long things may take, in seconds.

    :param action: from asking a client for an action to its answer.
    :param case: set-up and test together.
    :param prepare: until the homeservers answer.
    :param teardown: the test's tear-down.
    """

    action: float = 60.0
    case: float = 300.0
    prepare: float = 120.0
    teardown: float = 30.0


class Executor(Protocol):
    """Where test code runs: this process, or a worker."""

    async def execute(self, assignment: Assignment, link: CaseLink) -> Verdict:
        """Run an attempt to its end. Cancelling ends it in bounded time, whatever the test does."""
        ...


@dataclass(frozen=True, slots=True)
class Runner:
    """Runs attempts.

    :param pool: where the adapters go back to.
    :param servers: where homeservers come from.
    :param executor: where test code runs.
    :param deadlines: how long things may take.
    """

    pool: Pool
    servers: Provider
    executor: Executor
    clock: Clock
    deadlines: Deadlines

    async def run(self, attempt: Attempt, lease: Lease) -> Verdict:
        """Run an attempt with the adapters of its lease. Whatever happens: released, and servers destroyed.

        :raises asyncio.CancelledError: the attempt was called off; everything is cleaned up by then.
        """
        verdict = None
        try:
            async with AsyncExitStack() as held:
                held.callback(self.pool.release, lease, "the case was called off")
                verdict = await self._run(attempt, lease, held)
                # Before the homeservers are destroyed, which takes its time.
                self.pool.release(lease, f"the case ended: {verdict.state}")
        except Exception as error:
            if verdict is None:
                raise
            logger.exception("cleaning up after %s failed", attempt.case)
            if verdict.state in (State.SUCCESS, State.SKIPPED):
                return verdict_of(error, "teardown")
        return verdict

    async def _run(self, attempt: Attempt, lease: Lease, held: AsyncExitStack) -> Verdict:
        try:
            attempt.hold(lease.adapters)
            attempt.tell(EventKind.CASE_STATE, state=State.PREPARING.value)
            facts = await self._prepare(attempt, held)
        except TrafficlightError as error:
            return verdict_of(error, "prepare")
        attempt.tell(EventKind.CASE_STATE, state=State.RUNNING.value)
        verdict = await self._execute(attempt, facts)
        self.pool.judge(lease, [role for role, error in attempt.failures.items() if _faulty(error)])
        return verdict

    async def _prepare(self, attempt: Attempt, held: AsyncExitStack) -> dict[str, ServerInfo]:
        requests = [
            ServerRequest(
                role, spec, attempt.folder.server_log(role), host=attempt.hosts.get(spec.type_name, "")
            )
            for slot in attempt.case_model.servers
            for role, spec in zip(slot.roles, slot.homeservers, strict=False)
        ]
        if not requests:
            return {}
        began = self.clock.monotonic()
        try:
            async with self.clock.timeout(self.deadlines.prepare) as limit:
                deployment = self.servers.deploy(attempt.case, requests)
                servers = await held.enter_async_context(deployment)
        except TimeoutError as error:
            if not limit.expired():
                raise DeployError(f"the provider gave up: {error}") from error
            attempt.tell(EventKind.SERVER_FAILED, reason="no answer in time")
            seconds = self.deadlines.prepare
            raise DeployError(f"the homeservers did not answer within {seconds:g} s") from None
        except (DeployError, UnsupportedError) as error:
            attempt.tell(EventKind.SERVER_FAILED, reason=str(error).splitlines()[0])
            raise
        return {
            request.role: self._ready(attempt, request, server, self.clock.monotonic() - began)
            for request, server in zip(requests, servers, strict=True)
        }

    @staticmethod
    def _ready(attempt: Attempt, request: ServerRequest, server: RunningServer, seconds: float) -> ServerInfo:
        attempt.servers[request.role] = server
        attempt.tell(
            EventKind.SERVER_READY,
            role=request.role,
            server_name=server.server_name,
            cs_api=server.cs_api,
            version=server.version,
            type=request.spec.type_name,
            seconds=seconds,
        )
        return ServerInfo(server.server_name, server.cs_api, server.version, request.log)

    async def _execute(self, attempt: Attempt, servers: Mapping[str, ServerInfo]) -> Verdict:
        assignment = Assignment(
            case=attempt.case_model,
            attempt=attempt.number,
            folder=attempt.folder.path,
            clients={role: dict(adapter.fields) for role, adapter in attempt.adapters.items()},
            servers=servers,
            case_deadline=self.deadlines.case,
            teardown_deadline=self.deadlines.teardown,
        )
        verdict = await self._until_broken(attempt, assignment)
        return self._explained(attempt, verdict)

    async def _until_broken(self, attempt: Attempt, assignment: Assignment) -> Verdict:
        """Run the test, and call it off when what it stands on is gone and no action of it waits for that."""
        execution = asyncio.ensure_future(self.executor.execute(assignment, attempt))
        broken = asyncio.ensure_future(attempt.broken.wait())
        homeserver = asyncio.ensure_future(self._homeserver_lost(attempt))
        watched = {execution, broken, homeserver}
        try:
            await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            if not execution.done():
                execution.cancel()
                await asyncio.wait({execution})
            if execution.cancelled():
                error: Exception | None = next(iter(attempt.failures.values()), None)
                if error is None and homeserver.done():
                    error = homeserver.result()
                return verdict_of(error or asyncio.CancelledError(), "run")
            return execution.result()
        finally:
            for task in watched:
                task.cancel()
            await asyncio.gather(*watched, return_exceptions=True)

    async def _homeserver_lost(self, attempt: Attempt) -> LabError:
        """Return when a homeserver has ended that nobody told to, and the test had time to notice it."""
        while not any(_unasked(server) for server in attempt.servers.values()):
            await self.clock.sleep(_LOOK_EVERY)
        await self.clock.sleep(_TIME_TO_NOTICE)
        return LabError("called off, because the case lost its homeserver")

    def _explained(self, attempt: Attempt, verdict: Verdict) -> Verdict:
        """Complete a verdict with what the test cannot know: adapters that went wrong, servers that died."""
        if attempt.failures and verdict.state in (State.SUCCESS, State.SKIPPED):
            # A test may catch what an adapter reports, but that adapter's end remains the case's.
            error = next(iter(attempt.failures.values()))
            verdict = verdict_of(error, "run")
        if verdict.state is State.SUCCESS:
            return verdict
        died = _ended(attempt)
        cut_off = attempt.cut_off if verdict.state is State.ERROR else []
        if not died and not cut_off:
            return verdict
        # Into the first line, which is the one that lists show.
        first, line_end, rest = verdict.message.partition("\n")
        notes = [f"the homeserver {role} had ended ({how})" for role, how in died.items()]
        message = "; ".join([first, *cut_off, *notes]) + line_end + rest
        logs = "".join(f"\nThe end of the log of {role}:\n{_tail(attempt, role)}\n" for role in died)
        return Verdict(verdict.state, message, verdict.traceback + logs, verdict.phase)


def _unasked(server: RunningServer) -> bool:
    return server.exited is not None and not server.exited.endswith(AS_ASKED)


def _ended(attempt: Attempt) -> dict[str, str]:
    """Return how the homeservers of an attempt ended that have."""
    return {role: server.exited for role, server in attempt.servers.items() if server.exited is not None}


def _tail(attempt: Attempt, role: str) -> str:
    """Return the last lines of a homeserver's log."""
    text = read_tail(attempt.folder.server_log(role), _LOG_BYTES)
    return "\n".join(text.splitlines()[-_LOG_LINES:]) or "(nothing)"


def _faulty(error: LabError | ActionError) -> bool:
    return isinstance(error, LabError)
