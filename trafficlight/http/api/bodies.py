"""The JSON bodies of sessions, cases and adapters, for the API and its clients."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from trafficlight.coordinator.adapter import AdapterState
from trafficlight.results.case import Outcome
from trafficlight.results.events import State
from trafficlight.results.history.statistics import Past
from trafficlight.results.reports.causes import Cause
from trafficlight.results.traffic import Exchange


class Urls(BaseModel):
    """Related resources, as paths of the coordinator."""

    session: str
    cases: str
    events: str
    page: str
    junit: str


class SessionBody(BaseModel):
    """A session in its current state."""

    id: str
    state: Literal["running", "ending", "ended", "abandoned"] = Field(
        description="`ending`: running cases finish, no more start. `abandoned`: its coordinator exited "
        "first, and none has resumed it."
    )
    cases: int = Field(description="The number of cases.")
    counts: dict[str, int] = Field(description="The number of cases per state.")
    outcomes: dict[str, int] = Field(
        default_factory=dict,
        description="The number of cases per outcome, as in the summary, without zeros. Cases without a "
        "verdict are `waiting` or `running`, and `not run` once it has ended.",
    )
    started: datetime | None
    ended: datetime | None
    exit_code: int | None = Field(description="As of `trafficlight run`; null until it has ended.")
    interrupted: bool = Field(description="Whether it was cancelled or interrupted.")
    stopped: str = Field(description="Why no more cases start; empty while they may.")
    waiting: list[str] = Field(description="The distinct reasons why its cases wait.")
    problems: list[str] = Field(
        default_factory=list,
        description="Test files and classes that cannot run.",
    )
    warnings: list[str] = Field(
        default_factory=list, description="What of the request or the settings has no effect."
    )
    command: str = Field(description="How it was started.")
    commit: str = Field(default="", description="That of the repository of its tests; empty if unknown.")
    dirty: bool = Field(default=False, description="Whether that had changes that were not committed.")
    job: str = Field(default="", description="The link of the CI job that ran it; empty if there was none.")
    folder: str = Field(description="Its results folder on the coordinator's machine.")
    urls: Urls


class SessionList(BaseModel):
    """Sessions, newest first."""

    sessions: list[SessionBody]
    total: int = Field(description="The number of all sessions, including those of earlier coordinators.")


class CaseBody(BaseModel):
    """One case."""

    id: str
    suite: str
    state: State
    outcome: str = Field(description="The state, with retries and expectations taken into account.")
    message: str = Field(description="How it ended, in a line or more.")
    reason: str = Field(description="Why it waits, or does not run.")
    attempts: int
    seconds: float = Field(description="Of its last attempt.")
    clients: dict[str, str]
    servers: dict[str, str]
    url: str = Field(description="Its page.")
    returned: Any = Field(
        default=None, description="What its test returned in the last attempt, if that is JSON; else null."
    )


class CaseList(BaseModel):
    """Cases, in the order of the plan."""

    cases: list[CaseBody]
    total: int = Field(description="How many fit what was asked for.")


class CauseList(BaseModel):
    """Why cases of a session failed: the largest cause first, expected failures last."""

    causes: list[Cause]


class ExchangeList(BaseModel):
    """What the clients of an attempt asked their homeservers, as far as it was recorded."""

    attempt: int
    requests: list[Exchange]
    left_out: list[str] = Field(description="What is missing, and why; a sentence each.")


class PastBody(BaseModel):
    """How a case ended in one session."""

    lab: str = Field(description="Where the session's folder is, if several labs share a history.")
    session: str
    started: datetime | None
    host: str
    outcome: Outcome
    attempt: int = Field(description="The number of the last attempt; 0 if none started.")
    signature: str = Field(description="Of its failure, without what differs from run to run.")
    seconds: float
    versions: dict[str, str] = Field(description="Type and version in each role.")
    revision: str = Field(description="The commit of the tests, short; empty if unknown.")

    @classmethod
    def of(cls, past: Past) -> "PastBody":
        """Return the body of a verdict."""
        facts = {
            name: getattr(past.verdict, name) for name in cls.model_fields if hasattr(past.verdict, name)
        }
        facts |= {name: getattr(past, name) for name in ("lab", "session", "started", "host", "revision")}
        return cls(**facts)


class HistoryBody(BaseModel):
    """How a case ended in the latest sessions, newest first."""

    case: str
    verdicts: list[PastBody]
    flakes: int = Field(description="How often it was flaky, or failed between two successes.")
    flake_interval: tuple[float, float] = Field(
        description="The bounds of the share of flakes, with a confidence of 95 % (Wilson)."
    )
    failing_since: str | None = Field(description="The session since which it fails.")
    failing_sessions: int = Field(description="For how many sessions in a row.")
    last_good: str | None = Field(description="The latest session in which it succeeded.")
    typical_seconds: float | None = Field(description="The median duration of its successes.")


class AdapterBody(BaseModel):
    """One adapter that is there."""

    uuid: str = Field(description="Many programs have another one for each case.")
    program: str = Field(
        description="Names the program across registrations: its `instance`, or its type, labels and address."
    )
    type: str
    version: str
    instance: str = Field(description="How it names its program; empty if it does not.")
    labels: list[str]
    address: str = Field(description="Where its registration came from.")
    endpoint: str = Field(description="Of a network proxy: its base URL for clients.")
    state: AdapterState
    case: str | None = Field(description="Its current case.")
    session: str | None = Field(description="The session of that case.")
    role: str | None = Field(description="Its role in that case.")
    doing: str = Field(description="What it is doing, in one line.")
    paused: str = Field(description="Why it gets no new case; empty while it does.")
    quarantined: bool = Field(description="Whether it was paused because its program failed.")
    cases: int = Field(description="How many cases it has been in.")
    registered: datetime
    silent: float = Field(description="Seconds since its last request.")


class AdapterList(BaseModel):
    """The adapters that are there."""

    adapters: list[AdapterBody]
    total: int
    drained: str = Field(description="Why no adapter at all gets a new case; empty while they do.")
    paused: dict[str, str] = Field(
        description="Why a program gets no new case, by its name; also of programs that are not there now."
    )


class Reason(BaseModel):
    """The reason for a pause."""

    reason: str = Field(min_length=1, max_length=500, description="Shown to people.")


class Login(BaseModel):
    """A login of a page, valid for 24 hours and until the coordinator exits."""

    token: str = Field(description="For changes, as bearer token.")
    next: str = Field(description="The path of the page that required the login.")
