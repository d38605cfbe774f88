"""Where test code runs."""

from trafficlight.clock import Clock, SystemClock
from trafficlight.worker.assignment import Assignment, CaseLink, Verdict
from trafficlight.worker.execution import execute


class InProcessExecutor:
    """Runs test code in the coordinator's own process and loop: for a debugger, and for quick tests.

    :param clock: tells when an attempt is beyond its deadlines.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()

    async def execute(self, assignment: Assignment, link: CaseLink) -> Verdict:
        """Run an attempt to its end."""
        return await execute(assignment, link, self._clock)
