"""Sessions over HTTP: start, list, follow and cancel them, and rerun failed cases."""

import asyncio
import errno
import logging
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from quart import Blueprint, Response, current_app, request

from trafficlight.coordinator.session import Session
from trafficlight.errors import LabError, ShuttingDownError, TrafficlightError, UsageError
from trafficlight.http.api import streams
from trafficlight.http.api.bodies import (
    CaseBody,
    CaseList,
    CauseList,
    ExchangeList,
    SessionBody,
    SessionList,
    Urls,
)
from trafficlight.http.api.specs import REQUESTS, OperationSpec, Query, ResponseSpec
from trafficlight.http.pages.views import case_path
from trafficlight.http.requests import (
    asked_period,
    current_lab,
    json_object,
    json_response,
    one_at_a_time,
    open_session,
    running,
    session_folder,
    session_id,
    unknown_session,
    validated,
)
from trafficlight.http.responses import ApiError, rooted
from trafficlight.http.security import require_people
from trafficlight.results.case import CaseRecord, Outcome
from trafficlight.results.catalog import ProblemSummary, SessionSummary
from trafficlight.results.events import State
from trafficlight.results.history.changes import read_changes
from trafficlight.results.reports.causes import causes
from trafficlight.results.reports.filter import matching
from trafficlight.results.reports.presentation import outcome_counts
from trafficlight.results.traffic import exchanges
from trafficlight.suites.model import Plan
from trafficlight.suites.query import QueryError
from trafficlight.suites.selection import SessionRequest

logger = logging.getLogger(__name__)

blueprint = Blueprint("sessions_api", __name__, url_prefix="/api/sessions")

_operation = partial(OperationSpec, "Sessions", guard="people")
_REQUEST_LIMIT = 16 << 20  # bytes: a list of ids may be long
_MOST_REPEATS = 1000  # more would be planned before the request could be cancelled
_PAGE, _LONGEST_PAGE = 1000, 10_000  # of cases
_SESSIONS, _MOST_SESSIONS = 100, 1000  # per page
_FAILED = frozenset({Outcome.FAILURE, Outcome.ERROR})
_UNDECIDED = frozenset({Outcome.NOT_RUN, Outcome.RUNNING})

SESSION = ResponseSpec("The session in its current state.", SessionBody)
STARTED = {201: ResponseSpec("The session has started; `Location` names it.", SessionBody)}
_NUMBER = {"type": "integer", "minimum": 0, "maximum": 10**15}


def _paging(default: int, most: int) -> tuple[Query, ...]:
    return (
        Query("limit", f"The maximum number; {default} by default, at most {most}.", _NUMBER),
        Query("offset", "How many to skip at the beginning.", _NUMBER),
    )


blueprint.before_request(require_people)


@blueprint.post("")
@_operation(STARTED, (400, 401, 403, 413, 415, 503, 507), body=SessionRequest)
async def submit() -> Response:
    """Start a session: its cases run as soon as adapters, homeservers and limits allow.

    Targets are paths that the coordinator can read. Responds when the homeservers of its cases are installed,
    which can take minutes the first time.
    """
    check_open()
    body = await json_object(_REQUEST_LIMIT)
    try:
        request = await asyncio.to_thread(validated, SessionRequest, body)
    except UsageError as error:
        raise ApiError(HTTPStatus.BAD_REQUEST, "invalid_request", str(error)) from None
    return await started_response(await _start(request, "POST /api/sessions"))


@blueprint.get("")
@_operation(
    {200: ResponseSpec("The sessions.", SessionList)}, (400, 401), query=_paging(_SESSIONS, _MOST_SESSIONS)
)
async def sessions() -> Response:
    """List all sessions in the results folder, newest first, whichever process ran them.

    A session without a readable `session.json` is counted, but not listed.
    """
    catalog = current_lab().catalog
    ids = await catalog.ids()
    first, behind = _page_bounds(_SESSIONS, _MOST_SESSIONS)
    bodies = [_body_of(summary) for summary in await catalog.summaries(ids[first:behind])]
    return json_response(SessionList(sessions=bodies, total=len(ids)))


