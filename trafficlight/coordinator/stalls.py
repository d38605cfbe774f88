"""Notices that cases wait and nothing happens."""

import logging
from collections.abc import Callable, Iterable
from datetime import timedelta

from trafficlight.clock import Clock
from trafficlight.text import count, utc_time

logger = logging.getLogger(__name__)

# Seconds without progress before an error is logged; doubled each time.
_STALL_ALARM = 60.0


class StallDetector:
    """Logs an error when cases wait, none runs, and nothing has changed for long."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since: float | None = None
        self._next_alarm = _STALL_ALARM
        #: What was logged last, always in the same words; empty if that is over.
        self.alarm = ""

    @property
    def seconds(self) -> float:
        """For how long cases have been waiting while none ran."""
        return self._clock.monotonic() - self._since if self._since is not None else 0.0

    def observe(self, *, running: int, waiting: int, reasons: Callable[[], Iterable[str]]) -> bool:
        """Take a sample; to be called every second or so.

        :param waiting: how many cases wait that may start.
        :param reasons: returns why they wait; called only if an error is logged.
        :return: whether one is.
        """
        if running or not waiting:
            self._since, self._next_alarm, self.alarm = None, _STALL_ALARM, ""
            return False
        if self._since is None:
            self._since = self._clock.monotonic()
        if self.seconds < self._next_alarm:
            return False
        self._next_alarm = self.seconds * 2
        since = utc_time(self._clock.now() - timedelta(seconds=self.seconds))
        wait = f"{count(waiting, 'case')} wait{'s' * (waiting == 1)}"
        self.alarm = f"no case has run since {since} while {wait}: {'; '.join(sorted(set(reasons())))}"
        logger.error("%s", self.alarm)
        return True
