"""Runs one attempt from its leased adapters to its verdict, and cleans up after it, in every ending."""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Protocol

from trafficlight.clock import Clock
from trafficlight.coordinator.attempt import Attempt
from trafficlight.coordinator.pool import Lease, Pool
from trafficlight.errors import ActionError, DeployError, LabError, TrafficlightError, UnsupportedError
from trafficlight.homeservers.provider import Provider, RunningServer, ServerRequest
from trafficlight.results.events import EventKind, State
from trafficlight.worker.assignment import Assignment, CaseLink, ServerFacts, Verdict
from trafficlight.worker.verdicts import verdict_of

__all__ = ["Deadlines", "Executor", "Runner"]

logger = logging.getLogger(__name__)


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

    async def _prepare(self, attempt: Attempt, held: AsyncExitStack) -> dict[str, ServerFacts]:
        requests = [
            ServerRequest(role, spec, attempt.folder.server_log(role))
            for slot in attempt.case_model.servers
            for role, spec in zip(slot.roles, slot.type.homeservers(), strict=False)
        ]
        if not requests:
            return {}
        began = self.clock.monotonic()
        try:
            async with asyncio.timeout(self.deadlines.prepare):
                deployment = self.servers.deploy(attempt.case, requests)
                servers = await held.enter_async_context(deployment)
        except TimeoutError:
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
    def _ready(
        attempt: Attempt, request: ServerRequest, server: RunningServer, seconds: float
    ) -> ServerFacts:
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
        return ServerFacts(server.server_name, server.cs_api, server.version, request.log)

    async def _execute(self, attempt: Attempt, servers: Mapping[str, ServerFacts]) -> Verdict:
        assignment = Assignment(
            case=attempt.case_model,
            attempt=attempt.number,
            folder=attempt.folder.path,
            clients={role: dict(adapter.registration) for role, adapter in attempt.adapters.items()},
            servers=servers,
            case_deadline=self.deadlines.case,
            teardown_deadline=self.deadlines.teardown,
        )
        verdict = await self._until_broken(attempt, assignment)
        return self._explained(attempt, verdict)

    async def _until_broken(self, attempt: Attempt, assignment: Assignment) -> Verdict:
        """Run the test, and call it off when an adapter is gone that no action of the test waits for."""
        execution = asyncio.ensure_future(self.executor.execute(assignment, attempt))
        broken = asyncio.ensure_future(attempt.broken.wait())
        try:
            await asyncio.wait({execution, broken}, return_when=asyncio.FIRST_COMPLETED)
            if not execution.done():
                execution.cancel()
                await asyncio.wait({execution})
            if execution.cancelled():
                error = next(iter(attempt.failures.values()), None)
                return verdict_of(error or asyncio.CancelledError(), "run")
            return execution.result()
        finally:
            for task in (execution, broken):
                task.cancel()
            await asyncio.gather(execution, broken, return_exceptions=True)

    def _explained(self, attempt: Attempt, verdict: Verdict) -> Verdict:
        """Complete a verdict with what the test cannot know: adapters that went wrong, servers that died."""
        if attempt.failures and verdict.state in (State.SUCCESS, State.SKIPPED):
            # A test may catch what an adapter reports, but that adapter's end remains the case's.
            error = next(iter(attempt.failures.values()))
            verdict = verdict_of(error, "run")
        if verdict.state is State.SUCCESS:
            return verdict
        died = [
            f"the homeserver {role} had ended ({exited})"
            for role, server in attempt.servers.items()
            if (exited := getattr(server, "exited", None))
        ]
        cut_off = attempt.cut_off if verdict.state is State.ERROR else []
        if died or cut_off:
            message = "; ".join([verdict.message, *cut_off, *died])
            return Verdict(verdict.state, message, verdict.traceback, verdict.phase)
        return verdict


def _faulty(error: LabError | ActionError) -> bool:
    return isinstance(error, LabError)
