"""Cases and their attempts, as their events describe them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from trafficlight.results.events import (
    FINAL,
    AdapterLeased,
    Attachment,
    CaseCancelled,
    CaseEnded,
    CasePlanned,
    CaseRerun,
    CaseState,
    CaseWaits,
    Event,
    Expected,
    Measurement,
    NetworkChanged,
    Returned,
    ServerReady,
    State,
    Upload,
)
from trafficlight.results.folder import attempt_path

INTERRUPTED = "interrupted"
"""The phase of an attempt that ended because its coordinator exited, or a user cancelled it."""

_LONGEST_TIMELINE = 2_000  # events of one attempt: the first and the last half; events.jsonl has all
_FAULTS = 200  # those about faults that are kept in between
FAULTS = (NetworkChanged,)
"""The events with which a fault begins and ends."""


class Outcome(StrEnum):
    """The outcome of a case: its state, with retries and expectations taken into account."""

    SUCCESS = "success"
    FLAKY = "flaky"
    EXPECTED_FAILURE = "expected failure"
    UNEXPECTED_SUCCESS = "unexpected success"
    FAILURE = "failure"
    ERROR = "error"
    SKIPPED = "skipped"
    NOT_RUN = "not run"
    RUNNING = "running"


@dataclass(slots=True)
class AttemptRecord:
    """One attempt of a case.

    :param folder: relative to the session's folder.
    :param started: when the preparation of its adapters and servers started.
    :param running_since: when its test code started.
    :param seconds: duration, from its start.
    :param timeline: actions, servers, adapters and logs, in order.
    :param dropped: the number of events left out in the middle of a very long timeline.
    :param adapters: the registration of the adapter in each client role.
    :param adapter_ids: the UUID of that adapter.
    :param returned: what its test returned; None if that was nothing.
    """

    number: int
    folder: str
    state: State = State.PREPARING
    started: datetime | None = None
    running_since: datetime | None = None
    ended: datetime | None = None
    phase: str = ""
    message: str = ""
    traceback: str = ""
    source: str = ""
    seconds: float = 0.0
    timeline: list[Event] = field(default_factory=list)
    dropped: int = 0
    uploads: list[Upload] = field(default_factory=list)
    attachments: list[Attachment] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    adapters: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    adapter_ids: dict[str, str] = field(default_factory=dict)
    servers: dict[str, ServerReady] = field(default_factory=dict)
    returned: Returned | None = None

    @property
    def files(self) -> list[Upload | Attachment]:
        """Attachments and uploads: images that are not empty first, the newest at the top."""
        every: list[Upload | Attachment] = [*self.attachments, *self.uploads]
        return [file for file in reversed(every) if file.is_image] + [
            file for file in every if not file.is_image
        ]

    def apply(self, event: Event) -> None:
        """Update the record with an event of this attempt."""
        match event:
            case CaseState():
                self.state = event.state
                self.started = self.started or event.time
                if self.state is State.RUNNING:
                    self.running_since = self.running_since or event.time
            case CaseEnded():
                self.state, self.ended, self.phase = event.state, event.time, event.phase
                self.message, self.traceback, self.seconds = event.message, event.traceback, event.seconds
                self.source = event.source
            case Upload():
                self.uploads.append(event)
            case Attachment():
                self.attachments.append(event)
            case Measurement():
                self.measurements.append(event)
            case Returned():
                self.returned = event
            case CaseCancelled():
                pass  # its end says so
            case _:
                self._add_to_timeline(event)

    def _add_to_timeline(self, event: Event) -> None:
        if isinstance(event, AdapterLeased) and event.role is not None:
            self.adapters[event.role], self.adapter_ids[event.role] = event.registration, event.adapter
        elif isinstance(event, ServerReady) and event.role is not None:
            self.servers[event.role] = event
        self.timeline.append(event)
        if len(self.timeline) > _LONGEST_TIMELINE:
            middle = _LONGEST_TIMELINE // 2
            # Faults stay: plots show when each began and ended.
            kept = (at for at in range(middle, middle + _FAULTS) if not isinstance(self.timeline[at], FAULTS))
            del self.timeline[next(kept, middle)]
            self.dropped += 1


@dataclass(slots=True)
class CaseRecord:
    """One case with its attempts.

    :param path: the test file from the root of its repository; empty if that is `file`.
    :param clients: the name of the client type in each client role.
    :param servers: the name of the server type in each server role.
    :param reason: why it waits, or why it did not run.
    :param message: how the latest attempt ended; the first line is fit for a list.
    :param flaky: whether it succeeded after a failed attempt.
    :param expected: set if it is expected to fail.
    :param skip_type: ``ignored``, ``unsupported`` or ``not-run``; empty if it is not skipped.
    :param retrying: whether another attempt follows the latest verdict.
    :param cancelled: why a user cancelled the latest attempt; empty if no one did.
    :param end: how it last ended, with or without an attempt; not by an interruption that it is tried after.
    :param changed: the position in the session's log of the last event about it; its plan is none.
    """

    id: str
    suite: str
    file: str = ""
    path: str = ""
    line: int | None = None
    class_name: str = ""
    method: str = ""
    clients: dict[str, str] = field(default_factory=dict)
    servers: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    state: State = State.WAITING
    reason: str = ""
    message: str = ""
    flaky: bool = False
    expected: Expected | None = None
    skip_type: str = ""
    retrying: bool = False
    cancelled: str = ""
    end: CaseEnded | None = None
    attempts: list[AttemptRecord] = field(default_factory=list)
    changed: int = 0

    @property
    def attempt(self) -> AttemptRecord | None:
        """The latest attempt."""
        return self.attempts[-1] if self.attempts else None

    @property
    def ended(self) -> list[AttemptRecord]:
        """The attempts that ended."""
        return [attempt for attempt in self.attempts if attempt.ended is not None]

    @property
    def verdict(self) -> State | None:
        """The final state; during a retry, that of the previous attempt."""
        if self.state in FINAL:
            return self.state
        over = self.ended
        return over[-1].state if over else None

    @property
    def outcome(self) -> Outcome:
        """The outcome, with retries and expectations taken into account."""
        match self.verdict:
            case State.SUCCESS if self.expected is not None and not self.expected.sometimes:
                return Outcome.UNEXPECTED_SUCCESS
            case State.SUCCESS:
                return Outcome.FLAKY if self.flaky else Outcome.SUCCESS
            case State.FAILURE | State.ERROR as state if self.expected and self.expected.covers(state):
                return Outcome.EXPECTED_FAILURE
            case State.FAILURE:
                return Outcome.FAILURE
            case State.ERROR:
                return Outcome.ERROR
            case State.SKIPPED:
                return Outcome.NOT_RUN if self.skip_type == "not-run" else Outcome.SKIPPED
            case _:
                return Outcome.NOT_RUN if self.state is State.WAITING else Outcome.RUNNING

    @property
    def seconds(self) -> float:
        """Duration of all attempts together."""
        return sum(attempt.seconds for attempt in self.attempts)

    @property
    def cell(self) -> str:
        """The part of the id that distinguishes the case from others of its suite; may be empty."""
        return self.id.removeprefix(self.suite).removeprefix("[").removesuffix("]")

    @classmethod
    def planned(cls, event: CasePlanned) -> "CaseRecord":
        """Return the record of a case that was just planned."""
        skip = event.skip or ""
        return cls(
            id=event.case,
            suite=event.suite,
            file=event.file,
            path=event.path,
            line=event.line,
            class_name=event.class_name,
            method=event.method,
            clients=dict(event.clients),
            servers=dict(event.servers),
            parameters=dict(event.parameters),
            state=State.SKIPPED if skip else State.WAITING,
            reason=skip,
            message=skip,
            skip_type=(event.skip_type or "ignored") if skip else "",
            expected=event.expected,
        )

    def apply(self, event: Event) -> None:
        """Update the record with an event of this case."""
        if event.attempt is not None:
            self._attempt(event, event.attempt).apply(event)
        match event:
            case CaseWaits():
                self.state, self.reason = State.WAITING, event.reason
            case CaseState():
                self.state, self.retrying, self.reason = event.state, False, ""
            case CaseCancelled() if event.attempt is not None or (self.end and self.end.phase == INTERRUPTED):
                self.cancelled = event.reason  # or it keeps the verdict of an attempt that was cancelled
            case CaseRerun():
                self.state, self.reason, self.skip_type, self.cancelled = State.WAITING, event.reason, "", ""
            case CaseEnded():
                self._end(event)
            case _:
                pass

    def _attempt(self, event: Event, number: int) -> AttemptRecord:
        for attempt in reversed(self.attempts):
            if attempt.number == number:
                return attempt
        new = AttemptRecord(number, attempt_path(self.id, number), started=event.time)
        self.attempts.append(new)
        return new

    def _end(self, event: CaseEnded) -> None:
        self.state, self.retrying, self.message = event.state, event.will_retry, event.message
        if not (event.will_retry and event.phase == INTERRUPTED):
            self.end = event
        earlier = [attempt for attempt in self.ended if attempt.number != event.attempt]
        # An attempt that was interrupted says nothing about the test.
        tried = [attempt for attempt in earlier if attempt.phase != INTERRUPTED]
        failed = any(attempt.state in (State.FAILURE, State.ERROR) for attempt in tried)
        self.flaky = self.state is State.SUCCESS and failed
        self.expected = event.expected or self.expected
        if self.state is State.SKIPPED:
            self.reason = self.message or self.reason
            # A test that skips itself in an attempt declares what is unsupported here. A case that keeps this
            # verdict, because it is cancelled before a further attempt, ends without one in the same phase.
            not_run = event.phase == "waiting" or (event.attempt is None and not event.phase)
            self.skip_type = self.skip_type or ("not-run" if not_run else "unsupported")
        else:
            self.reason = self.skip_type = ""
