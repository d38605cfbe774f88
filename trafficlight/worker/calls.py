"""What a test asks of its clients: finds what it did not wait for, and errors of the lab that it caught."""

import asyncio
from typing import Any

from trafficlight.clock import Deadline
from trafficlight.errors import ActionError, LabError
from trafficlight.protocol import JsonObject
from trafficlight.results.events import State
from trafficlight.text import MESSAGE_LIMIT, truncate
from trafficlight.worker.assignment import CaseLink, Verdict
from trafficlight.worker.verdicts import verdict_of

# How the names of actions begin that wait for something to become true.
_EXPECTATIONS = ("verify", "wait")


class Calls:
    """The link of one attempt, and what its test asks for over it.

    :param deadline: the deadline of the case.
    """

    def __init__(self, link: CaseLink, deadline: Deadline) -> None:
        self._link = link
        self._deadline = deadline
        self._running: dict[object, tuple[asyncio.Task[Any], str, str]] = {}
        self._lab_error: LabError | None = None
        self._cut: list[tuple[str, str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)

    async def perform(self, role: str, action: str, data: JsonObject) -> JsonObject:
        """Ask the client in a role for one action and return its response, verbatim."""
        task, number = asyncio.current_task(), object()
        assert task is not None
        self._running[number] = task, role, action
        try:
            return await self._link.perform(role, action, data)
        except LabError as error:
            self._lab_error = self._lab_error or error
            raise
        except asyncio.CancelledError:
            if self._deadline.expired:
                self._cut.append((role, action))
            raise
        finally:
            del self._running[number]

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
