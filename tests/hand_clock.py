"""A clock that is turned by hand: no test waits for time to pass."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from trafficlight.clock import Clock

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
# Turns of the loop after which everything has happened that a moment sets off.
_TURNS = 10


class HandTimer:
    """A call that comes when the clock is turned far enough."""

    def __init__(self, due: float, call: Callable[[], object]) -> None:
        self.due = due
        self.call = call
        self.over = False

    def cancel(self) -> None:
        self.over = True


class HandClock(Clock):
    """Stands still until it is turned."""

    def __init__(self, elapsed: float = 0.0) -> None:
        self.elapsed = elapsed
        self._timers: list[HandTimer] = []

    def monotonic(self) -> float:
        return self.elapsed

    def now(self) -> datetime:
        return NOON + timedelta(seconds=self.elapsed)

    def call_later(self, seconds: float, callback: Callable[..., object], *arguments: Any) -> HandTimer:
        timer = HandTimer(self.elapsed + seconds, lambda: callback(*arguments))
        self._timers.append(timer)
        return timer

    @property
    def next(self) -> float | None:
        """Seconds until the next call that is to come; None where there is none."""
        self._timers = [timer for timer in self._timers if not timer.over]
        return (
            min((timer.due for timer in self._timers), default=0.0) - self.elapsed if self._timers else None
        )

    async def turn(self, seconds: float) -> None:
        """Let time go on, stopping at every call that is due, until all that follows from it has happened."""
        await settled()
        end = self.elapsed + seconds
        while (left := self.next) is not None and self.elapsed + left <= end:
            self.elapsed += max(0.0, left)
            for timer in [one for one in self._timers if not one.over and one.due <= self.elapsed]:
                timer.over = True
                timer.call()
            await settled()
        self.elapsed = end


async def settled() -> None:
    """Return when everything that can run now has run."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)
