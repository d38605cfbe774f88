"""Injected time, and helpers for waiting in the event loop.

Deadlines use the monotonic clock and timestamps are UTC; the two never mix. Code that waits asks a clock for
a callback, so that the tests' manual clock also ends waits and deadlines.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

# Items that `cooperative` yields in one turn of the loop: a few milliseconds of bookkeeping for cases.
_ITEMS_PER_TURN = 50


class Timer(Protocol):
    """A scheduled callback."""

    def cancel(self) -> None:
        """Cancel the callback. Idempotent."""
        ...


class Clock(Protocol):
    """A source of time."""

    def monotonic(self) -> float:
        """Return seconds on a clock that never goes back; only differences are meaningful."""
        ...

    def now(self) -> datetime:
        """Return the wall-clock time, timezone-aware, in UTC."""
        ...

    def call_later(self, seconds: float, callback: Callable[..., object], *arguments: Any) -> Timer:
        """Schedule a callback in the running loop, in seconds on the monotonic clock."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Suspend the task for a number of seconds."""
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = self.call_later(seconds, release, over)
        try:
            await over
        finally:
            timer.cancel()

    @contextlib.asynccontextmanager
    async def timeout(self, seconds: float) -> AsyncIterator[asyncio.Timeout]:
        """Cancel the body after a number of seconds, as :func:`asyncio.timeout` does.

        :raises TimeoutError: the time is up.
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
        """Return :func:`time.monotonic`."""
        return time.monotonic()

    def now(self) -> datetime:
        """Return the wall-clock time, timezone-aware, in UTC."""
        return datetime.now(UTC)

    def call_later(self, seconds: float, callback: Callable[..., object], *arguments: Any) -> Timer:
        """Schedule a callback with the loop's own timers."""
        return asyncio.get_running_loop().call_later(seconds, callback, *arguments)


class Deadline:
    """A point in time on the monotonic clock.

    :param seconds: from now.
    """

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._at = clock.monotonic() + seconds

    @property
    def remaining(self) -> float:
        """Seconds that are left; 0 once it has expired."""
        return max(0.0, self._at - self._clock.monotonic())

    @property
    def expired(self) -> bool:
        """Whether it has passed."""
        return self.remaining <= 0


async def race(*contenders: Coroutine[Any, Any, T]) -> T:
    """Return the result of the first coroutine to finish, or raise its exception.

    The others are cancelled, and have ended when this returns. If several finish in one turn of the loop, the
    earliest argument wins.
    """
    tasks = [asyncio.ensure_future(contender) for contender in contenders]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task.done()).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def cooperative(items: Iterable[T]) -> AsyncIterator[T]:
    """Iterate, yielding to the event loop every 50 items."""
    for number, item in enumerate(items, 1):
        if number % _ITEMS_PER_TURN == 0:
            await asyncio.sleep(0)
        yield item


def release(waiting: "asyncio.Future[None]") -> None:
    """Resolve a future unless it is already done."""
    if not waiting.done():  # it may have been cancelled in this turn of the loop
        waiting.set_result(None)


def _expire(limit: asyncio.Timeout) -> None:
    limit.reschedule(asyncio.get_running_loop().time())
