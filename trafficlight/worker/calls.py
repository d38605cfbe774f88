"""What a test asks of its clients: finds what it did not wait for, and errors of the lab that it caught."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from types import FrameType
from typing import Any

from trafficlight.clock import Clock, Deadline
from trafficlight.errors import ActionError, LabError
from trafficlight.protocol import JsonObject
from trafficlight.results.events import State, StepBegan, StepEnded, TestEvent
from trafficlight.suites.model import Case
from trafficlight.text import MESSAGE_LIMIT, single_line, truncate
from trafficlight.worker.assignment import CaseLink, Verdict
from trafficlight.worker.verdicts import verdict_of

# How the names of actions begin that wait for something to become true.
_EXPECTATIONS = ("verify", "wait")


class Calls:
    """The link of one attempt, and what its test asks for over it.

    :param deadline: the deadline of the case.
    :param emit: records what the test does besides.
    """

    def __init__(
        self,
        link: CaseLink,
        deadline: Deadline,
        clock: Clock,
        emit: Callable[[TestEvent], None],
        case: Case,
    ) -> None:
        self._link = link
        self._deadline = deadline
        self._clock = clock
        self._emit = emit
        self._case = case
        self._main = asyncio.current_task()
        self._numbers = count(1)
        self._running: dict[object, tuple[asyncio.Task[Any], str, str]] = {}
        self._lab_error: LabError | None = None
        self._cut: list[tuple[str, str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)

    async def perform(self, role: str, action: str, data: JsonObject, where: str = "") -> JsonObject:
        """Ask the client in a role for one action and return its response, verbatim."""
        task, number = asyncio.current_task(), object()
        assert task is not None
        self._running[number] = task, role, action
        try:
            return await self._link.perform(role, action, data, self._where(sys._getframe()))
        except LabError as error:
            self._lab_error = self._lab_error or error
            raise
        except asyncio.CancelledError:
            if self._deadline.expired:
                self._cut.append((role, action))
            raise
        finally:
            del self._running[number]

    @contextmanager
    def step(self, name: str, role: str | None = None) -> Iterator[None]:
        """Record what the test does in a context, for the homeserver in a role or by itself."""
        id, name = str(next(self._numbers)), single_line(str(name))
        began, problem = self._clock.monotonic(), ""
        self._emit(StepBegan(role=role, id=id, name=name, where=self._where(sys._getframe())))
        try:
            yield
        except BaseException as error:
            problem = single_line(verdict_of(error, "").message)
            raise
        finally:
            seconds = self._clock.monotonic() - began
            self._emit(StepEnded(role=role, id=id, name=name, seconds=seconds, problem=problem))

    def _where(self, frame: FrameType | None) -> str:
        """Return the file and the line of the test that runs, or that awaits what runs; empty if unknown."""
        file = str(self._case.path)
        while frame is not None and frame.f_code.co_filename != file:
            frame = frame.f_back
        line = frame.f_lineno if frame is not None else None
        # A task of `asyncio.gather`, for instance, is awaited by the test, which is not on the stack.
        waiting: Any = self._main.get_coro() if self._main is not None and line is None else None
        while waiting is not None:
            inner: FrameType | None = getattr(waiting, "cr_frame", None)
            if inner is not None and inner.f_code.co_filename == file:
                line = inner.f_lineno
            waiting = getattr(waiting, "cr_await", None)
        return f"{self._case.file}:{line}" if line is not None else ""

    def expectation_cut(self, seconds: float) -> ActionError | None:
        """Return the error of a client that was waiting for something at the deadline of the case.

        :return: None if the test waited for anything else.
        """
        if not self._cut or not all(action.startswith(_EXPECTATIONS) for _, action in self._cut):
            return None
        role, action = self._cut[0]
        return ActionError(f"not true within {seconds:g} s, the case's deadline", role=role, action=action)

    def uncaught(self, verdict: Verdict) -> Verdict:
        """Return the verdict, in which an error of the lab counts even if the test caught it."""
        if self._lab_error is None or verdict.state is State.ERROR:
            return verdict
        return verdict_of(self._lab_error, verdict.phase)

    def in_flight(self, verdict: Verdict) -> Verdict:
        """Return the verdict: an error if the test has ended while clients perform what it asked for."""
        running = [
            f"{role}.{action}()" for task, role, action in self._running.values() if not task.cancelling()
        ]
        if verdict.state is not State.SUCCESS or not running:
            return verdict
        message = f"the test ended without waiting for {', '.join(running)}"
        return Verdict(State.ERROR, truncate(message, MESSAGE_LIMIT))
