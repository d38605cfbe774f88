"""Execution of test code in the coordinator's process."""

from typing import Any, cast

from trafficlight.clock import Clock, SystemClock
from trafficlight.protocol import JsonObject
from trafficlight.worker.assignment import Assignment, CaseLink, Verdict
from trafficlight.worker.execution import execute
from trafficlight.worker.messages import ensure_json


class InProcessExecutor:
    """Runs test code in the coordinator's own process and loop: for a debugger, and for quick tests.

    :param clock: measures the deadlines of the attempt.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()

    async def execute(self, assignment: Assignment, link: CaseLink) -> Verdict:
        """Run an attempt to its end."""
        return await execute(assignment, cast("CaseLink", _CheckedLink(link)), self._clock)


class _CheckedLink:
    """A link that sends nothing but JSON, as the socket of a worker does; otherwise the link itself."""

    def __init__(self, link: CaseLink) -> None:
        self._link = link

    async def perform(self, role: str, action: str, data: JsonObject) -> JsonObject:
        return await self._link.perform(role, action, ensure_json(action, data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)