@blueprint.get("/<session>")
@_operation({200: SESSION}, (401, 404))
async def session(session: str) -> Response:
    """Return a session in its current state; `latest` names the latest."""
    return json_response(await current_body(await session_id(session)))


@blueprint.get("/<session>/cases")
@_operation(
    {200: ResponseSpec("The cases.", CaseList)},
    (400, 401, 404),
    query=(
        Query(
            "state",
            "Only cases in this state; may be repeated.",
            {"type": "string", "enum": [state.value for state in State]},
        ),
        Query(
            "q",
            "Only the cases that a query means, for example `bob:Hydrogen* undecryptable`.",
            {"type": "string"},
        ),
        *_paging(_PAGE, _LONGEST_PAGE),
    ),
)
async def cases(session: str) -> Response:
    """List the cases of a session, in the order of its plan."""
    states = {_state(text) for text in request.args.getlist("state")}
    first, behind = _page_bounds(_PAGE, _LONGEST_PAGE)
    query = request.args.get("q", "").strip()
    async with open_session(session) as found:
        every = list(found.record.cases.values())

        def content() -> bytes:
            try:
                meant = matching(every, query, _since(found.folder), over=found.over)
            except QueryError as error:
                raise ApiError(HTTPStatus.BAD_REQUEST, "invalid_query", str(error)) from None
            fitting = [case for case in meant if not states or case.state in states]
            shown = [case_body(found.id, case) for case in fitting[first:behind]]
            return CaseList(cases=shown, total=len(fitting)).model_dump_json().encode()

        return Response(await asyncio.to_thread(content), content_type="application/json")


@blueprint.get("/<session>/causes")
@_operation({200: ResponseSpec("The causes.", CauseList)}, (401, 404))
async def session_causes(session: str) -> Response:
    """List why cases of a session failed: failures with one signature, and what explains them best."""
    async with open_session(session) as found:
        every = list(found.record.cases.values())
        folder = found.folder
        listed = await asyncio.to_thread(lambda: CauseList(causes=causes(every, _since(folder))))
        return json_response(listed)


@blueprint.get("/<session>/requests")
@_operation(
    {200: ResponseSpec("The requests.", ExchangeList)},
    (400, 401, 404),
    query=(
        Query("case", "The case's id.", {"type": "string"}),
        Query("attempt", "The number of the attempt; by default the last one.", _NUMBER),
        *REQUESTS,
    ),
)
async def requests(session: str) -> Response:
    """List the recorded requests of a case's clients, in the order in which they were sent."""
    period, role = asked_period(), request.args.get("role", "")
    async with open_session(session) as found:
        case = found.record.cases.get(request.args.get("case", ""))
        wanted = request.args.get("attempt") or str(len(case.attempts) if case is not None else 0)
        attempts = [] if case is None else [one for one in case.attempts if str(one.number) == wanted]
        if not attempts:
            message = f"the session {found.id} has no such case, or no such attempt of it"
            raise ApiError(HTTPStatus.NOT_FOUND, "unknown_case", message)
        folder, (attempt,) = found.folder, attempts

    def content() -> bytes:
        found = exchanges(folder / attempt.folder, attempt.started, role=role, period=period)
        return ExchangeList(attempt=attempt.number, **found._asdict()).model_dump_json().encode()

    return Response(await one_at_a_time(content), content_type="application/json")


@blueprint.get("/<session>/events")
@_operation(
    {200: ResponseSpec("The events, one JSON object a line.", media_type="application/x-ndjson")},
    (400, 401, 404, 503),
    query=(
        Query("after", "Only events behind the one with this sequence number.", _NUMBER),
        Query("follow", "`0`: end with the last event that there is now.", {"enum": ["0", "1"]}),
    ),
)
async def events(session: str) -> Response:
    """Stream a session's events from the first one on until the session has ended.

    Its results are complete when the stream ends. An empty line every 15 seconds shows that it is alive.
    After a break, ask for what comes `after` the last `sequence` that was seen: no event is left out, and
    none comes twice.
    """
    after, follow = _number("after", 0), request.args.get("follow", "1")
    if follow not in ("0", "1"):
        raise _invalid_query("follow", "0 or 1", follow)
    folder = await session_folder(session)
    if streams.full():
        message, later = f"{streams.MOST} streams are open already", {"Retry-After": "5"}
        raise ApiError(HTTPStatus.SERVICE_UNAVAILABLE, "too_many_streams", message, headers=later)
    lines = streams.event_lines(folder, after, current_lab(), follow=follow == "1")
    answer = Response(b"" if request.method == "HEAD" else lines, content_type="application/x-ndjson")
    answer.headers["X-Accel-Buffering"] = "no"  # a proxy that buffers would hold events back
    answer.timeout = None
    return answer


