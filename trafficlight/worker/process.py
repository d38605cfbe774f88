"""The worker process: takes one attempt after the other over its socket and runs it on its own loop.

It is also where test files are read for a plan, and where their client types are asked what they match.

Started as ``python -m trafficlight.worker FD``; ends when the coordinator closes the socket.
"""

import asyncio
import contextlib
import faulthandler
import functools
import logging
import os
import pickle
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from trafficlight.clients.link import ServerOperation
from trafficlight.errors import LabError, TestFileError
from trafficlight.protocol import JsonObject
from trafficlight.results.events import TestEvent
from trafficlight.suites.imports import load_module, load_test_class
from trafficlight.suites.portable import portable, unsealed
from trafficlight.suites.reading import FileRequest, Reading, read_file
from trafficlight.worker.assignment import Assignment, CaseLink, Verdict
from trafficlight.worker.execution import execute
from trafficlight.worker.messages import (
    Answer,
    Call,
    CallOff,
    Done,
    Emit,
    Found,
    Match,
    Matched,
    Message,
    Read,
    Ready,
    Run,
    Withdraw,
    read_message,
    write_message,
)
from trafficlight.worker.output import capturing
from trafficlight.worker.plain import plain
from trafficlight.worker.verdicts import verdict_of

# Seconds that tasks which a test left behind have to end, before the process is given up.
_LEFTOVERS = 1.0

# This end runs code of tests.
_send = functools.partial(write_message, plain=True)


class _RemoteLink(CaseLink):
    """The link to the coordinator, over the worker's socket."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._number = 0
        self._closed = False

    def close(self) -> None:
        """End it: what a test left behind must not speak in the name of the next one."""
        self._closed = True

    async def perform(self, role: str, action: str, data: JsonObject) -> JsonObject:
        """Ask the client in a role for one action and return its response, verbatim."""
        response: JsonObject = await self._call("perform", role, action, plain(action, data))
        return response

    async def upload(self, role: str, name: str) -> Path:
        """Return the file that the client in a role uploaded under a name."""
        path: Path = await self._call("upload", role, name)
        return path

    async def operate(self, role: str, operation: ServerOperation) -> None:
        """Do something to the homeserver in a role."""
        await self._call("operate", role, operation)

    def emit(self, event: TestEvent) -> None:
        """Record an event of the attempt."""
        if not self._closed:
            _send(self._writer, Emit(event.as_json()))

    def answered(self, answer: Answer) -> None:
        """Let the call go on that an answer belongs to."""
        waiting = self._calls.pop(answer.number, None)
        if waiting is None or waiting.done():
            return
        if answer.error is not None:
            waiting.set_exception(answer.error)
        else:
            waiting.set_result(answer.value)

    async def _call(self, method: str, *arguments: Any) -> Any:
        if self._closed:
            raise LabError("the case is over")
        self._number += 1
        number = self._number
        waiting = self._calls[number] = asyncio.get_running_loop().create_future()
        try:
            _send(self._writer, Call(number, method, arguments))
            return await waiting
        except asyncio.CancelledError:
            if not self._closed:
                _send(self._writer, Withdraw(number))
            raise
        finally:
            self._calls.pop(number, None)


class _Worker:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._link: _RemoteLink | None = None
        self._running: asyncio.Task[None] | None = None
        self._serving: asyncio.Task[None] | None = None
        self._home = os.getcwd()
        self._pid = os.getpid()
        self._modules = dict(sys.modules)
        self._path = tuple(sys.path)

    def _intact(self) -> bool:
        """Return whether a test file gets what it would get in a new process, as far as can be seen."""
        return all(sys.modules.get(name) is module for name, module in self._modules.items()) and all(
            entry in sys.path for entry in self._path
        )

    def _ending(self) -> bool:
        """Return whether this process ends: a task of the test has raised SystemExit."""
        return self._serving is not None and self._serving.cancelling() > 0

    async def serve(self) -> None:
        """Take messages until the coordinator is gone."""
        self._serving = asyncio.current_task()
        _send(self._writer, Ready(os.getpid()))
        async with asyncio.TaskGroup() as group:
            while (message := await read_message(self._reader)) is not None:
                self._take(message, group)
            if self._running is not None:
                self._running.cancel()

    def _take(self, message: Message, group: asyncio.TaskGroup) -> None:
        match message:
            case Run():
                self._link = _RemoteLink(self._writer)
                self._running = group.create_task(self._run(message, self._link))
            case CallOff():
                if self._running is not None:
                    self._running.cancel()
            case Answer():
                if self._link is not None:
                    self._link.answered(message)
            case Read():
                group.create_task(self._read(message.asked))
            case Match():
                group.create_task(self._match(message))
            case _:
                raise LabError(f"a worker cannot be sent {message}")

    async def _run(self, run: Run, link: _RemoteLink) -> None:
        verdict: Verdict | None
        known = asyncio.all_tasks()
        try:
            with self._alone():
                load_test_class(run.path, run.class_name)
                assignment: Assignment = pickle.loads(run.assignment)  # noqa: S301
                assignment = replace(assignment, case=unsealed(assignment.case))
            verdict = await execute(assignment, link)
        except asyncio.CancelledError:
            if self._ending():
                raise
            verdict = None
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            verdict = verdict_of(error, "load")
        link.close()
        reusable = await _nothing_left(asyncio.all_tasks() - known) and self._intact()
        _send(self._writer, Done(verdict, reusable))
        await self._writer.drain()

    async def _read(self, asked: FileRequest) -> None:
        try:
            with self._alone():
                *parts, last = portable(read_file(asked))
            for part in parts:
                _send(self._writer, Found(part))
                await self._writer.drain()
            _send(self._writer, Found(last, last=True, spoiled=not self._intact()))
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            problem = TestFileError(asked.file.path, None, f"cannot be read: {verdict_of(error, '').message}")
            failed = Reading(problems=[problem], met={part.text for part in asked.parts})
            _send(self._writer, Found(failed, last=True, spoiled=not self._intact()))

    async def _match(self, asked: Match) -> None:
        try:
            with self._alone():
                load_module(asked.path)
                kind = pickle.loads(asked.kind)  # noqa: S301
                answer = Matched(bool(kind.match(_Registered(asked.registration))))
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            answer = Matched(matches=False, problem=f"raised {type(error).__name__}: {error}")
        _send(self._writer, answer)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Run code of a test file where every test begins, and let no copy of this process come back from it.

        A file that forks while it is imported has us twice, on one socket.
        """
        os.chdir(self._home)  # where the test before may have left it
        try:
            yield
        finally:
            if os.getpid() != self._pid:
                os._exit(0)


