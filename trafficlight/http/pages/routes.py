"""People's pages: the status of a session, its cases, and the files that they left behind."""

import asyncio
import hashlib
from http import HTTPStatus
from pathlib import Path
from typing import Any

from quart import Blueprint, Response, redirect, request, url_for
from werkzeug.wrappers import Response as Redirect

from trafficlight.http.api.described import Answer, Endpoint, Query, described
from trafficlight.http.context import current_lab
from trafficlight.http.errors import ApiError
from trafficlight.http.pages import files
from trafficlight.http.pages.case_view import attempt_views
from trafficlight.http.pages.rendering import page, render
from trafficlight.http.pages.views import (
    SessionRow,
    adapter_rows,
    case_of,
    case_path,
    case_row,
    frozen,
    listing,
    standing,
)
from trafficlight.http.security import require_people
from trafficlight.http.sessions import LATEST, open_session, running, session_folder, session_id
from trafficlight.results.catalog import SessionView
from trafficlight.results.reports.matrix import Cell, matrices
from trafficlight.text import single_line

blueprint = Blueprint("pages", __name__)
#: The style and the script of the pages; they ask for no token, as the page for logging in needs them.
assets = Blueprint("assets", __name__)

_ASSETS = Path(__file__).parents[2] / "static"

_SESSIONS = 20  # told on the status page
_SESSIONS_PAGE = 50  # told on a page of all sessions
_CELLS = 5_000  # cases above which a matrix helps nobody

_LIST = (
    Query(
        "state", "Show only cases that stand like this, e.g. `failure`; may be repeated.", {"type": "string"}
    ),
    Query("q", "Show only cases whose id, message or reason has these words.", {"type": "string"}),
    Query("page", "The page of the list, from 1.", {"type": "string"}),
)
_PAGE = Answer("The page.", media_type="text/html")
_JUNIT = {
    200: Answer("The document.", media_type="application/xml"),
    206: Answer("The part of it that `Range` asks for.", media_type="application/xml"),
}
_SAME = Answer("It is the one that the `ETag` names.", media_type=None)


blueprint.before_request(require_people)


@blueprint.get("/")
@described(
    Endpoint("Pages", {302: Answer("To the status page.", media_type="text/html")}, (401,), guard="people")
)
async def index() -> Redirect:
    """Lead to the status page."""
    return redirect(url_for("pages.status"))


@blueprint.get("/status")
@described(Endpoint("Pages", {200: _PAGE, 304: _SAME}, (401,), query=_LIST, guard="people"))
async def status() -> Response:
    """Show the latest session."""
    if (latest := await current_lab().catalog.latest()) is not None:
        return await _status(latest)
    content = await asyncio.to_thread(render, "no_session.html", **_adapters(), rows=[], live=True)
    return _unless_known(content)


@blueprint.get("/status/<session>")
@described(Endpoint("Pages", {200: _PAGE, 304: _SAME}, (401, 404), query=_LIST, guard="people"))
async def session_status(session: str) -> Response:
    """Show one session; `latest` is the latest."""
    return await _status(await session_id(session))