@blueprint.post("/<session>/cancel")
@_operation({200: SESSION}, (401, 403, 404, 409))
async def cancel(session: str) -> Response:
    """Cancel a session: no more of its cases start, and running ones are cancelled.

    Can be repeated; 409 if it has ended by itself.
    """
    id, lab = await session_id(session), current_lab()
    found = running(id)
    if found is None:
        body = await current_body(id)
        if not body.interrupted:
            raise ended_already(id)
        return json_response(body)
    if found.closing and not found.cancelled:
        raise ended_already(id)
    lab.engine.cancel(found, "the session was cancelled over the API")
    return json_response(await current_body(id))


@blueprint.post("/<session>/rerun-failed")
@_operation(STARTED, (400, 401, 403, 404, 409, 503, 507))
async def rerun_failed(session: str) -> Response:
    """Start a session with only the cases of this one that failed or ended in error.

    Test files with problems are run again with all their cases.

    Once a session has ended, the cases of it that never ran count as well.
    """
    check_open()
    async with open_session(session) as found:
        again = _FAILED | _UNDECIDED if found.over else _FAILED
        failed = sorted(case.id for case in found.record.cases.values() if case.outcome in again)
        failed += found.record.problem_files
    if not failed:
        raise ApiError(HTTPStatus.CONFLICT, "nothing_failed", f"nothing of the session {found.id} has failed")
    started = await start_again(found.id, failed, f"POST /api/sessions/{found.id}/rerun-failed")
    return await started_response(started)


async def start_again(id: str, only: list[str], command: str) -> Session:
    """Start a session of the same request as an earlier one, with some of its cases or files only.

    :param id: of the earlier one.
    :raises ApiError: what it was asked to run is not known, or cannot start.
    """
    known = await current_lab().request_of(id)
    if known is None:
        message = f"the session {id} has no request.json: what it was asked to run is not known"
        raise ApiError(HTTPStatus.CONFLICT, "unknown_request", message)
    narrowed = {"only": only, "sample": None, "shard": None, "repeat": 1, "job": ""}
    return await _start(known.model_copy(update=narrowed), command)


async def _start(asked: SessionRequest, command: str) -> Session:
    lab = current_lab()
    if asked.repeat > _MOST_REPEATS:
        raise ApiError(HTTPStatus.BAD_REQUEST, "invalid_body", f"repeat: at most {_MOST_REPEATS}")
    plan = await _plan(asked)
    try:
        return await lab.start(asked, command=command, plan=plan)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message = "the disk of the coordinator is full"
            raise ApiError(HTTPStatus.INSUFFICIENT_STORAGE, "disk_full", message) from None
        message = f"the results cannot be written: {error}"
        raise ApiError(HTTPStatus.SERVICE_UNAVAILABLE, "results_unwritable", message) from error


async def started_response(started: Session) -> Response:
    """Return the response for a session that was started."""
    answer = json_response(await current_body(started.id), HTTPStatus.CREATED)
    answer.headers["Location"] = rooted(f"/api/sessions/{started.id}")
    return answer


async def _plan(asked: SessionRequest) -> Plan:
    """Return the cases that a request selects; an error is a 400, unless the lab itself failed."""
    try:
        return await current_lab().plan(asked)
    except LabError as error:
        code = "stopping" if isinstance(error, ShuttingDownError) else "lab_error"
        raise ApiError(HTTPStatus.SERVICE_UNAVAILABLE, code, str(error)) from error
    except TrafficlightError as error:
        message = str(error)
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        logger.warning("a session that was asked for cannot be planned", exc_info=True)
        message = f"this cannot be planned: {type(error).__name__}: {error}"
    raise ApiError(HTTPStatus.BAD_REQUEST, "invalid_request", message)


