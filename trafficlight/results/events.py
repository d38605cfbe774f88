"""Everything that happens in the lab, as data.

Whatever shows or keeps something (pages, JUnit, results directory, live updates, metrics, database) reads
these events; nothing keeps a second set of books.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


class State(StrEnum):
    """Where a case stands."""

    WAITING = "waiting"
    PREPARING = "preparing"
    RUNNING = "running"
    SUCCESS = "success"
    FAILURE = "failure"
    ERROR = "error"
    SKIPPED = "skipped"


FINAL = frozenset({State.SUCCESS, State.FAILURE, State.ERROR, State.SKIPPED})


class EventKind(StrEnum):
    """What can happen. The comment behind each names what its data hold."""

    SESSION_STARTED = "session_started"  # versions, configuration (no secrets), command, host, cases (number)
    SESSION_STOPPED = "session_stopped"  # reason, cancelled: nothing of it starts any more, for good
    SESSION_ENDED = "session_ended"  # counts (by state), exit_code, interrupted
    PROBLEM = "problem"  # file, line, problem, hint: a test file that cannot run
    CASE_PLANNED = "case_planned"  # suite, file, line, class_name, method, clients, servers, parameters, skip
    CASE_WAITS = "case_waits"  # reason; cases: their ids, where it goes for several, and no case is set
    CASE_STATE = "case_state"  # state; reason; preparing and running only
    CASE_ENDED = "case_ended"  # state, message, traceback, seconds, phase, will_retry, expected
    ADAPTER_REGISTERED = "adapter_registered"  # registration
    ADAPTER_LEASED = "adapter_leased"  # registration; role and adapter are set
    ADAPTER_RELEASED = "adapter_released"  # reason
    ADAPTER_LOST = "adapter_lost"  # reason
    ACTION_SENT = "action_sent"  # id, action, data: the test asked
    ACTION_DELIVERED = "action_delivered"  # id, action: the adapter has it
    ACTION_ANSWERED = "action_answered"  # id, action, response, seconds
    ACTION_FAILED = "action_failed"  # id, action, type, path, details, seconds
    SERVER_READY = "server_ready"  # server_name, cs_api, version, type, seconds
    SERVER_FAILED = "server_failed"  # reason
    UPLOAD = "upload"  # name (as it was sent), path (below the attempt's folder), size, sha256, media_type
    ATTACHMENT = "attachment"  # name, path (below the attempt's folder), size, media_type
    MEASUREMENT = "measurement"  # name, value, unit
    LOG = "log"  # level, logger, message


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened.

    :param sequence: its place in the log of its session, from 1, without gaps; before that, in the journal.
    :param time: when, UTC.
    :param kind: what.
    :param session: the session's id; empty for what belongs to none.
    :param case: the case's id.
    :param attempt: the attempt's number, from 1.
    :param role: the role in the case that it is about.
    :param adapter: the adapter's uuid.
    :param data: the rest, JSON-able; see :class:`EventKind`.
    """

    sequence: int
    time: datetime
    kind: EventKind
    session: str = ""
    case: str | None = None
    attempt: int | None = None
    role: str | None = None
    adapter: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def cases(self) -> tuple[str, ...]:
        """The ids of the cases that it is about: one, none, or several that share it."""
        if self.case is not None:
            return (self.case,)
        several = self.data.get("cases")
        return tuple(several) if self.kind is EventKind.CASE_WAITS and isinstance(several, list) else ()

    def as_json(self) -> dict[str, Any]:
        """Return it as a JSON object; what is empty is left out."""
        short: dict[str, Any] = {
            "sequence": self.sequence,
            "time": self.time.isoformat(),
            "kind": self.kind.value,
        }
        for key in ("session", "case", "attempt", "role", "adapter"):
            if (value := getattr(self, key)) not in (None, ""):
                short[key] = value
        if self.data:
            short["data"] = dict(self.data)
        return short
