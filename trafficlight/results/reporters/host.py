"""Reporters: plug-ins that report a session to other systems, isolated from the session."""

import copy
import functools
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

    Exceptions are logged. The records are copies that no longer change.
    """

    def session_started(self, record: SessionRecord) -> None:
        """Report the start of a session; its cases are not known yet."""
        ...

    def case_ended(self, case: CaseRecord) -> None:
        """Report the final verdict of a case; not called for attempts that are retried."""
        ...

    def session_ended(self, record: SessionRecord) -> None:
        """Report the end of the session; `record` is complete."""
        ...


class ReporterHost:
    """Runs one reporter in its own thread, so that it can neither delay nor break a session.

    :param deadline: seconds that it may run after the session's end before it is abandoned.
    """

    def __init__(self, reporter: Reporter, *, deadline: float = 30.0) -> None:
        self.name = type(reporter).__name__
        self.deadline = deadline
        self._reporter = reporter
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        # A daemon thread: a hung reporter must not keep the process alive.
        self._thread = threading.Thread(target=self._work, name=f"reporter {self.name}", daemon=True)
        self._thread.start()

    def session_started(self, record: SessionRecord) -> None:
        """Queue the start of the session."""
        own = copy.copy(record)
        own.cases = dict(record.cases)
        self._calls.put(lambda: self._reporter.session_started(own))

    def case_ended(self, case: CaseRecord) -> None:
        """Queue a verdict."""
        own = copy.copy(case)
        own.attempts = [copy.copy(attempt) for attempt in case.attempts]
        self._calls.put(lambda: self._reporter.case_ended(own))

    def session_ended(self, record: SessionRecord) -> None:
        """Queue the end of the session, and stop after it."""
        self._calls.put(lambda: self._reporter.session_ended(record))
        self._calls.put(None)

    def stop(self) -> None:
        """Stop after what is queued, for sessions that never end."""
        self._calls.put(None)

    def join(self, until: float) -> bool:
        """Wait for the reporter to finish.

        :param until: the deadline, on the clock of :func:`time.monotonic`.
        :return: whether it finished.
        """
        self._thread.join(max(0.0, until - time.monotonic()))
        if self._thread.is_alive():
            logger.error("reporter %s timed out after %g s: abandoned", self.name, self.deadline)
            return False
        return True

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except Exception:
                logger.exception("reporter %s failed", self.name)


def load_reporters(
    configuration: Mapping[str, Mapping[str, Any]], *, available: Sequence[EntryPoint] | None = None
) -> list[Reporter]:
    """Create the configured reporters. Imports them, so call it in a thread.

    :param configuration: the options of each reporter: ``{"webhook": {"url": "http://localhost/hook"}}``.
    :param available: the entry points to choose from; None for those of the installed packages.
    :raises ConfigError: a reporter is unknown, cannot be imported, or rejects its options.
    """
    if not configuration:
        return []
    known = {point.name: point for point in (_installed() if available is None else available)}
    reporters: list[Reporter] = []
    for name, options in configuration.items():
        key = f"REPORTERS.{name}"
        if name not in known:
            raise ConfigError(f"unknown reporter; available: {', '.join(sorted(known)) or 'none'}", key=key)
        if not isinstance(options, Mapping):
            raise ConfigError("the options must be an object", key=key)
        try:
            reporter = known[name].load()(**options)
        except ImportError as error:
            raise ConfigError(f"cannot be imported: {error}", key=key) from error
        except (TypeError, ValueError) as error:
            raise ConfigError(f"invalid options: {error}", key=key) from error
        if not isinstance(reporter, Reporter):
            raise ConfigError(f"{type(reporter).__name__} lacks a method of Reporter", key=key)
        reporters.append(reporter)
    return reporters


@functools.cache
def _installed() -> tuple[EntryPoint, ...]:
    # Reads the metadata of every installed package: once per process.
    return tuple(entry_points(group=GROUP))
