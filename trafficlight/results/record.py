"""A session with its cases and their attempts, as its events describe them.

Pages, JUnit, ``report.json`` and ``report.html`` read these records only.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import Any

from trafficlight.results.case import CaseRecord, Outcome
from trafficlight.results.events import (
    FINAL,
    AdapterLeased,
    AdapterRegistered,
    CasePlanned,
    Event,
    Problem,
    SessionEnded,
    SessionStarted,
    SessionStopped,
    State,
)
from trafficlight.suites.case_ids import encode_file
from trafficlight.text import count

_MOST_ADAPTERS = 1_000  # adapters register again for each case; the oldest are dropped


@dataclass(slots=True)
class SessionRecord:
    """One session and its cases, built event by event.

    :param cases: by id, in the order in which they were planned.
    :param stopped: why no more of its cases start; empty while they do.
    :param cancelled: whether a user stopped it.
    :param warnings: what of the request or the settings has no effect.
    :param strict: whether unsupported cases and warnings make the exit code 3.
    :param commit: that of the repository of the tests; empty if unknown.
    :param dirty: whether files of that repository had changes that were not committed.
    :param job: the link of the CI job; empty outside of one.
    :param merged: the sessions of the shards that it was merged from, each with the time of its start.
    :param adapter_types: how many adapters registered, by type and version.
    """

    id: str = ""
    started: datetime | None = None
    ended: datetime | None = None
    versions: dict[str, Any] = field(default_factory=dict)
    configuration: dict[str, Any] = field(default_factory=dict)
    command: str = ""
    host: str = ""
    user: str = ""
    seed: int | None = None
    planned: int = 0
    warnings: tuple[str, ...] = ()
    strict: bool = False
    commit: str = ""
    dirty: bool = False
    job: str = ""
    merged: tuple[tuple[str, datetime], ...] = ()
    problems: list[Problem] = field(default_factory=list)
    cases: dict[str, CaseRecord] = field(default_factory=dict)
    adapter_types: Counter[tuple[str, str]] = field(default_factory=Counter)
    exit_code: int | None = None
    interrupted: bool = False
    incomplete: str = ""
    stopped: str = ""
    cancelled: bool = False
    last_sequence: int = 0
    last_time: datetime | None = None
    _adapters: dict[str, None] = field(default_factory=dict)

    @classmethod
    def replay(cls, events: Iterable[Event]) -> "SessionRecord":
        """Build the record of a session from its events."""
        record = cls()
        for event in events:
            record.apply(event)
        return record

    @property
    def revision(self) -> str:
        """The commit of the tests as `git describe` abbreviates it, with ``-dirty``; empty if unknown."""
        short = ", ".join(one[:12] for one in self.commit.split(", "))
        return f"{short}-dirty" if self.dirty else short

    @property
    def counts(self) -> dict[State, int]:
        """The number of cases in each state, zeros included."""
        # A copy at once: a thread may count while cases are still being planned.
        counted = Counter(case.state for case in list(self.cases.values()))
        return {state: counted[state] for state in State}

    @property
    def outcomes(self) -> dict[Outcome, int]:
        """The number of cases of each outcome, zeros included."""
        counted = Counter(case.outcome for case in list(self.cases.values()))
        return {outcome: counted[outcome] for outcome in Outcome}

    @property
    def reductions(self) -> list[str]:
        """Why a strict session does not succeed, in numbers; empty if it does."""
        unsupported = sum(case.skip_type == "unsupported" for case in list(self.cases.values()))
        unexpected = self.outcomes[Outcome.UNEXPECTED_SUCCESS]
        numbers = (
            (unsupported, "unsupported case"),
            (len(self.warnings), "warning"),
            (unexpected, "unexpectedly successful case"),
        )
        return [count(number, what) for number, what in numbers if number]

    @property
    def problem_files(self) -> list[str]:
        """The test files with problems, as in case ids."""
        return sorted({encode_file(problem.file) for problem in list(self.problems)})

    @property
    def undecided(self) -> int:
        """The number of cases without a verdict, neither of their test nor of its author."""
        outcomes = self.outcomes
        return outcomes[Outcome.NOT_RUN] + outcomes[Outcome.RUNNING]

    @property
    def ran(self) -> bool:
        """Whether any attempt has a verdict."""
        return any(
            attempt.ended is not None and attempt.state is not State.SKIPPED
            for case in self.cases.values()
            for attempt in case.attempts
        )

    @property
    def seconds(self) -> float:
        """Duration, until the last event if it has not ended."""
        end = self.ended or self.last_time
        if end is None or self.started is None:
            return 0.0
        return max(0.0, (end - self.started).total_seconds())  # a clock may be set back

    def apply(self, event: Event, sequence: int | None = None) -> None:
        """Update the record with an event; one of another session, or one applied before, changes nothing.

        :param sequence: its position in the session's log; by default the event's own.
        """
        number = event.sequence if sequence is None else sequence
        if number <= self.last_sequence or (event.session and self.id and event.session != self.id):
            return
        self.last_sequence = number
        self.last_time = event.time
        match event:
            case CasePlanned():
                self.cases[event.case] = CaseRecord.planned(event)
                return
            case SessionStarted():
                self._start(event)
            case SessionStopped():
                self.stopped, self.cancelled = event.reason, event.cancelled
            case SessionEnded():
                self.ended, self.exit_code, self.interrupted = event.time, event.exit_code, event.interrupted
                self.incomplete = event.incomplete
            case Problem():
                self.problems.append(event)
            case AdapterRegistered() | AdapterLeased():
                self._count_adapter(event.adapter, event.registration)
            case _:
                pass
        for case_id in event.case_ids:
            if (case := self.cases.get(case_id)) is not None:
                case.apply(event)
                case.changed = number  # last: who reads it meanwhile, and then the case, reads the case again

    def _start(self, event: SessionStarted) -> None:
        self.id = event.session or self.id
        self.started = event.time
        self.versions, self.configuration = dict(event.versions), dict(event.configuration)
        self.command, self.host, self.user, self.seed = event.command, event.host, event.user, event.seed
        self.warnings, self.strict = event.warnings, event.strict
        self.planned = event.cases
        self.commit, self.dirty, self.job, self.merged = event.commit, event.dirty, event.job, event.merged

    def _count_adapter(self, adapter: str, registration: Mapping[str, Any]) -> None:
        if adapter in self._adapters:
            return
        self._adapters[adapter] = None
        self.adapter_types[str(registration.get("type", "")), str(registration.get("version") or "")] += 1
        if len(self._adapters) > _MOST_ADAPTERS:
            del self._adapters[next(iter(self._adapters))]


class ExitCode(IntEnum):
    """The exit codes of a session."""

    SUCCESS = 0
    FAILURE = 1
    USAGE = 2
    LAB_ERROR = 3
    INTERRUPTED = 130


def exit_code(record: SessionRecord, *, interrupted: bool | None = None) -> ExitCode:
    """Return the exit code of a session.

    Flaky cases, expected failures and unexpected successes count as success. Test files that cannot run and
    cases without a verdict are errors; so are unsupported cases, warnings and unexpected successes in a
    strict session.

    :param interrupted: whether the session was stopped early; taken from the record if None.
    """
    if record.interrupted if interrupted is None else interrupted:
        return ExitCode.INTERRUPTED
    outcomes = record.outcomes
    if outcomes[Outcome.FAILURE]:
        return ExitCode.FAILURE
    if outcomes[Outcome.ERROR] or record.problems or (record.strict and record.reductions):
        return ExitCode.LAB_ERROR
    if not record.ran:
        return ExitCode.USAGE
    if any(case.state not in FINAL for case in record.cases.values()):
        return ExitCode.LAB_ERROR
    return ExitCode.SUCCESS
