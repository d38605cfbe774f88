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
# Seconds without a question after which the loop has evidently stood still.
_STOPPED = 3.0
# Seconds by which a timer of the loop may be early.
_EARLY = 0.01


class Timer(Protocol):
    """A scheduled callback."""

    def cancel(self) -> None:
        """Cancel the callback. Idempotent."""
        ...


class Clock(Protocol):
    """A source of time.

    :ivar stopped: seconds that do not count, as the event loop stood still.
    """

    stopped: float = 0.0

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


class LoopClock(SystemClock):
    """The real clock, which stands still while the event loop does: no deadline expires then.

    A debugger stops the loop, or a signal, or a machine that is frozen or swaps: what others did in time may
    lie in a socket.

    Something must ask it every second, as the engine does.

    :param real: the monotonic clock.
    """

    def __init__(self, real: Callable[[], float] = time.monotonic) -> None:
        self._real = real
        self._asked = real()

    def monotonic(self) -> float:
        """Return the seconds for which the event loop has not been stopped."""
        now = self._real()
        if now - self._asked > _STOPPED:
            self.stopped += now - self._asked
        self._asked = now
        return now - self.stopped

    def call_later(self, seconds: float, callback: Callable[..., object], *arguments: Any) -> Timer:
        """Schedule a callback, and defer it by the time for which the loop is stopped."""
        return _DeferredTimer(self, seconds, lambda: callback(*arguments))


class _DeferredTimer:
    def __init__(self, clock: Clock, seconds: float, callback: Callable[[], object]) -> None:
        self._clock = clock
        self._due = clock.monotonic() + seconds
        self._callback = callback
        self._handle = asyncio.get_running_loop().call_later(seconds, self._fire)

    def cancel(self) -> None:
        self._handle.cancel()

    def _fire(self) -> None:
        remaining = self._due - self._clock.monotonic()
        if remaining > _EARLY:
            self._handle = asyncio.get_running_loop().call_later(remaining, self._fire)
        else:
            self._callback()


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
        await cancel_all(*tasks)


async def cancel_all(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks and wait until they have ended, however they do."""
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
