"""Notices that cases wait and nothing happens."""

import logging
from collections.abc import Callable, Iterable

from trafficlight.clock import Clock

logger = logging.getLogger(__name__)

# Seconds without progress before an error is logged; doubled each time.
_STALL_ALARM = 60.0


class StallDetector:
    """Logs an error when cases wait, none runs, and nothing has changed for long."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since: float | None = None
        self._next_alarm = _STALL_ALARM

    @property
    def seconds(self) -> float:
        """For how long cases have been waiting while none ran."""
        return self._clock.monotonic() - self._since if self._since is not None else 0.0

    def observe(self, *, running: int, waiting: int, reasons: Callable[[], Iterable[str]]) -> None:
        """Take a sample; to be called every second or so.

        :param waiting: how many cases wait that may start.
        :param reasons: returns why they wait; called only if an error is logged.
        """
        if running or not waiting:
            self._since, self._next_alarm = None, _STALL_ALARM
            return
        if self._since is None:
            self._since = self._clock.monotonic()
        if self.seconds >= self._next_alarm:
            self._next_alarm = self.seconds * 2
            logger.error(
                "no case has run for %.0f s while %d cases wait: %s",
                self.seconds,
                waiting,
                "; ".join(sorted(set(reasons()))),
            )
