"""Time as an argument, so that tests can turn it by hand.

Deadlines are measured on the monotonic clock, timestamps are UTC; the two never mix. Whoever waits for time
to pass asks a clock to call back: then a clock that is turned by hand ends waits and deadlines, too.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any, Protocol


class Timer(Protocol):
    """A call that is to come."""

    def cancel(self) -> None:
        """Let it not come. Idempotent."""
        ...


class Clock(Protocol):
    """What the lab asks about time."""

    def monotonic(self) -> float:
        """Return seconds on a clock that never goes back; only differences mean anything."""
        ...

    def now(self) -> datetime:
        """Return the wall-clock time, aware, in UTC."""
        ...

    def call_later(self, seconds: float, callback: Callable[..., object], *arguments: Any) -> Timer:
        """Call back in the running loop when so many seconds have gone on the monotonic clock."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return when so many seconds have gone."""
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = self.call_later(seconds, release, over)
        try:
            await over
        finally:
            timer.cancel()

    @contextlib.asynccontextmanager
    async def timeout(self, seconds: float) -> AsyncIterator[asyncio.Timeout]:
        """Cancel what runs inside when so many seconds have gone, as :func:`asyncio.timeout` does.

        :raises TimeoutError: they have.
        """
        async with asyncio.timeout(None) as limit:
            timer = self.call_later(seconds, _expire, limit)
            try:
                yield limit
            finally:
                timer.cancel()


class SystemClock(Clock):
    """The real clock."""

    def monotonic(self) -> float:
        """Return seconds on a clock that never goes back; only differences mean anything."""
        return time.monotonic()

    def now(self) -> datetime:
        """Return the wall-clock time, aware, in UTC."""
        return datetime.now(UTC)

    def call_later(self, seconds: float, callback: Callable[..., object], *arguments: Any) -> Timer:
        """Call back in the running loop when so many seconds have gone on the monotonic clock."""
        return asyncio.get_running_loop().call_later(seconds, callback, *arguments)


def release(waiting: "asyncio.Future[None]") -> None:
    """Let those go on who await a future. Idempotent."""
    if not waiting.done():  # it may have been cancelled in this very turn of the loop
        waiting.set_result(None)


def _expire(limit: asyncio.Timeout) -> None:
    limit.reschedule(asyncio.get_running_loop().time())
