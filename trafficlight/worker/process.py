"""A process that a worker has forked: runs one attempt, in an event loop of its own.

Or it collects test files for plans, or evaluates the `match` of client types, until the coordinator closes
the socket.
"""

import asyncio
import contextlib
import faulthandler
import os
import socket
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any, NoReturn

from trafficlight.clients.base import ServerOperation
from trafficlight.errors import LabError, TestFileError
from trafficlight.protocol import JsonObject
from trafficlight.results.events import TestEvent
from trafficlight.suites.expansion import find_client_type
from trafficlight.suites.planning import FileRequest, FileResult, collect_file
from trafficlight.worker.assignment import Assignment, CaseLink, Verdict
from trafficlight.worker.execution import execute
from trafficlight.worker.messages import (
    Cancel,
    Cancelling,
    CancelRequest,
    Collected,
    CollectFile,
    Finished,
    MatchRequest,
    MatchResponse,
    Notification,
    Request,
    Response,
    RunAttempt,
    ToWorker,
    exception_of,
    not_json,
    read_from_coordinator,
    write_message,
)
from trafficlight.worker.output import capturing
from trafficlight.worker.verdicts import verdict_of

IMPORTED_NIO = 91
"""The exit code of a process whose test file has imported nio, which is slow: later ones have it imported."""

# Seconds that tasks which a test left running have to end.
_LEFTOVERS = 1.0


class _SocketLink(CaseLink):
    """The link of one attempt to the coordinator, over the worker's socket."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._last_id = 0

    async def perform(self, role: str, action: str, data: JsonObject, where: str = "") -> JsonObject:
        """Ask the client in a role for one action and return its response, verbatim."""
        try:
            response: JsonObject = await self._request("perform", role, action, data, where)
        except (TypeError, ValueError, RecursionError) as error:
            raise not_json(action, data, error) from None
        return response

    async def upload(self, role: str, name: str) -> Path:
        """Return the file that the client in a role uploaded under a name."""
        return Path(await self._request("upload", role, name))

    async def operate(self, role: str, operation: ServerOperation, config: JsonObject) -> None:
        """Control the homeserver in a role."""
        await self._request("operate", role, operation, config)

    async def network(self) -> Path:
        """Return the control socket of the network proxy."""
        return Path(await self._request("network"))

    def emit(self, event: TestEvent) -> None:
        """Record an event of the attempt."""
        write_message(self._writer, Notification(event.as_json()))

    def resolve(self, response: Response) -> None:
        """Resolve the request that a response belongs to."""
        pending = self._pending.pop(response.id, None)
        if pending is None or pending.done():
            return
        if response.error is not None:
            pending.set_exception(exception_of(response.error))
        else:
            pending.set_result(response.result)

    async def _request(self, method: Any, *arguments: Any) -> Any:
        self._last_id += 1
        id = self._last_id
        pending = self._pending[id] = asyncio.get_running_loop().create_future()
        try:
            write_message(self._writer, Request(id, method, list(arguments)))
            return await pending
        except asyncio.CancelledError:
            write_message(self._writer, CancelRequest(id))
            raise
        finally:
            self._pending.pop(id, None)


class _Process:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._link: _SocketLink | None = None
        self._running: asyncio.Task[None] | None = None
        self._serving: asyncio.Task[None] | None = None
        self._home = os.getcwd()
        self._pid = os.getpid()
        self._has_nio = "nio" in sys.modules

    @property
    def exit_code(self) -> int:
        """The exit code of a process that ends as it should."""
        return IMPORTED_NIO if "nio" in sys.modules and not self._has_nio else 0

    def _shutting_down(self) -> bool:
        """Return whether this process exits: a task of the test has raised SystemExit."""
        return self._serving is not None and self._serving.cancelling() > 0

    async def serve(self) -> None:
        """Handle messages until the coordinator closes the socket."""
        self._serving = asyncio.current_task()
        async with asyncio.TaskGroup() as group:
            while (message := await read_from_coordinator(self._reader)) is not None:
                self._handle(message, group)
            if self._running is not None:
                self._running.cancel()

    def _handle(self, message: ToWorker, group: asyncio.TaskGroup) -> None:
        match message:
            case RunAttempt():
                self._link = _SocketLink(self._writer)
                self._running = group.create_task(self._run(message.assignment, self._link))
            case Cancel():
                write_message(self._writer, Cancelling())
                if self._running is not None:
                    self._running.cancel()
            case Response():
                if self._link is not None:
                    self._link.resolve(message)
            case CollectFile():
                group.create_task(self._collect(message.request))
            case MatchRequest():
                group.create_task(self._match(message))

    async def _run(self, assignment: Assignment, link: _SocketLink) -> None:
        verdict: Verdict | None
        known = asyncio.all_tasks()
        try:
            verdict = await execute(assignment, link)
        except asyncio.CancelledError:
            if self._shutting_down():
                raise
            verdict = None
        if os.getpid() != self._pid:  # the test has forked, and this is the copy
            os._exit(0)
        await _cancel_leftovers(asyncio.all_tasks() - known)
        write_message(self._writer, Finished(verdict))
        await self._writer.drain()
        exit_now(self.exit_code)

    async def _collect(self, request: FileRequest) -> None:
        try:
            with self._guarded():
                *parts, last = collect_file(request).parts()
            for part in parts:
                try:
                    write_message(self._writer, Collected(part))
                except LabError as large:
                    last.add_problems(_too_large(part, request.file.path, large), request.targets)
                await self._writer.drain()
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 - code of a test file
            message = f"cannot be collected: {verdict_of(error, '').message}"
            last = FileResult()
            last.add_problems([TestFileError(request.file.path, None, message)], request.targets)
        write_message(self._writer, Collected(last, last=True))

    async def _match(self, request: MatchRequest) -> None:
        try:
            with self._guarded():
                kind = find_client_type(request.path, request.class_name, request.role, request.type_name)
                matches = bool(kind.match(SimpleNamespace(registration=request.registration)))
                response = MatchResponse(matches)
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 - code of a test file
            response = MatchResponse(matches=False, problem=f"raised {type(error).__name__}: {error}")
        write_message(self._writer, response)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Run code of a test file in the initial directory, and exit if it returns in a forked process.

        A file that forks while it is imported makes two processes share this socket.
        """
        os.chdir(self._home)  # the previous file may have changed it
        try:
            yield
        finally:
            if os.getpid() != self._pid:
                os._exit(0)


