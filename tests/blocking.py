"""Detects blocking calls on the event loop: a slow file system must not stall every poll."""

import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from blockbuster import BlockBuster, BlockingError
from blockbuster import blockbuster as implementation

import trafficlight

__all__ = ["detected"]

_PACKAGE = str(Path(trafficlight.__file__).parent) + os.sep
_TESTS = str(Path(__file__).parent) + os.sep
# Not scanned: code that runs in test processes (in the loop only with `--workers 0`), and adapters, which are
# programs with loops of their own.
_OTHER_PROCESSES = [
    "trafficlight.adapters",
    "trafficlight.clients",
    "trafficlight.suites",
    "trafficlight.test",
    "trafficlight.tests",
    "trafficlight.worker",
]
_ALLOWED = {
    "logging/__init__.py": {"emit"},  # the program's own log, on standard error
    "reports/presentation.py": {"render"},  # templates of the installed package, which are cached
    "http/app.py": {"_bare"},  # at start-up, before the first request
    "homeservers/registry.py": {"build_providers"},  # likewise
    "docker/engine.py": {"_client"},  # imports an optional library, once
    "worker/execution.py": {"_create_folder", "attach"},  # for the test, in the loop only with `--workers 0`
    "results/writer.py": {"__call__"},  # one append: an event is in its log before anyone learns of it
    "docker/api.py": {"_pid_namespace", "_started"},  # /proc is not a disk
    "workers/pool.py": {"__init__", "__aexit__"},  # a temporary folder, once
}


@contextmanager
def detected() -> Iterator[list[str]]:
    """Raise where the package blocks a running event loop, and collect the stacks.

    They are collected because code that logs exceptions and continues must not hide a blocking call.
    """
    found: list[str] = []

    class RecordedError(BlockingError):
        def __init__(self, function: str) -> None:
            super().__init__(function)
            frames = [frame for frame in traceback.extract_stack() if frame.filename.startswith(_PACKAGE)]
            found.append(f"{function}:\n{''.join(traceback.format_list(frames[-4:]))}")

    detector = BlockBuster("trafficlight", excluded_modules=_OTHER_PROCESSES)
    for function in detector.functions.values():
        function.can_block_predicate = _or_by_test(function.can_block_predicate)
        for file, names in _ALLOWED.items():
            function.can_block_in(file, names)
    implementation.BlockingError = RecordedError  # type: ignore[assignment,misc]
    detector.activate()
    try:
        yield found
    finally:
        detector.deactivate()
        implementation.BlockingError = BlockingError  # type: ignore[misc]


def _or_by_test(predicate: Callable[..., bool]) -> Callable[..., bool]:
    def allowed(*args: Any, **kwargs: Any) -> bool:
        return predicate(*args, **kwargs) or _by_test(sys._getframe(1))

    return allowed


def _by_test(frame: FrameType | None) -> bool:
    """Return whether a test itself blocks: in its own code, or in a plain function that it calls."""
    outermost = None
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_TESTS) and file != __file__:
            return outermost is None or not outermost.f_code.co_flags & inspect.CO_COROUTINE
        if file.startswith(_PACKAGE):
            outermost = frame
        frame = frame.f_back
    return False
