"""What a test started and did not await: coroutines that never ran, and errors that it never saw."""

import asyncio
import functools
import gc
import inspect
import sys
import sysconfig
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CoroutineType
from typing import Any, ClassVar, TypeAlias

from trafficlight.clients import Client, HomeServer
from trafficlight.errors import RemoteError
from trafficlight.suites.model import Case
from trafficlight.test import Test

_Coroutine: TypeAlias = "CoroutineType[Any, Any, Any]"
_sleep = asyncio.sleep  # tests replace it
# Callers that Python keeps for each coroutine: more than helpers of a test are deep in a library.
_CALLERS = 5


class Strays:
    """Finds what the test of a case left behind.

    :ivar forgotten: the coroutines that never ran, with the lines that created them.
    :ivar errors: the exceptions that were raised where the test did not see them: in tasks that it did not
        await, in callbacks and in threads.
    """

    #: Those at work in this process: several if cases run in one loop, where nothing says whose a task is.
    _watching: ClassVar[list["Strays"]] = []

    def __init__(self, case: Case) -> None:
        self._case = case
        self._alone = True
        self.forgotten: list[str] = []
        self.errors: list[BaseException] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Find what is left behind in the body, unless other cases run in this process meanwhile."""
        self._watching.append(self)
        try:
            if len(self._watching) > 1:
                for one in self._watching:
                    one._alone = False
                yield
            else:
                with self._hooked():
                    yield
        finally:
            self._watching.remove(self)

    @contextmanager
    def _hooked(self) -> Iterator[None]:
        depth = sys.get_coroutine_origin_tracking_depth()
        sys.set_coroutine_origin_tracking_depth(max(depth, _CALLERS))
        loop, in_threads = asyncio.get_running_loop(), threading.excepthook
        in_loop = loop.get_exception_handler()
        # The public way, `showwarning`, gets a text and not the coroutine.
        dropped = getattr(warnings, "_warn_unawaited_coroutine", None)

        def on_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            if self._add(context.get("exception")):
                return
            if in_loop is not None:
                in_loop(loop, context)
            else:
                loop.default_exception_handler(context)

        def on_thread(arguments: threading.ExceptHookArgs) -> None:
            if not self._add(arguments.exc_value):
                in_threads(arguments)

        def on_dropped(coroutine: _Coroutine) -> None:
            if not self._forget(coroutine) and dropped is not None:
                dropped(coroutine)

        loop.set_exception_handler(on_error)
        threading.excepthook = on_thread
        if dropped is not None:
            setattr(warnings, "_warn_unawaited_coroutine", on_dropped)  # noqa: B010
        try:
            yield
        finally:
            sys.set_coroutine_origin_tracking_depth(depth)
            loop.set_exception_handler(in_loop)
            threading.excepthook = in_threads
            if dropped is not None:
                setattr(warnings, "_warn_unawaited_coroutine", dropped)  # noqa: B010

    def find_coroutines(self) -> None:
        """Look for coroutines that are still referenced, and for tasks that have not begun."""
        tasks = {task.get_coro(): task for task in asyncio.all_tasks()}
        for one in gc.get_objects() if self._alone else ():
            # Not isinstance: it would ask proxies, some of which are dead.
            if type(one) is CoroutineType and inspect.getcoroutinestate(one) == inspect.CORO_CREATED:
                task = tasks.get(one)
                if not (task is not None and task.cancelling()) and self._forget(one):
                    one.close() if task is None else task.cancel()

    async def find_errors(self) -> None:
        """Look for tasks whose errors nothing has asked for."""
        await _sleep(0)  # callbacks of those that have ended
        loop = asyncio.get_running_loop()
        for one in gc.get_objects() if self._alone else ():
            if issubclass(type(one), asyncio.Future) and one.get_loop() is loop and _was_never_seen(one):
                self._add(one.exception())  # from now on it has been seen

    def _add(self, error: BaseException | None) -> bool:
        """Note an exception; return whether it is one of the test."""
        concerns = isinstance(error, AssertionError | RemoteError | SystemExit | KeyboardInterrupt) or (
            error is not None and any(is_test_code(file) for file in _files(error))
        )
        if error is None or not concerns or not self._alone:
            return False
        if error not in self.errors:
            self.errors.append(error)
        return True

    def _forget(self, coroutine: _Coroutine) -> bool:
        """Note a coroutine that never ran; return whether code of a test created it."""
        origin = coroutine.cr_origin or ()
        places = [(file, line) for file, line, _ in origin if is_test_code(file)]
        if not places or not self._alone:
            return False
        test = str(self._case.path)
        file, line = next((place for place in places if place[0] == test), places[0])
        shown = self._case.file if file == test else Path(file).name
        self.forgotten.append(f"{_name(coroutine)}() was never awaited ({shown}:{line})")
        return True


def _was_never_seen(future: "asyncio.Future[Any]") -> bool:
    """Return whether a future ended with an exception that nothing has asked for."""
    return future.done() and bool(getattr(future, "_log_traceback", False))


def _files(error: BaseException) -> Iterator[str]:
    """Yield the files that an exception went through."""
    traceback = error.__traceback__
    while traceback is not None:
        yield traceback.tb_frame.f_code.co_filename
        traceback = traceback.tb_next


def _name(coroutine: _Coroutine) -> str:
    """Return how a test calls the function of a coroutine."""
    function: str = coroutine.__qualname__.rpartition("<locals>.")[2]
    frame = coroutine.cr_frame
    match frame.f_locals.get("self") if frame is not None else None:
        case Client(name=name) | HomeServer(name=name):
            return f"{name}.{coroutine.__name__}"
        case Test():
            return f"self.{coroutine.__name__}"
        case _:
            return function


@functools.cache
def is_test_code(file: str) -> bool:
    """Return whether a file is part of a test, and not of Python, an installed library or this package."""
    if file.startswith("<"):
        return False
    path = Path(file)
    if path.is_relative_to(_SUITES):
        return True
    return _INSTALLED.isdisjoint(path.parts) and not any(path.is_relative_to(folder) for folder in _LIBRARIES)


_PACKAGE = Path(__file__).parents[1]
_SUITES = _PACKAGE / "tests"
_LIBRARIES = (_PACKAGE, *(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")))
# Folders of installed packages, in an environment, of the user and of the system.
_INSTALLED = frozenset({"site-packages", "dist-packages"})
