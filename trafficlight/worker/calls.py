"""What a test asks of its roles: finds what was never awaited, and errors of the lab that the test caught."""

import asyncio
import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from trafficlight.clock import Deadline
from trafficlight.errors import ActionError, LabError
from trafficlight.protocol import JsonObject
from trafficlight.results.events import State
from trafficlight.suites.model import Case
from trafficlight.text import MESSAGE_LIMIT, truncate
from trafficlight.worker.assignment import CaseLink, Verdict
from trafficlight.worker.verdicts import verdict_of

# How the names of actions begin that wait for something to become true.
_EXPECTATIONS = ("verify", "wait")
# Coroutines after which those that have started are forgotten.
_MANY = 1000


class Calls:
    """The link of one attempt, and the coroutines that its test created.

    :param deadline: the deadline of the case.
    """

    def __init__(self, case: Case, link: CaseLink, deadline: Deadline) -> None:
        self._case = case
        self._link = link
        self._deadline = deadline
        self._created: list[tuple[Coroutine[Any, Any, Any], str, str]] = []
        self._lab_error: LabError | None = None
        self._cut: list[tuple[str, str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)

    async def perform(self, role: str, action: str, data: JsonObject) -> JsonObject:
        """Ask the client in a role for one action and return its response, verbatim."""
        try:
            return await self._link.perform(role, action, data)
        except LabError as error:
            self._lab_error = self._lab_error or error
            raise
        except asyncio.CancelledError:
            if self._deadline.expired:
                self._cut.append((role, action))
            raise

    def watch(self, owner: object, name: str) -> None:
        """Note every coroutine that an async method of an object returns from now on.

        :param name: how messages call the object.
        """
        members: dict[str, object] = {}
        for base in reversed(type(owner).__mro__):
            members.update(vars(base))
        for attribute, member in members.items():
            if not attribute.startswith("__") and inspect.iscoroutinefunction(member):
                with contextlib.suppress(AttributeError):  # a class with slots
                    setattr(owner, attribute, self._watched(getattr(owner, attribute), f"{name}.{attribute}"))

    def _watched(self, method: Callable[..., Any], name: str) -> Callable[..., Any]:
        @functools.wraps(method)
        def create(*args: Any, **kwargs: Any) -> Any:
            coroutine = method(*args, **kwargs)
            if len(self._created) >= _MANY:
                self._created = [one for one in self._created if _is_unstarted(one[0])]
            # The strong reference keeps one that was dropped until the verdict.
            self._created.append((coroutine, name, self._place()))
            return coroutine

        return create

    def _place(self) -> str:
        """Return the line of the test that runs now; of the caller if the test is not on the stack."""
        test = str(self._case.path)
        caller = sys._getframe(2)
        frame = caller
        while frame.f_back is not None and frame.f_code.co_filename != test:
            frame = frame.f_back
        if frame.f_code.co_filename != test:
            return f"{Path(caller.f_code.co_filename).name}:{caller.f_lineno}"
        return f"{self._case.file}:{frame.f_lineno}"

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

    def awaited(self, verdict: Verdict) -> Verdict:
        """Return the verdict: an error if the test never awaited one of the coroutines."""
        tasks = {task.get_coro(): task for task in asyncio.all_tasks()}
        forgotten = []
        for coroutine, name, place in self._created:
            task = tasks.get(coroutine)
            if _is_unstarted(coroutine) and not (task is not None and task.cancelling()):
                forgotten.append(f"{name}() was never awaited ({place})")
                if task is None:
                    coroutine.close()
        if not forgotten:
            return verdict
        message = "; ".join(forgotten)
        if verdict.state is not State.SUCCESS:
            message += f"; then {verdict.state}: {verdict.message}"
        return Verdict(State.ERROR, truncate(message, MESSAGE_LIMIT), verdict.traceback, verdict.phase)


def _is_unstarted(coroutine: Coroutine[Any, Any, Any]) -> bool:
    return inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED
