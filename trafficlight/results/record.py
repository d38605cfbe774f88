"""What the journal says, in a shape that can be shown: a session, its cases, their attempts.

Pages, JUnit, ``report.json`` and ``report.html`` read these records and nothing else.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from trafficlight.results.case import CaseRecord, Outcome
from trafficlight.results.events import Event, EventKind, State

_MOST_ADAPTERS = 1_000  # adapters register anew for every case; the oldest are forgotten


@dataclass(frozen=True, slots=True)
class Problem:
    """A test file or class that cannot run."""

    file: str
    line: int | None
    problem: str
    hint: str = ""


@dataclass(slots=True)
class AdapterRecord:
    """An adapter that the session saw."""

    uuid: str
    registration: Mapping[str, Any]
    registered: datetime | None = None
    case: str | None = None
    role: str | None = None
    lost: str = ""


@dataclass(slots=True)
class SessionRecord:
    """One session and its cases, built event by event.

    :param cases: by id, in the order in which they were planned.
    :param adapters: the latest adapters, by uuid.
    :param stopped: why nothing of it starts any more, where that is so for good.
    :param cancelled: whether that was somebody's wish.
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
    problems: list[Problem] = field(default_factory=list)
    cases: dict[str, CaseRecord] = field(default_factory=dict)
    adapters: dict[str, AdapterRecord] = field(default_factory=dict)
    adapter_types: Counter[tuple[str, str]] = field(default_factory=Counter)
    exit_code: int | None = None
    interrupted: bool = False
    stopped: str = ""
    cancelled: bool = False
    last_sequence: int = 0
    last_time: datetime | None = None

    @classmethod
    def replay(cls, events: Iterable[Event]) -> "SessionRecord":
        """Build the record of a session from its events."""
        record = cls()
        for event in events:
            record.apply(event)
        return record

    @property
    def counts(self) -> dict[State, int]:
        """How many cases stand in each state; every state is there."""
        # A copy at once: a thread may count while cases are still being planned.
        counted = Counter(case.state for case in list(self.cases.values()))
        return {state: counted[state] for state in State}

    @property
    def outcomes(self) -> dict[Outcome, int]:
        """How many cases there are of each outcome; every outcome is there."""
        counted = Counter(case.outcome for case in list(self.cases.values()))
        return {outcome: counted[outcome] for outcome in Outcome}

    @property
    def ran(self) -> bool:
        """Whether any attempt of any case came to a verdict."""
        return any(
            attempt.ended is not None and attempt.state is not State.SKIPPED
            for case in self.cases.values()
            for attempt in case.attempts
        )

    @property
    def seconds(self) -> float:
        """How long it took, or has taken up to its last event."""
        end = self.ended or self.last_time
        return (end - self.started).total_seconds() if end is not None and self.started is not None else 0.0

    def apply(self, event: Event) -> None:
        """Take in an event; a known one, or one that belongs to another session, changes nothing."""
        if event.sequence <= self.last_sequence or (event.session and self.id and event.session != self.id):
            return
        self.last_sequence = event.sequence
        self.last_time = event.time
        if event.kind is EventKind.CASE_PLANNED and event.case is not None:
            self.cases[event.case] = CaseRecord.planned(event)
        else:
            for case_id in event.cases:
                if (case := self.cases.get(case_id)) is not None:
                    case.apply(event)
        if event.adapter is not None:
            self._apply_to_adapter(event)
        match event.kind:
            case EventKind.SESSION_STARTED:
                self._start(event)
            case EventKind.SESSION_STOPPED:
                self.stopped = str(event.data.get("reason") or "")
                self.cancelled = bool(event.data.get("cancelled"))
            case EventKind.SESSION_ENDED:
                self.ended = event.time
                self.exit_code = event.data.get("exit_code")
                self.interrupted = bool(event.data.get("interrupted"))
            case EventKind.PROBLEM:
                self.problems.append(_problem(event.data))
            case _:
                pass

    def _start(self, event: Event) -> None:
        data = event.data
        self.id = event.session or self.id
        self.started = event.time
        self.versions = dict(data.get("versions") or {})
        self.configuration = dict(data.get("configuration") or {})
        command = data.get("command") or ""
        self.command = command if isinstance(command, str) else " ".join(map(str, command))
        self.host = str(data.get("host") or "")
        self.user = str(data.get("user") or "")
        self.seed = data.get("seed")

    def _apply_to_adapter(self, event: Event) -> None:
        if event.adapter is None:
            return
        registration = event.data.get("registration")
        adapter = self.adapters.get(event.adapter)
        if adapter is None:
            if not isinstance(registration, Mapping):
                return
            adapter = self.adapters[event.adapter] = AdapterRecord(event.adapter, registration, event.time)
            self.adapter_types[str(registration.get("type", "")), str(registration.get("version") or "")] += 1
            if len(self.adapters) > _MOST_ADAPTERS:
                del self.adapters[next(iter(self.adapters))]
        match event.kind:
            case EventKind.ADAPTER_LEASED:
                adapter.case, adapter.role = event.case, event.role
            case EventKind.ADAPTER_LOST:
                adapter.lost = str(event.data.get("reason") or "lost")
            case _:
                pass


def _problem(data: Mapping[str, Any]) -> Problem:
    return Problem(
        str(data.get("file") or ""),
        data.get("line"),
        str(data.get("problem") or ""),
        str(data.get("hint") or ""),
    )
