"""One case, and what became of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from trafficlight.results.attempt import AttemptRecord
from trafficlight.results.events import FINAL, Event, EventKind, State
from trafficlight.results.names import attempt_path

INTERRUPTED = "interrupted"
"""The phase of an attempt that ended because its coordinator did."""


class Outcome(StrEnum):
    """What is said of a case: its state, and what retries and expectations make of it."""

    SUCCESS = "success"
    FLAKY = "flaky"
    EXPECTED_FAILURE = "expected failure"
    UNEXPECTED_SUCCESS = "unexpected success"
    FAILURE = "failure"
    ERROR = "error"
    SKIPPED = "skipped"
    NOT_RUN = "not run"
    RUNNING = "running"


@dataclass(frozen=True, slots=True)
class Expected:
    """Why a case is expected to fail.

    :param link: where that is tracked; may be empty.
    """

    reason: str
    link: str = ""


@dataclass(slots=True)
class CaseRecord:
    """One case, and what became of it.

    :param clients: the name of the client type in every client role.
    :param servers: the name of the server type in every server role.
    :param reason: why it waits, or why it did not run.
    :param message: one line on how it ended, of the latest attempt that did.
    :param flaky: whether it succeeded only after an attempt that did not.
    :param expected: set if it is expected to fail.
    :param skip_type: ``ignored``, ``unsupported`` or ``not-run``; empty if it is not skipped.
    :param retrying: whether its latest verdict is not the last one, because it is to be tried again.
    """

    id: str
    suite: str
    file: str = ""
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
    attempts: list[AttemptRecord] = field(default_factory=list)

    @property
    def attempt(self) -> AttemptRecord | None:
        """The latest attempt."""
        return self.attempts[-1] if self.attempts else None

    @property
    def ended(self) -> list[AttemptRecord]:
        """The attempts that came to an end."""
        return [attempt for attempt in self.attempts if attempt.ended is not None]

    @property
    def verdict(self) -> State | None:
        """The final state that it has, or had before a retry that is not over."""
        if self.state in FINAL:
            return self.state
        over = self.ended
        return over[-1].state if over else None

    @property
    def outcome(self) -> Outcome:
        """What to say of it, with retries and expectations taken into account."""
        match self.verdict:
            case State.SUCCESS if self.expected is not None:
                return Outcome.UNEXPECTED_SUCCESS
            case State.SUCCESS:
                return Outcome.FLAKY if self.flaky else Outcome.SUCCESS
            case State.FAILURE | State.ERROR if self.expected is not None:
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
        """How long all attempts took together."""
        return sum(attempt.seconds for attempt in self.attempts)

    @property
    def cell(self) -> str:
        """The part of the id that tells this case from the others of its suite; may be empty."""
        return self.id.removeprefix(self.suite).removeprefix("[").removesuffix("]")

    @property
    def combination(self) -> str:
        """Its client and server types, as the column of a matrix."""
        return " · ".join([*self.clients.values(), *self.servers.values()]) or "no clients"

    @classmethod
    def planned(cls, event: Event) -> "CaseRecord":
        """Return the record of a case that is to run, or that is known not to."""
        data = event.data
        skip = data.get("skip")
        return cls(
            id=event.case or "",
            suite=str(data.get("suite") or ""),
            file=str(data.get("file") or ""),
            line=data.get("line"),
            class_name=str(data.get("class_name") or ""),
            method=str(data.get("method") or ""),
            clients=dict(data.get("clients") or {}),
            servers=dict(data.get("servers") or {}),
            parameters=dict(data.get("parameters") or {}),
            state=State.SKIPPED if skip else State.WAITING,
            reason=str(skip or ""),
            message=str(skip or ""),
            skip_type=str(data.get("skip_type") or "ignored") if skip else "",
            expected=_expected(data["expected"]) if data.get("expected") else None,
        )

    def apply(self, event: Event) -> None:
        """Take in what happened to this case."""
        attempt = self._attempt(event)
        if attempt is not None:
            attempt.apply(event)
        data = event.data
        match event.kind:
            case EventKind.CASE_WAITS:
                self.state = State.WAITING
                self.reason = str(data.get("reason") or "")
            case EventKind.CASE_STATE:
                self.state, self.retrying = State(data["state"]), False
                self.reason = str(data.get("reason") or "")
            case EventKind.CASE_ENDED:
                self._end(event)
            case _:
                pass

    def _attempt(self, event: Event) -> AttemptRecord | None:
        number = event.attempt
        if number is None:
            return None
        for attempt in reversed(self.attempts):
            if attempt.number == number:
                return attempt
        if event.kind in (EventKind.CASE_PLANNED, EventKind.CASE_WAITS):
            return None
        fresh = AttemptRecord(number, str(attempt_path(self.id, number)), started=event.time)
        self.attempts.append(fresh)
        return fresh

    def _end(self, event: Event) -> None:
        data = event.data
        self.state, self.retrying = State(data["state"]), bool(data.get("will_retry"))
        self.message = str(data.get("message") or "")
        earlier = [attempt for attempt in self.ended if attempt.number != event.attempt]
        # An attempt that ended with its coordinator says nothing about the test.
        tried = [attempt for attempt in earlier if attempt.phase != INTERRUPTED]
        failed = any(attempt.state in (State.FAILURE, State.ERROR) for attempt in tried)
        self.flaky = self.state is State.SUCCESS and (bool(data.get("flaky")) or failed)
        if data.get("expected"):
            self.expected = _expected(data["expected"])
        if self.state is State.SKIPPED:
            self.reason = self.message or str(data.get("reason") or "") or self.reason
            self.skip_type = str(data.get("skip_type") or self.skip_type or self._guess_skip_type(event))
        else:
            self.reason = self.skip_type = ""

    @staticmethod
    def _guess_skip_type(event: Event) -> str:
        # A test that got as far as an attempt and skipped itself says that something is not to be had here.
        return "not-run" if event.attempt is None else "unsupported"


def _expected(data: Any) -> Expected:
    if isinstance(data, Mapping):
        return Expected(str(data.get("reason") or ""), str(data.get("link") or ""))
    return Expected(str(data))