def check_open() -> None:
    """Check that sessions can be started.

    :raises ApiError: they cannot.
    """
    if not current_app.config["SESSIONS"]:
        message = "`trafficlight run` takes no sessions over HTTP: start the coordinator with `serve`"
        raise ApiError(HTTPStatus.FORBIDDEN, "no_sessions", message)
    if reason := current_lab().engine.stopping:
        message = f"the coordinator is shutting down: {reason}"
        raise ApiError(HTTPStatus.SERVICE_UNAVAILABLE, "stopping", message)


async def current_body(id: str) -> SessionBody:
    """Return what the API says of a session.

    :raises ApiError: there is no such session.
    """
    if (summary := await current_lab().catalog.summary(id)) is None:
        raise unknown_session()
    return _body_of(summary)


def ended_already(session: str) -> ApiError:
    """Return the error for a session that cannot be changed any more."""
    return ApiError(HTTPStatus.CONFLICT, "session_ended", f"the session {session} has ended already")


def _state(text: str) -> State:
    try:
        return State(text)
    except ValueError:
        raise _invalid_query("state", f"one of {', '.join(State)}", text) from None


def _number(name: str, default: int) -> int:
    """Return a query parameter as a number from 0; anything else is refused."""
    text = request.args.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 16):
        raise _invalid_query(name, "a number from 0", text)
    return int(text)


def _page_bounds(default: int, most: int) -> tuple[int, int]:
    """Return the slice bounds that `offset` and `limit` ask for."""
    first = _number("offset", 0)
    return first, first + min(_number("limit", default), most)


def _invalid_query(name: str, wanted: str, given: str) -> ApiError:
    message = f"{name} must be {wanted}, not {given[:40]!r}"
    return ApiError(HTTPStatus.BAD_REQUEST, "invalid_query", message)


def _body_of(summary: SessionSummary) -> SessionBody:
    """Return what the API says of a session, which this process may run."""
    lab, session = current_lab(), running(summary.id)
    state: Literal["running", "ending", "ended", "abandoned"] = summary.status
    waiting: list[str] = []
    if session is not None:
        state = "ending" if session.stopped or session.closing else "running"
        waiting = session.reasons()
        if (drained := lab.engine.pool.drained) and session.waiting:
            waiting.insert(0, f"no adapter gets a new case: {drained}")
    return SessionBody(
        id=summary.id,
        state=state,
        cases=summary.cases,
        counts={state.value: number for state, number in summary.counts.items()},
        outcomes=outcome_counts(summary.outcomes, over=summary.status != "running"),
        started=summary.started,
        ended=summary.ended,
        exit_code=summary.exit_code,
        interrupted=summary.interrupted,
        stopped=session.stopped if session is not None else summary.stopped,
        waiting=waiting,
        problems=[_problem(problem) for problem in summary.problems],
        warnings=list(summary.warnings),
        command=summary.command,
        commit=summary.commit,
        dirty=summary.dirty,
        job=summary.job,
        folder=str(lab.root / summary.id),
        urls=_urls(summary.id),
    )


def case_body(session: str, case: CaseRecord) -> CaseBody:
    """Return what is known of a case."""
    returned = case.attempt.returned if case.attempt is not None else None
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
        returned=returned.result.get("value") if returned is not None else None,
    )


def _since(folder: Path) -> dict[str, str]:
    changes = read_changes(folder)
    return changes.since if changes else {}


def _problem(problem: ProblemSummary) -> str:
    place = problem.file if problem.line is None else f"{problem.file}:{problem.line}"
    return f"{place}: {problem.problem}" + (f" ({problem.hint})" if problem.hint else "")


def _urls(session: str) -> Urls:
    api, page = rooted(f"/api/sessions/{quote(session)}"), rooted(f"/status/{quote(session)}")
    return Urls(
        session=api, cases=f"{api}/cases", events=f"{api}/events", page=page, junit=f"{page}/junit.xml"
    )
