"""Notices that cases wait while nothing runs, and says so loudly."""

import logging
from collections.abc import Callable, Iterable

from trafficlight.clock import Clock

logger = logging.getLogger(__name__)

# Seconds of a standstill before it is said aloud; twice as long before it is said again.
_FIRST_ALARM = 60.0


class StallDetector:
    """A lab in which cases wait, nothing runs, and nothing has changed for long.

    :param clock: tells for how long.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since: float | None = None
        self._next_alarm = _FIRST_ALARM

    @property
    def seconds(self) -> float:
        """For how long cases have been waiting while nothing ran."""
        return self._clock.monotonic() - self._since if self._since is not None else 0.0

    def look(self, *, running: int, waiting: int, reasons: Callable[[], Iterable[str]]) -> None:
        """Take in how things stand; to be called every second or so.

        :param running: how many cases run.
        :param waiting: how many wait that may start.
        :param reasons: why they wait; asked only when it is to be said.
        """
        if running or not waiting:
            self._since, self._next_alarm = None, _FIRST_ALARM
            return
        if self._since is None:
            self._since = self._clock.monotonic()
        if self.seconds >= self._next_alarm:
            self._next_alarm = self.seconds * 2
            logger.error(
                "nothing has run for %.0f s while %d cases wait: %s",
                self.seconds,
                waiting,
                "; ".join(sorted(set(reasons()))),
            )
