"""What an exception that ended a test means."""

import asyncio
import traceback as tracebacks
from pathlib import Path

from trafficlight.errors import ActionError, LabError, Skipped, UnsupportedError
from trafficlight.results.events import State
from trafficlight.worker.assignment import Verdict

_HERE = str(Path(__file__).parent)


def verdict_of(error: BaseException, phase: str) -> Verdict:
    """Return the verdict that an exception means.

    An assertion or a client's failed action is a failure; a skip is a skip; everything else is an error: of
    the lab, or of the test itself.
    """
    if isinstance(error, MemoryError):
        # What filled the memory is still held by the frames of the test, and telling of it takes memory.
        tracebacks.clear_frames(error.__traceback__)
    leaf = _decisive(error)
    return Verdict(_state_of(leaf), _message_of(leaf), _traceback_of(error), phase)


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for part in error.exceptions for leaf in _leaves(part)]
    return [error]


def _decisive(error: BaseException) -> BaseException:
    """Return the exception of a group that decides: what the lab did wrong hides what the test found."""
    weight = {State.SKIPPED: 0, State.FAILURE: 1, State.ERROR: 2}
    return max(_leaves(error), key=lambda leaf: weight[_state_of(leaf)])


def _state_of(error: BaseException) -> State:
    if isinstance(error, Skipped | UnsupportedError):
        return State.SKIPPED
    if isinstance(error, AssertionError | ActionError):
        return State.FAILURE
    return State.ERROR


def _message_of(error: BaseException) -> str:
    if isinstance(error, Skipped):
        return error.reason
    try:
        text = str(error).strip()
    except Exception as unspeakable:  # its own __str__ is broken
        return f"{type(error).__name__}, whose message cannot be read: {type(unspeakable).__name__}"
    if isinstance(error, AssertionError):
        return text or f"assertion failed: {_source_of(error)}"
    if isinstance(error, ActionError | LabError | UnsupportedError):
        return text or type(error).__name__
    if isinstance(error, asyncio.CancelledError):
        return "the test was cancelled from within"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _source_of(error: BaseException) -> str:
    frames = tracebacks.extract_tb(error.__traceback__)
    return (frames[-1].line or "").strip() if frames else ""


def _traceback_of(error: BaseException) -> str:
    if isinstance(error, Skipped):
        return ""
    shown = tracebacks.TracebackException.from_exception(error)
    _forget_own_frames(shown)
    return "".join(shown.format())


def _forget_own_frames(shown: tracebacks.TracebackException) -> None:
    """Take the frames of the worker off the top: they are the same for every test, and never its fault."""
    while len(shown.stack) > 1 and shown.stack[0].filename.startswith((_HERE, asyncio.__path__[0])):
        del shown.stack[0]
    for part in shown.exceptions or ():
        _forget_own_frames(part)