@dataclass(frozen=True, slots=True)
class _Registered:
    """What a client type is shown of an adapter."""

    registration: JsonObject


async def _nothing_left(tasks: set[asyncio.Task[Any]]) -> bool:
    """End the tasks that a test left behind; return whether they did end."""
    if not tasks:
        return True
    for task in tasks:
        task.cancel()
    _, left = await asyncio.wait(tasks, timeout=_LEFTOVERS)
    return not left


def _dump_stacks(_signal: int, frame: FrameType | None) -> None:
    """Write the stack of every task and thread to standard error: something does not end."""
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
    """Give a line for every coroutine that a suspended one waits for."""
    while waiting is not None:
        frame = getattr(waiting, "cr_frame", None) or getattr(waiting, "gi_frame", None)
        if frame is not None:
            yield f"  {frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}\n"
        waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "gi_yieldfrom", None)


def main(fd: int, memory: int) -> None:
    """Serve assignments on an inherited socket.

    :param fd: its file descriptor.
    :param memory: bytes of data that this process may have; 0 for no limit.
    """
    # An operator's Ctrl-C is the coordinator's to handle: it calls the attempts off.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, _dump_stacks)
    faulthandler.enable(2)
    if memory:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    # Everything goes to the log of its case; warnings also to this process's own output.
    logging.basicConfig(level=logging.DEBUG, stream=sys.__stderr__)
    logging.getLogger().handlers[0].setLevel(logging.WARNING)
    asyncio.run(_main(fd))


async def _main(fd: int) -> None:
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=fd))
    with capturing():
        await _Worker(reader, writer).serve()
    writer.close()
