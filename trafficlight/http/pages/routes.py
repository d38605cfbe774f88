"""The pages: sessions, their cases, and the files in their folders."""

import asyncio
import math
import os
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from quart import Blueprint, Response, current_app, redirect, request, url_for
from werkzeug.wrappers import Response as Redirect

from trafficlight.errors import UsageError
from trafficlight.http.api.cases import offered
from trafficlight.http.api.operations import unready
from trafficlight.http.api.specs import MOMENT, REQUESTS, OperationSpec, Query, ResponseSpec
from trafficlight.http.pages import files, logs
from trafficlight.http.pages.past import history_view, map_of
from trafficlight.http.pages.views import (
    Address,
    adapter_rows,
    attempt_views,
    case_of,
    case_page,
    case_path,
    causes_of,
    files_path,
    log_path,
    neighbours,
    progress_of,
    session_row,
    snapshot,
)
from trafficlight.http.requests import (
    asked_period,
    current_lab,
    one_at_a_time,
    open_session,
    running,
    session_folder,
    session_id,
)
from trafficlight.http.responses import PARTS_HEADER, ApiError, rendered, rooted, unless_known
from trafficlight.http.security import require_people
from trafficlight.results.catalog import SessionView, session_sort_key
from trafficlight.results.history.changes import compare_folders, read_changes
from trafficlight.results.history.database import HistoryError
from trafficlight.results.record import SessionRecord
from trafficlight.results.reports.filter import FIELDS
from trafficlight.results.reports.heatmap import View
from trafficlight.results.reports.issue import command_of, issue_of
from trafficlight.results.reports.junit import JunitDocument, JunitStyle
from trafficlight.results.reports.parts import Parts, known_versions
from trafficlight.results.reports.presentation import case_row, verdict

blueprint = Blueprint("pages", __name__)
#: The style sheet and the script. They require no token, because the login page needs them.
assets = Blueprint("assets", __name__)

_ASSETS = Path(__file__).parents[2] / "static"

_SESSIONS = 20  # listed on the status page
_SESSIONS_PAGE = 50  # sessions per page of the list
# What /status/junit.xml is before the first session.
_EMPTY_JUNIT = JunitDocument(SessionRecord(), JunitStyle(Path())).to_bytes(running=True)

_LIST = (
    Query(
        "state", "Show only cases with this status, for example `failure`; repeatable.", {"type": "string"}
    ),
    Query(
        "q",
        "Show only the cases that a query means, for example `bob:Hydrogen* undecryptable`.",
        {"type": "string"},
    ),
    Query(
        "map",
        "How the heat map is arranged: `clients` or `tests`; `succeeds`, `p50`, `p95`, `flaky` or `changed`; "
        "`families`, `folders`, `transposed`, `failed`; repeatable.",
        {"type": "string"},
    ),
    Query("page", "The page of the list, from 1.", {"type": "string"}),
)
_TEXT = {"type": "string"}
_PAGE = ResponseSpec("The page.", media_type="text/html")
_JUNIT = {
    200: ResponseSpec("The document.", media_type="application/xml"),
    206: ResponseSpec("The part of the document that `Range` requests.", media_type="application/xml"),
}
_SAME = ResponseSpec("Unchanged since the response with that `ETag`.", media_type=None)


blueprint.before_request(require_people)


@blueprint.get("/")
@OperationSpec(
    "Pages", {302: ResponseSpec("To the status page.", media_type="text/html")}, (401,), guard="people"
)
async def index() -> Redirect:
    """Redirect to the status page."""
    return redirect(url_for("pages.status"))


@blueprint.get("/status")
@OperationSpec("Pages", {200: _PAGE, 304: _SAME}, (401,), query=_LIST, guard="people")
async def status() -> Response:
    """Show the latest session."""
    if (latest := await current_lab().catalog.latest()) is not None:
        return await _status(latest)
    return unless_known(await asyncio.to_thread(_rendered, "no_session.html", **_adapters()))


@blueprint.get("/status/")
@OperationSpec(
    "Pages", {302: ResponseSpec("To the status page.", media_type="text/html")}, (401,), guard="people"
)
async def status_of_the_original() -> Redirect:
    """Redirect to the status page; the original's documentation names this path."""
    return redirect(url_for("pages.status"))


