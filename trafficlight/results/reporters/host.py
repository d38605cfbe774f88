"""Reporters: plug-ins that tell other systems about a session, and can do it no harm."""

import copy
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol, runtime_checkable

from trafficlight.errors import ConfigError
from trafficlight.results.case import CaseRecord
from trafficlight.results.record import SessionRecord

logger = logging.getLogger(__name__)

GROUP = "trafficlight.reporters"
"""The entry point group in which packages offer reporters."""


@runtime_checkable
class Reporter(Protocol):
    """What a plug-in implements. All calls come from one thread, in order, and may block.

    What they raise is logged. The records are the reporter's own copies: they do not change any more.
    """

    def session_started(self, record: SessionRecord) -> None:
        """Take note that a session starts; what it will run is not known yet."""
        ...

    def case_ended(self, case: CaseRecord) -> None:
        """Take note of a case's verdict; attempts that are followed by another try are none."""
        ...

    def session_ended(self, record: SessionRecord) -> None:
        """Take note that the session is over; `record` has all that is known."""
        ...


class ReporterHost:
    """Runs one reporter in a thread of its own, so that it can neither delay nor break a session.

    :param reporter: the plug-in.
    :param deadline: seconds that it may go on after the session's end; then it is left behind.
    """

    def __init__(self, reporter: Reporter, *, deadline: float = 30.0) -> None:
        self.name = type(reporter).__name__
        self.deadline = deadline
        self.errors = 0
        self._reporter = reporter
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        # A daemon: one that hangs must not keep the process alive.
        self._thread = threading.Thread(target=self._work, name=f"reporter {self.name}", daemon=True)
        self._thread.start()

    def session_started(self, record: SessionRecord) -> None:
        """Pass on that the session starts."""
        own = copy.copy(record)
        own.cases = dict(record.cases)
        self._calls.put(lambda: self._reporter.session_started(own))

    def case_ended(self, case: CaseRecord) -> None:
        """Pass on a verdict."""
        own = copy.copy(case)
        own.attempts = [copy.copy(attempt) for attempt in case.attempts]
        self._calls.put(lambda: self._reporter.case_ended(own))

    def session_ended(self, record: SessionRecord) -> None:
        """Pass on that the session is over; nothing follows."""
        self._calls.put(lambda: self._reporter.session_ended(record))
        self._calls.put(None)

    def stop(self) -> None:
        """Let nothing follow; for sessions that never came to an end."""
        self._calls.put(None)

    def join(self, until: float) -> bool:
        """Wait for it, and return whether it is done.

        :param until: how long, on the clock of :func:`time.monotonic`.
        """
        self._thread.join(max(0.0, until - time.monotonic()))
        if self._thread.is_alive():
            logger.error("reporter %s is not done after %g s: left behind", self.name, self.deadline)
            return False
        return True

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except Exception:
                self.errors += 1
                logger.exception("reporter %s failed", self.name)


def load_reporters(
    configuration: Mapping[str, Mapping[str, Any]], *, available: Sequence[EntryPoint] | None = None
) -> list[Reporter]:
    """Make the reporters that a configuration names.

    :param configuration: for every reporter its options: ``{"webhook": {"url": "http://localhost/hook"}}``.
    :param available: the entry points to choose from; None for those of the installed packages.
    :raises ConfigError: if one is unknown, cannot be imported, or refuses its options.
    """
    known = {point.name: point for point in (entry_points(group=GROUP) if available is None else available)}
    reporters: list[Reporter] = []
    for name, options in configuration.items():
        key = f"REPORTERS.{name}"
        if name not in known:
            raise ConfigError(f"unknown reporter; there are: {', '.join(sorted(known)) or 'none'}", key=key)
        if not isinstance(options, Mapping):
            raise ConfigError("its options must be an object", key=key)
        try:
            reporter = known[name].load()(**options)
        except ImportError as error:
            raise ConfigError(f"cannot be loaded: {error}", key=key) from error
        except (TypeError, ValueError) as error:
            raise ConfigError(f"its options are wrong: {error}", key=key) from error
        if not isinstance(reporter, Reporter):
            raise ConfigError(f"{type(reporter).__name__} lacks a method of Reporter", key=key)
        reporters.append(reporter)
    return reporters
