"""Runs the test code of one attempt, in whichever process this is."""

import asyncio
import contextlib
import inspect
import math
import mimetypes
import shutil
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, cast

from trafficlight.client_types import ClientType, client_class
from trafficlight.clients import Client, HomeServer, MatrixClient, NetworkProxyClient
from trafficlight.clock import Clock, Deadline, SystemClock
from trafficlight.errors import DeadlineError, LabError
from trafficlight.network.bypass import requests_past
from trafficlight.network.connection import CaseNetwork
from trafficlight.protocol import JsonObject
from trafficlight.results.events import (
    Attachment,
    Log,
    Measurement,
    NetworkChanged,
    Returned,
    ServiceChanged,
    State,
    TestEvent,
)
from trafficlight.results.folder import RECORDING, AttemptFolder, folder_name
from trafficlight.services.service import CaseServices
from trafficlight.suites.expansion import expand_case
from trafficlight.test import CaseInfo, Test, accepted
from trafficlight.text import MESSAGE_LIMIT, count, truncate
from trafficlight.worker.assignment import Assignment, CaseLink, Verdict
from trafficlight.worker.calls import Calls
from trafficlight.worker.messages import as_json, ensure_json
from trafficlight.worker.output import CaseLog
from trafficlight.worker.strays import Strays
from trafficlight.worker.verdicts import verdict_of

# Seconds for closing what the test left open on homeservers: less than a worker's margin.
_CLOSE_SECONDS = 3

OnFailure: TypeAlias = Callable[[BaseException, Verdict], None]
"""Called with every exception of a test, where it was caught, and the verdict that it means."""


NO_ASSERTIONS = (
    "Python removes the assertions of tests without workers: unset PYTHONOPTIMIZE, start it without -O"
)
"""What is wrong where tests would run in this process, and `assert` does nothing."""


async def execute(
    assignment: Assignment, link: CaseLink, clock: Clock | None = None, on_failure: OnFailure | None = None
) -> Verdict:
    """Run one attempt and return the verdict. Raises only if it is cancelled from outside.

    The tear-down always runs; its error does not hide the test's.
    """
    emit = _Emitter(link.emit)

    def logged(level: str, message: str) -> None:
        emit(Log(level=level, logger="test", message=truncate(message, MESSAGE_LIMIT)))

    log = CaseLog(assignment.folder, logged)
    try:
        with log.current():
            return await _Execution(assignment, link, clock or SystemClock(), log, emit, on_failure).run()
    finally:
        emit.flush()
        log.close()


class _Emitter:
    """Emits events in the test's loop, whichever thread of the test calls it: links are not thread-safe."""

    def __init__(self, emit: Callable[[TestEvent], None]) -> None:
        self._emit = emit
        self._loop, self._home = asyncio.get_running_loop(), threading.get_ident()
        self._queued: deque[TestEvent] = deque()

    def __call__(self, event: TestEvent) -> None:
        self._queued.append(event)
        if threading.get_ident() == self._home:
            self.flush()
        else:
            self._loop.call_soon_threadsafe(self.flush)

    def flush(self) -> None:
        """Emit what other threads have queued."""
        while self._queued:
            self._emit(self._queued.popleft())


async def execute_in_process(
    assignment: Assignment,
    link: CaseLink,
    began: Callable[[], None],
    *,
    clock: Clock,
    on_failure: OnFailure | None = None,
) -> Verdict:
    """Run one attempt in the coordinator's own process and loop: for a debugger, and for quick tests."""
    began()
    return await execute(assignment, cast("CaseLink", _JsonLink(link)), clock, on_failure)


class _JsonLink:
    """A link that checks the data of actions, as the socket of a worker does."""

    def __init__(self, link: CaseLink) -> None:
        self._link = link

    async def perform(self, role: str, action: str, data: JsonObject, where: str = "") -> JsonObject:
        return await self._link.perform(role, action, ensure_json(action, data), where)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)