@blueprint.get("/status/<session>")
@OperationSpec("Pages", {200: _PAGE, 304: _SAME}, (401, 404), query=_LIST, guard="people")
async def session_status(session: str) -> Response:
    """Show a session; `latest` names the latest."""
    return await _status(await session_id(session))


@blueprint.get("/sessions")
@OperationSpec(
    "Pages",
    {200: _PAGE, 304: _SAME},
    (401,),
    query=(Query("page", "The page of the list, from 1.", {"type": "string"}),),
    guard="people",
)
async def sessions() -> Response:
    """List all sessions, the newest first."""
    catalog = current_lab().catalog
    ids = await catalog.ids()
    pages = max(1, -(-len(ids) // _SESSIONS_PAGE))
    number = min(_number("page"), pages)
    shown = await catalog.summaries(ids[(number - 1) * _SESSIONS_PAGE : number * _SESSIONS_PAGE])
    rows = [session_row(summary) for summary in shown]
    content = await asyncio.to_thread(
        _rendered, "sessions.html", rows=rows, total=len(ids), page=number, pages=pages
    )
    return unless_known(content)


@blueprint.get("/status/junit.xml")
@OperationSpec("Results", {**_JUNIT, 304: _SAME}, (401, 416), guard="people")
async def latest_junit() -> Response:
    """Return the JUnit document of the latest session in its current state; empty if there is none."""
    if (latest := await current_lab().catalog.latest()) is None:
        return Response(_EMPTY_JUNIT, content_type="application/xml")
    return await _junit(latest)


@blueprint.get("/status/<session>/junit.xml")
@OperationSpec("Results", {**_JUNIT, 304: _SAME}, (401, 404, 416), guard="people")
async def junit(session: str) -> Response:
    """Return the JUnit document of a session in its current state."""
    return await _junit(await session_id(session))


@blueprint.get("/status/<session>/case")
@OperationSpec(
    "Pages",
    {302: ResponseSpec("To the case's page.", media_type="text/html")},
    (401, 404),
    query=(Query("id", "The case's id.", {"type": "string"}),),
    guard="people",
)
async def case_by_id(session: str) -> Redirect:
    """Redirect to the page of the case with this `id`."""
    async with open_session(session) as found:
        case = found.record.cases.get(request.args.get("id", ""))
        if case is None:
            raise _unknown_case(found)
        return redirect(rooted(case_path(found.id, case.id)))


@blueprint.get("/status/<session>/case/<key>")
@OperationSpec("Pages", {200: _PAGE, 304: _SAME}, (400, 401, 404), query=(*REQUESTS, *MOMENT), guard="people")
async def case(session: str, key: str) -> Response:
    """Show a case: its attempts with timeline, log, traceback and files, and the requests of its clients.

    Requests are shown if `between` is there.
    """
    between, role = request.args.get("between"), request.args.get("role", "")
    period = asked_period() if between is not None else None
    lab = current_lab()
    async with open_session(session) as found:
        cases, over, session_record = list(found.record.cases.values()), found.over, found.record
        record = await asyncio.to_thread(case_of, cases, key)
        if record is None:
            raise _unknown_case(found)
        whole = snapshot(await lab.catalog.case(found.id, record.id) or record)
        row = case_row(whole, found.until or lab.clock.now(), over=found.over)
        events, started, offer = _events(found), found.record.started, offered(found, whole)
    folder = found.folder
    latest = whole.attempts[-1].number if whole.attempts else 0
    number = _number("attempt") if "attempt" in request.args else latest
    at = request.args.get("at", type=float)
    cursor = (number, at) if at is not None and math.isfinite(at) else None

    def content() -> bytes:
        last = whole.ended[-1] if whole.ended else None
        history = history_view(lab.history, folder, whole.id, started)
        again = offer != "new" or (folder / "request.json").is_file()
        return _rendered(
            "case.html",
            offer=offer if again else "",
            neighbours=neighbours(cases, whole.id, over=over),
            near=lambda case: rooted(case_path(found.id, case)),
            command=command_of(session_record, whole),
            issue=issue_of(session_record, whole, last) if last is not None else "",
            session=found.id,
            state=found.status,
            events=events,
            case=whole,
            row=row,
            attempts=attempt_views(folder, whole, role, period, cursor, history.before),
            history=history,
            between=between,
            role=role,
            page=lambda session: rooted(case_path(session, whole.id)),
            url=lambda path: rooted(files_path(found.id, path)),
            log=lambda *paths: rooted(log_path(found.id, paths)),
        )

    return unless_known(
        await (asyncio.to_thread if period is None and cursor is None else one_at_a_time)(content)
    )


@blueprint.get("/s/<before>...<after>")
@OperationSpec("Pages", {200: _PAGE, 304: _SAME}, (400, 401, 404), guard="people")
async def changes(before: str, after: str) -> Response:
    """Show what changed between two sessions; `latest` names the latest."""
    old, new = await session_folder(before), await session_folder(after)

    def content() -> bytes:
        try:
            found = compare_folders(old, new)
        except UsageError as error:
            raise ApiError(HTTPStatus.BAD_REQUEST, "invalid_request", str(error)) from None
        return _rendered(
            "changes.html",
            before=old.name,
            after=new.name,
            changes=found,
            href=lambda case: rooted(case_path(new.name, case)),
        )

    return unless_known(await one_at_a_time(content))


@blueprint.get("/status/<session>/files/<path:name>")
@OperationSpec(
    "Results",
    {
        200: ResponseSpec("The file.", media_type="*/*"),
        206: ResponseSpec("The part of the file that `Range` requests.", media_type="*/*"),
        304: _SAME,
    },
    (401, 404, 416),
    guard="people",
)
async def file(session: str, name: str) -> Response:
    """Return a file of a session's folder, or the requested range of it."""
    folder = await session_folder(session)
    path = await asyncio.to_thread(files.find, folder, name)
    return await (files.serve_report(path) if name == "report.html" else files.serve(path))


@blueprint.get("/status/<session>/log")
@OperationSpec(
    "Pages",
    {200: _PAGE, 302: ResponseSpec("To the line that was found.", media_type="text/html"), 304: _SAME},
    (400, 401, 404),
    query=(
        Query("file", "A file of the session's folder; several are shown in the order of time.", _TEXT),
        Query("from", "The number of the first line; by default the end is shown.", _TEXT),
        Query("find", "A text that is marked.", _TEXT),
        Query("after", "Go to the next line with the text, after this one.", _TEXT),
        Query("before", "Go to the last line with the text before this one.", _TEXT),
        Query("hit", "The line that was found.", _TEXT),
    ),
    guard="people",
)
async def log(session: str) -> Response | Redirect:
    """Show 1,000 lines of text files, with the colours of their levels and escape sequences."""
    asked = request.args.getlist("file")
    if not 1 <= len(asked) <= logs.FILES:
        message = f"name the files with file=, at most {logs.FILES}"
        raise ApiError(HTTPStatus.BAD_REQUEST, "invalid_request", message)
    folder, text = await session_folder(session), request.args.get("find", "")[:200]
    here = rooted(log_path(folder.name, asked))
    known = running(folder.name)

    def content() -> bytes | str:
        paths = [files.find(folder, name) for name in asked]
        above = os.path.commonpath([path.parent for path in paths])
        names = [path.relative_to(above).as_posix() for path in paths]
        missed = False
        try:
            for way in ("after", "before"):
                if text and way in request.args:
                    start = _number(way, least=0)
                    if (hit := logs.find(paths, text, start, backwards=way == "before")) is not None:
                        query = urlencode({"find": text, "from": max(1, hit - 20), "hit": hit})
                        return f"{here}&{query}#L{hit}"
                    missed = True
            first = _number("from") if "from" in request.args else None
            page = logs.page_of(paths, first, text)
        except OSError:
            raise ApiError(HTTPStatus.NOT_FOUND, "unknown_file", "there is no such file") from None
        return _rendered(
            "log.html",
            session=folder.name,
            asked=asked,
            names=names,
            raw=[
                (name, rooted(files_path(folder.name, path))) for name, path in zip(names, asked, strict=True)
            ],
            here=here,
            page=page,
            text=text,
            hit=_number("hit") if text and "hit" in request.args else 0,
            missed=missed,
            at_end=first is None,
            running=known is not None and known.record.ended is None,
        )

    found = await asyncio.to_thread(content)
    return redirect(found) if isinstance(found, str) else unless_known(found)


@assets.get("/static/<path:name>")
async def asset(name: str) -> Response:
    """Return a static file of the pages."""
    path = await asyncio.to_thread(files.find, _ASSETS, name)
    return await files.serve(path, media_type=files.media_type_of(name))


def _rendered(template: str, **values: Any) -> bytes:
    """Return a page that says what keeps the lab from working. Any thread may call it."""
    lab = current_lab()
    alarms = [*unready(lab), *filter(None, [lab.engine.stalled.alarm])]
    known = known_versions(request.headers.get(PARTS_HEADER, ""))
    live = Parts(current_app.config["VERSIONS"], known, lab.clock.now().timestamp())
    return rendered(template, live=live, alarms=alarms, **values)


def _unknown_case(session: SessionView) -> ApiError:
    message = f"the session {session.id} has no such case"
    return ApiError(HTTPStatus.NOT_FOUND, "unknown_case", message)


async def _junit(id: str) -> Response:
    if (session := running(id)) is not None:
        content = await asyncio.to_thread(session.writer.junit, running=session.record.ended is None)
        return Response(content, content_type="application/xml")
    path = await asyncio.to_thread(files.find, await session_folder(id), "junit.xml")
    return await files.serve(path, media_type="application/xml")


def _adapters() -> dict[str, Any]:
    """Return the template values about adapters."""
    lab = current_lab()
    types, live, gone = adapter_rows(lab.engine.pool, lab.clock.monotonic())
    pool = lab.engine.pool
    return {
        "types": types,
        "adapters": live,
        "gone": gone,
        "drained": pool.drained,
        "paused": pool.paused_and_absent,
    }


def _number(name: str, *, least: int = 1) -> int:
    """Return a number of the query; the least by default."""
    text = request.args.get(name, "")
    return max(least, int(text)) if text.isascii() and text.isdigit() and len(text) < 10 else least


async def _status(id: str) -> Response:
    lab = current_lab()
    states, text = request.args.getlist("state"), request.args.get("q", "")[:4000].strip()
    number, adapters, view = _number("page"), _adapters(), View.of(request.args.getlist("map"))
    ids = await lab.catalog.ids()
    latest = await lab.catalog.summaries(ids[:_SESSIONS])
    rows = [session_row(summary) for summary in latest]
    async with open_session(id) as found:
        record, over, events = found.record, found.over, _events(found)
        cases, now = list(record.cases.values()), found.until or lab.clock.now()
        state = "interrupted" if record.interrupted else found.status

        def content() -> bytes:
            before = ""
            with suppress(HistoryError):
                before = lab.history.session_before(record)
            changes = read_changes(found.folder)
            since = changes.since if changes else {}
            shown = case_page(cases, now, over=over, since=since, states=states, text=text, page=number)
            matching = {case.id for case in shown.matching}
            return _rendered(
                "status.html",
                **adapters,
                rows=rows,
                address=Address(
                    rooted(f"/status/{quote(found.id)}"), states, "" if shown.problem else text, view.words
                ),
                states=states,
                text=text,
                session=found.id,
                state=state,
                events=events,
                record=record,
                progress=""
                if over or record.started is None
                else progress_of(shown, (now - record.started).total_seconds()),
                changes=changes,
                newer=latest[0].id
                if latest and session_sort_key(latest[0].id) > session_sort_key(found.id)
                else "",
                before=before if before in ids else "",
                result=verdict(
                    shown.counts,
                    state,
                    len(record.problems),
                    reduced=record.strict and bool(record.reductions),
                ),
                cases=shown,
                causes=[
                    (cause, shared)
                    for cause in causes_of(found.folder, cases, since)
                    if (shared := sum(case in matching for case in cause.cases))
                ],
                fields=list(FIELDS),
                map=map_of(lab.history, found.folder, record, shown.matching, view, changes, over=over),
                href=lambda case: rooted(case_path(found.id, case)),
            )

        return unless_known(await asyncio.to_thread(content))


def _events(session: SessionView) -> str:
    """Return the URL of the events that follow what a page shows; empty if the session no longer runs."""
    after = session.record.last_sequence
    return "" if session.over else rooted(f"/api/sessions/{quote(session.id)}/events?after={after}")