@blueprint.get("/sessions")
@described(
    Endpoint(
        "Pages",
        {200: _PAGE, 304: _SAME},
        (401,),
        query=(Query("page", "The page of the list, from 1.", {"type": "string"}),),
        guard="people",
    )
)
async def sessions() -> Response:
    """List all sessions, the newest first."""
    catalog = current_lab().catalog
    ids = await catalog.ids()
    pages = max(1, -(-len(ids) // _SESSIONS_PAGE))
    number = min(_number("page"), pages)
    shown = await catalog.summaries(ids[(number - 1) * _SESSIONS_PAGE : number * _SESSIONS_PAGE])
    rows = [SessionRow.of(summary) for summary in shown]
    content = await asyncio.to_thread(
        render, "sessions.html", rows=rows, total=len(ids), page=number, pages=pages
    )
    return _unless_known(content)


@blueprint.get("/status/junit.xml")
@described(Endpoint("Results", {**_JUNIT, 304: _SAME}, (401, 404, 416), guard="people"))
async def latest_junit() -> Response:
    """Give the JUnit document of the latest session, as it stands now."""
    return await _junit(await session_id(LATEST))


@blueprint.get("/status/<session>/junit.xml")
@described(Endpoint("Results", {**_JUNIT, 304: _SAME}, (401, 404, 416), guard="people"))
async def junit(session: str) -> Response:
    """Give the JUnit document of a session, as it stands now."""
    return await _junit(await session_id(session))


@blueprint.get("/status/<session>/case")
@described(
    Endpoint(
        "Pages",
        {302: Answer("To the case's page.", media_type="text/html")},
        (401, 404),
        query=(Query("id", "The case's id.", {"type": "string"}),),
        guard="people",
    )
)
async def case_by_id(session: str) -> Redirect:
    """Lead to the page of the case with the id that is given as `id`."""
    async with open_session(session) as found:
        case = found.record.cases.get(request.args.get("id", ""))
        if case is None:
            raise _unknown_case(found)
        return redirect(case_path(found.id, case.id))


@blueprint.get("/status/<session>/case/<key>")
@described(Endpoint("Pages", {200: _PAGE, 304: _SAME}, (401, 404), guard="people"))
async def case(session: str, key: str) -> Response:
    """Show one case: how it went, what was said, what it left behind."""
    lab = current_lab()
    async with open_session(session) as found:
        record = await asyncio.to_thread(case_of, list(found.record.cases.values()), key)
        if record is None:
            raise _unknown_case(found)
        whole = frozen(await lab.catalog.case(found.id, record.id) or record)
        row = case_row(whole, found.until or lab.clock.now(), over=found.over)
    folder = found.folder

    def content() -> bytes:
        return render(
            "case.html",
            session=found.id,
            standing=found.status,
            case=whole,
            row=row,
            attempts=attempt_views(folder, whole),
        )

    return _unless_known(await asyncio.to_thread(content))


@blueprint.get("/status/<session>/files/<path:name>")
@described(
    Endpoint(
        "Results",
        {
            200: Answer("The file.", media_type="*/*"),
            206: Answer("The part of it that `Range` asks for.", media_type="*/*"),
            304: _SAME,
        },
        (401, 404, 416),
        guard="people",
    )
)
async def file(session: str, name: str) -> Response:
    """Give a file out of a session's folder; whole, or the range that is asked for."""
    folder = await session_folder(session)
    return await files.serve(await asyncio.to_thread(files.find, folder, name))


@assets.get("/static/<path:name>")
async def asset(name: str) -> Response:
    """Give a part of the pages."""
    path = await asyncio.to_thread(files.find, _ASSETS, name)
    return await files.serve(path, media_type=files.media_type_of(name))


def _unknown_case(session: SessionView) -> ApiError:
    message = f"the session {session.id} has no such case"
    return ApiError(HTTPStatus.NOT_FOUND, "unknown_case", message)


async def _junit(id: str) -> Response:
    if (session := running(id)) is not None:
        content = await asyncio.to_thread(session.writer.junit)
        return Response(content, content_type="application/xml")
    path = await asyncio.to_thread(files.find, await session_folder(id), "junit.xml")
    return await files.serve(path, media_type="application/xml")


def _adapters() -> dict[str, Any]:
    """Return what the pages say of the adapters that there are now."""
    lab = current_lab()
    types, live, gone = adapter_rows(lab.engine.pool, lab.clock.monotonic())
    return {"types": types, "adapters": live, "gone": gone, "drained": lab.engine.pool.drained}


def _number(name: str) -> int:
    """Return a number from 1 out of the query; 1 where there is none."""
    text = request.args.get(name, "1")
    return max(1, int(text)) if text.isascii() and text.isdigit() and len(text) < 10 else 1


async def _status(id: str) -> Response:
    lab = current_lab()
    states, text = request.args.getlist("state"), request.args.get("q", "")[:200]
    number, adapters = _number("page"), _adapters()
    shown = await lab.catalog.summaries((await lab.catalog.ids())[:_SESSIONS])
    rows = [SessionRow.of(summary) for summary in shown]
    async with open_session(id) as found:
        record, over = found.record, found.over
        cases, now = list(record.cases.values()), found.until or lab.clock.now()

        def content() -> bytes:
            return render(
                "status.html",
                **adapters,
                rows=rows,
                states=states,
                text=text,
                session=found.id,
                state=found.status,
                record=record,
                listing=listing(cases, now, over=over, states=states, text=text, page=number),
                matrices=matrices(cases) if len(cases) <= _CELLS else None,
                link=case_path,
                tip=_tip,
                standing=lambda case: standing(case, ended=over),
            )

        return _unless_known(await asyncio.to_thread(content))


def _unless_known(content: bytes) -> Response:
    """Return a page, or only that it is the one that the browser has."""
    tag = hashlib.sha256(content).hexdigest()[:32]
    known = request.if_none_match.contains_weak(tag)
    answer = page(b"" if known else content, HTTPStatus.NOT_MODIFIED if known else HTTPStatus.OK)
    answer.set_etag(tag, weak=True)
    return answer


def _tip(cell: Cell) -> str:
    """Return what a cell of the matrix says on closer look."""
    case = cell.first
    more = f" (+{len(cell.cases) - 1} more)" if len(cell.cases) > 1 else ""
    why = single_line(case.message or case.reason, 160)
    return f"{case.cell or case.id}{more}" + (f": {why}" if why else "")
