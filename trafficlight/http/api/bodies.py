"""The JSON bodies of sessions and cases."""

from datetime import datetime
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from pydantic import BaseModel, Field

from trafficlight.coordinator.session import Session
from trafficlight.http.headers import rooted
from trafficlight.http.pages.views import case_path
from trafficlight.results.case import CaseRecord
from trafficlight.results.catalog import ProblemSummary, SessionSummary
from trafficlight.results.events import State


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
    command: str = Field(description="How it was started.")
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


class CaseList(BaseModel):
    """Cases, in the order of the plan."""

    cases: list[CaseBody]
    total: int = Field(description="How many fit what was asked for.")


def session_body(summary: SessionSummary, folder: Path, session: Session | None, drained: str) -> SessionBody:
    """Return what the API says of a session.

    :param session: the session itself if this process runs it.
    :param drained: why no adapter gets a new case; empty while they do.
    """
    state: Literal["running", "ending", "ended", "abandoned"] = summary.status
    waiting: list[str] = []
    if session is not None:
        state = "ending" if session.stopped or session.closing else "running"
        waiting = session.reasons()
        if drained and session.waiting:
            waiting.insert(0, f"no adapter gets a new case: {drained}")
    return SessionBody(
        id=summary.id,
        state=state,
        cases=summary.cases,
        counts={state.value: number for state, number in summary.counts.items()},
        started=summary.started,
        ended=summary.ended,
        exit_code=summary.exit_code,
        interrupted=summary.interrupted,
        stopped=session.stopped if session is not None else summary.stopped,
        waiting=waiting,
        problems=[_problem(problem) for problem in summary.problems],
        command=summary.command,
        folder=str(folder),
        urls=_urls(summary.id),
    )


def case_body(session: str, case: CaseRecord) -> CaseBody:
    """Return what is known of a case."""
    return CaseBody(
        id=case.id,
        suite=case.suite,
        state=case.state,
        outcome=case.outcome.value,
        message=case.message,
        reason=case.reason,
        attempts=len(case.attempts),
        seconds=round(case.seconds, 3),
        clients=case.clients,
        servers=case.servers,
        url=rooted(case_path(session, case.id)),
    )


def _problem(problem: ProblemSummary) -> str:
    place = problem.file if problem.line is None else f"{problem.file}:{problem.line}"
    return f"{place}: {problem.problem}" + (f" ({problem.hint})" if problem.hint else "")


def _urls(session: str) -> Urls:
    api, page = rooted(f"/api/sessions/{quote(session)}"), rooted(f"/status/{quote(session)}")
    return Urls(
        session=api, cases=f"{api}/cases", events=f"{api}/events", page=page, junit=f"{page}/junit.xml"
    )
