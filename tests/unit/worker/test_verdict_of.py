"""What cannot be shown of an exception costs only that, not the verdict."""

import traceback

import pytest

from trafficlight.results.events import State
from trafficlight.worker.verdicts import verdict_of


def test_a_group_may_be_nested_deeper_than_functions() -> None:
    error: Exception = AssertionError("leaf")
    for _ in range(3000):
        error = ExceptionGroup("group", [error])
    verdict = verdict_of(error, "run")
    assert (verdict.state, verdict.message) == (State.FAILURE, "leaf")
    assert verdict.traceback == "The traceback cannot be shown: RecursionError\n"


def test_a_traceback_for_which_there_is_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object, **__: object) -> object:
        raise MemoryError

    monkeypatch.setattr(traceback.TracebackException, "format", no_memory)
    verdict = verdict_of(AssertionError("long"), "run")
    assert (verdict.state, verdict.message) == (State.FAILURE, "long")
    assert verdict.traceback == "The traceback cannot be shown: MemoryError\n"
