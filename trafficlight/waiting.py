"""Waiting for a condition, with an answer to why it did not come true."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from trafficlight.errors import LabError, UnsupportedError

__all__ = ["eventually"]

_FIRST_PAUSE = 0.01
_LONGEST_PAUSE = 0.25


async def eventually(condition: Callable[[], Any], timeout: float) -> Any:
    """Wait until a condition holds, and return what it returned; it is tried at least once.

    :param condition: a function, plain or async, whose result is true once it holds.
    :param timeout: seconds.
    :raises AssertionError: it did not hold in time; says what it returned or raised last.
    :raises LabError: the condition raised it; waiting longer would not help.
    :raises UnsupportedError: likewise.
    """
    last, raised = "it never came to an end", None
    pause = _FIRST_PAUSE
    try:
        async with asyncio.timeout(max(timeout, _FIRST_PAUSE)) as scope:
            while True:
                try:
                    value = condition()
                    if inspect.isawaitable(value):
                        value = await value
                except (LabError, UnsupportedError):
                    raise
                except Exception as error:  # noqa: BLE001 - raised when time is up
                    last, raised = f"it raised {type(error).__name__}: {error}", error
                else:
                    if value:
                        return value
                    last, raised = f"it returned {value!r}", None
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, _LONGEST_PAUSE)
    except TimeoutError:
        if not scope.expired():
            raise
        shown = getattr(condition, "__name__", None) or repr(condition)
        raise AssertionError(f"{shown} did not hold within {timeout:g} s; at the last try {last}") from raised