class _Execution:
    """One attempt, as the test sees it: a :class:`trafficlight.test.TestRun`."""

    # pytest must not collect it.
    __test__: ClassVar[bool] = False

    def __init__(
        self,
        assignment: Assignment,
        link: CaseLink,
        clock: Clock,
        log: CaseLog,
        emit: Callable[[TestEvent], None],
        on_failure: OnFailure | None,
    ) -> None:
        self._assignment = assignment
        self._folder = AttemptFolder(assignment.folder)
        self._clock = clock
        self.logger = log.logger
        self.deadline = Deadline(clock, assignment.case_deadline)
        self._calls = Calls(link, self.deadline, clock, emit, assignment.case)
        self.step = self._calls.step
        self._strays = Strays(assignment.case)
        self._link = cast("CaseLink", self._calls)
        self._emit = emit
        self._on_failure = on_failure
        self._network = CaseNetwork(
            link.network,
            record=assignment.record != "never",
            unrecorded=assignment.unrecorded,
            recording=self._recording,
            on_change=lambda role, rule, active: emit(NetworkChanged(role=role, rule=rule, active=active)),
        )
        self.services = CaseServices(
            assignment.nodes,
            assignment.mark,
            assignment.folder,
            on_change=lambda id, what, nodes, problem: emit(
                ServiceChanged(service=id, what=what, nodes=tuple(nodes), problem=problem)
            ),
            on_failure=self._service_failed,
            on_fault=lambda rule, active: emit(NetworkChanged(rule=rule, active=active)),
        )
        # What made the case an error while its test ran, and the task of the test.
        self._broken: LabError | None = None
        self._running: asyncio.Task[Any] | None = None
        self._clients: Mapping[str, ClientType] = {}
        self.case = CaseInfo(
            id=assignment.case.id,
            parameters={},
            attempt=assignment.attempt,
            folder=assignment.folder,
            roles=assignment.case.roles,
        )

    def record(self, name: str, value: float, unit: str, at: float | None) -> None:
        """Record a measurement."""
        when = None if at is None else float(at)
        if when is not None and not math.isfinite(when):
            raise ValueError(f"record({name!r}, at={at}): not a time in seconds since 1970")
        self._emit(Measurement(name=str(name), value=float(value), unit=str(unit), at=when))

    def _returned(self, value: object, method: str) -> None:
        """Keep what a test returned, or say that it is lost."""
        if value is None:
            return
        kept, problem = as_json(value)
        if problem:
            self.logger.warning("what %s() returned is lost: %s", method, problem)
        self._emit(Returned(result={} if problem else {"value": kept}, problem=problem))

    def attach(self, name: str, content: Path | bytes) -> None:
        """Attach a file, or bytes as a file, to the case."""
        target = self._folder.attachment(name)
        if isinstance(content, Path):
            shutil.copyfile(content, target)
        else:
            target.write_bytes(content)
        self._emit(
            Attachment(
                name=str(name),
                path=target.relative_to(self._folder.path).as_posix(),
                size=target.stat().st_size,
                media_type=mimetypes.guess_type(name)[0] or "application/octet-stream",
            )
        )

    def _service_failed(self, error: LabError) -> None:
        """End the test, because a service has ended."""
        self._broken = self._broken or error
        if self._running is not None:
            self._running.cancel()
            self._running = None

    async def run(self) -> Verdict:
        """Create the folder, load, set up, run and tear down."""
        phase = "load"
        try:
            self._create_folder()
            test = self._load()
            roles = self._roles(test)
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 - code of a test file
            return self._verdict_of(error, phase)
        arguments = {**roles, **self.case.parameters}
        try:
            if (broken := await self._federate()) is not None:
                return broken
            with self._strays.watching():
                verdict = await self._to_the_end(test, arguments)
            verdict = await self._with_requests_past(verdict, roles)
            await self._keep_recordings(verdict.state)
            return verdict
        except asyncio.CancelledError:
            await self._keep_recordings(State.ERROR)
            raise
        finally:
            await self._close([one for one in roles.values() if isinstance(one, HomeServer)])

    def _recording(self, role: str, asked: str = "") -> Path:
        """Return the file for the traffic of a client, or of a homeserver that asks another one."""
        if not asked:
            return self._folder.client(role) / RECORDING
        return self._folder.server_log(role).parent / f"federation-{folder_name(asked)}.har"

    async def _federate(self) -> Verdict | None:
        """Put the proxy between the homeservers if the test wants that; return why it cannot be."""
        servers = {
            role: (server.server_name, server.federation)
            for role, server in self._assignment.servers.items()
            if server.federation is not None
        }
        try:
            await self._network.federate(servers)
        except LabError as error:
            return self._verdict_of(error, "prepare")
        return None

    async def _to_the_end(self, test: Test, arguments: Mapping[str, Any]) -> Verdict:
        """Set up, run and tear down."""
        try:
            verdict = await self._until_deadline(test, arguments)
        except asyncio.CancelledError:
            await self._tear_down(test, arguments)
            self.services.failed = True
            await self._end_services()
            raise
        verdict = self._calls.in_flight(self._calls.uncaught(verdict))
        self._strays.find_coroutines()
        torn_down = await self._tear_down(test, arguments)
        if verdict.state is State.SUCCESS:
            verdict = torn_down or self._calls.uncaught(verdict)
        elif (
            verdict.state is State.SKIPPED and torn_down is not None and torn_down.state is not State.SKIPPED
        ):
            verdict = torn_down
        self.services.failed |= (
            verdict.state not in (State.SUCCESS, State.SKIPPED) or self._broken is not None
        )
        ended = await self._end_services()
        if self._broken is not None and verdict.state is not State.ERROR:
            # Whatever else the test found wrong, it did without its service.
            lost = self._verdict_of(self._broken, verdict.phase)
            note = f"; then {verdict.state}: {verdict.message}" if verdict.message else ""
            verdict = replace(lost, message=truncate(lost.message + note, MESSAGE_LIMIT))
        elif verdict.state is State.SUCCESS and ended is not None:
            verdict = self._verdict_of(ended, "teardown")
        self._strays.find_coroutines()
        await self._strays.find_errors()
        return self._left(verdict)

    async def _end_services(self) -> Exception | None:
        """End the services that the test has left; return what went wrong."""
        seconds = self._assignment.teardown_deadline
        try:
            async with self._clock.timeout(seconds):
                errors = await self.services.close()
        except TimeoutError:
            return DeadlineError(f"the services were not stopped within {seconds:g} s")
        for error in errors:
            self.logger.error("a service could not be stopped, collected or cleaned up: %s", error)
        if self.services.unused:
            self.logger.warning("no service used %s", ", ".join(self.services.unused))
        return errors[0] if errors else None

    def _left(self, verdict: Verdict) -> Verdict:
        """Return the verdict, in which what the test left behind counts."""
        if verdict.state in (State.SUCCESS, State.SKIPPED) and self._strays.errors:
            unseen = self._verdict_of(self._strays.errors[0], verdict.phase)
            if unseen.state is not State.SKIPPED:
                first, end, rest = unseen.message.partition("\n")
                message = f"{first} (the test did not await it){end}{rest}"
                verdict = replace(unseen, message=message)
        if not self._strays.forgotten:
            return verdict
        message = "; ".join(self._strays.forgotten)
        if verdict.state is not State.SUCCESS:
            message += f"; then {verdict.state}: {verdict.message}"
        return replace(verdict, state=State.ERROR, message=truncate(message, MESSAGE_LIMIT))

    def _create_folder(self) -> None:
        try:
            self._folder.create()
        except OSError as error:
            raise LabError(f"cannot create the results folder: {error}") from error

    def _load(self) -> Test:
        case = self._assignment.case
        cls, self._clients, parameters = expand_case(case)
        self.case = replace(self.case, parameters=parameters)
        test: Test = cls()
        test.bind(self)
        return test

    def _roles(self, test: Test) -> dict[str, Client | HomeServer]:
        given: dict[str, Client | HomeServer] = {}
        methods = (getattr(test, self._assignment.case.method), test.setup, test.teardown)
        for role, registration in self._assignment.clients.items():
            annotations = (annotation_of(method, role) for method in methods)
            kind = client_class(self._clients[role], next(filter(None, annotations), None))
            client = given[role] = kind(role, registration, self._link)
            client.join(self._network)
        for role, facts in self._assignment.servers.items():
            given[role] = HomeServer(
                facts.server_name,
                facts.cs_api,
                name=role,
                version=facts.version,
                log=facts.log,
                log_start=facts.log_start,
                shared=facts.shared,
                link=self._link,
                step=self.step,
            )
            given[role].join(self._network)
        return given

    async def _until_deadline(self, test: Test, arguments: Mapping[str, Any]) -> Verdict:
        seconds = self._assignment.case_deadline
        phase, began = "setup", self._clock.monotonic()
        try:
            async with self._clock.timeout(seconds) as limit:
                self._running = asyncio.current_task()
                try:
                    if type(test).setup is not Test.setup:
                        with self.step("set-up"):
                            await test.setup(**accepted(test.setup, arguments))
                    phase = "run"
                    method = getattr(test, self._assignment.case.method)
                    returned = await method(**accepted(method, arguments))
                except asyncio.CancelledError as error:
                    if self._broken is not None and self._uncancelled():
                        return self._verdict_of(_at_the_test(self._broken, error), phase)
                    if limit.expired() or _cancelled_from_outside():
                        raise
                    return self._verdict_of(error, phase)
                finally:
                    self._running = None
        except TimeoutError as error:
            if not limit.expired():
                return self._verdict_of(error, phase)
            return self._verdict_of(_at_the_test(self._late(seconds), error), phase)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - code of a test file
            return self._verdict_of(error, phase)
        if limit.expired() or self._clock.monotonic() - began >= seconds:
            # The test caught the cancellation, or blocked its process.
            return self._verdict_of(self._late(seconds), phase)
        self._returned(returned, self._assignment.case.method)
        return Verdict(State.SUCCESS)

    @staticmethod
    def _uncancelled() -> bool:
        """Take back the cancellation for a service; return whether there is no other."""
        task = asyncio.current_task()
        return task is not None and task.uncancel() == 0

    def _late(self, seconds: float) -> Exception:
        return self._calls.expectation_cut(seconds) or DeadlineError(
            f"not done within {seconds:g} s, the case's deadline"
        )

    def _verdict_of(self, error: BaseException, phase: str) -> Verdict:
        verdict = verdict_of(error, phase)
        if self._on_failure is not None:
            self._on_failure(error, verdict)
        return verdict

    async def _tear_down(self, test: Test, arguments: Mapping[str, Any]) -> Verdict | None:
        seconds = self._assignment.teardown_deadline
        try:
            async with self._clock.timeout(seconds) as limit:
                if type(test).teardown is not Test.teardown:
                    with self.step("tear-down"):
                        await test.teardown(**accepted(test.teardown, arguments))
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and _cancelled_from_outside():
                raise
            self.logger.exception("the tear-down failed")
            if limit.expired():
                late = DeadlineError(f"the tear-down was not done within {seconds:g} s")
                return self._verdict_of(_at_the_test(late, error), "teardown")
            return self._verdict_of(error, "teardown")
        return None

    async def _with_requests_past(
        self, verdict: Verdict, roles: Mapping[str, Client | HomeServer]
    ) -> Verdict:
        """Warn of clients that bypassed the network proxy; add that to a bad verdict."""
        clients = [one for one in roles.values() if isinstance(one, MatrixClient) and one.homeserver]
        proxied = {
            one.user_id: one.name
            for one in clients
            if isinstance(one.homeserver, NetworkProxyClient)
            or (one.network.exclusive and (one.network.used or self._assignment.record == "always"))
        }
        for one in clients:
            if one.name not in proxied.values():
                proxied.pop(one.user_id, None)  # another device of the user, whose requests look the same
        servers = [one for one in roles.values() if isinstance(one, HomeServer)]
        logs = [(one.log, one.log_start) for one in servers if one.log]
        if not proxied or not logs:
            return verdict
        notes = []
        for log, start in logs:
            with contextlib.suppress(OSError):
                for user, requests in (await asyncio.to_thread(requests_past, log, proxied, start)).items():
                    more = f" and {count(len(requests) - 1, 'other request')}" if requests[1:] else ""
                    notes.append(f"{proxied[user]} bypassed the network proxy: {requests[0]}{more}")
        for note in notes:
            self._emit(Log(level="warning", logger="network", message=note))
        if not notes or verdict.state is State.SUCCESS:
            return verdict
        first, end, rest = verdict.message.partition("\n")
        return replace(verdict, message=truncate("; ".join([first, *notes]) + end + rest, MESSAGE_LIMIT))

    async def _keep_recordings(self, state: State) -> None:
        """Attach the recordings of the clients' traffic, or remove them where no one needs them."""
        keep = self._assignment.record == "always" or state not in (State.SUCCESS, State.SKIPPED)
        await self._network.end_recordings(keep=keep)
        for path, role in self._network.recordings.items():
            try:
                if not keep:
                    await asyncio.to_thread(path.unlink)
                    continue
                size = (await asyncio.to_thread(path.stat)).st_size
            except OSError:  # the proxy could not write it
                continue
            where = path.relative_to(self._folder.path).as_posix()
            self._emit(
                Attachment(role=role, name=path.name, path=where, size=size, media_type="application/json")
            )

    async def _close(self, servers: Sequence[HomeServer]) -> None:
        """Close what the test opened on its homeservers; an error does not change the verdict."""
        await self._network.close()
        try:
            async with self._clock.timeout(_CLOSE_SECONDS):
                for server in servers:
                    await server.close()
        except Exception:
            self.logger.exception("what the test opened on its homeservers could not be closed")


def _at_the_test(late: Exception, error: BaseException) -> Exception:
    """Return the error for an expired deadline, with the traceback of the test."""
    # Its cause is the cancellation that went through the test.
    return late.with_traceback((error.__cause__ or error).__traceback__)


def _cancelled_from_outside() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def annotation_of(method: Callable[..., Any], role: str) -> object:
    """Return the evaluated annotation of one role; None if it has none, or it cannot be evaluated.

    Each is evaluated alone: one that exists for type checkers only must not cost the others theirs.
    """
    function = inspect.unwrap(method)
    try:
        if sys.version_info >= (3, 14):
            from annotationlib import Format

            stated = inspect.get_annotations(function, format=Format.FORWARDREF).get(role)
        else:
            stated = inspect.get_annotations(function).get(role)
        if isinstance(stated, str):
            return eval(stated, getattr(function, "__globals__", {}))  # noqa: S307
    except Exception:  # noqa: BLE001 - code of a test file
        return None
    return stated