def _too_large(part: FileResult, path: Path, error: LabError) -> Iterator[TestFileError]:
    for id, suite in part.suites.items():
        line = suite.cases[0].line if suite.cases else None
        problem = f"the cases of {id} are too large: {error}"
        yield TestFileError(path, line, problem, "make the values of its parameters smaller")


async def _cancel_leftovers(tasks: set[asyncio.Task[Any]]) -> None:
    """Cancel the tasks that a test left running, so that they clean up."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_LEFTOVERS)


def dump_stacks(_signal: int, frame: FrameType | None) -> None:
    """Write the stacks of all tasks and threads to standard error."""
    out = sys.__stderr__
    if out is None:
        return
    with contextlib.suppress(RuntimeError):  # no loop runs
        for task in asyncio.all_tasks():
            out.write(f"task {task.get_name()}, awaiting, innermost last:\n")
            out.writelines(_awaiting(task.get_coro()))
    out.write("the thread that runs the test, innermost last:\n")
    traceback.print_stack(frame, file=out)
    out.flush()
    faulthandler.dump_traceback(out)


def _awaiting(waiting: object) -> Iterator[str]:
    """Yield a line for every coroutine that a suspended one awaits."""
    while waiting is not None:
        frame = getattr(waiting, "cr_frame", None) or getattr(waiting, "gi_frame", None)
        if frame is not None:
            yield f"  {frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}\n"
        waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "gi_yieldfrom", None)


def exit_now(code: int) -> NoReturn:
    """Exit without waiting for threads or calling exit handlers of tests."""
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            # The test may have closed it, or a signal may have interrupted a write to it.
            with contextlib.suppress(OSError, ValueError, RuntimeError):
                stream.flush()
    os._exit(code)


def serve(fd: int) -> None:
    """Serve the coordinator until the attempt has ended, or the coordinator closes the socket.

    :param fd: the socket's file descriptor.
    """
    asyncio.run(_serve(fd))


async def _serve(fd: int) -> None:
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=fd))
    # After drain(), everything has been sent; by default up to 64 KiB have not, and are lost at the exit.
    writer.transport.set_write_buffer_limits(0)
    with capturing():
        process = _Process(reader, writer)
        await process.serve()
    writer.close()
    exit_now(process.exit_code)
