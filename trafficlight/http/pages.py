"""People's pages: the status of a session, its cases, and the files that they left behind."""

import asyncio
import hashlib
from http import HTTPStatus
from pathlib import Path
from typing import Any

from quart import Blueprint, Response, redirect, request, url_for
from werkzeug.wrappers import Response as Redirect

from trafficlight.coordinator.session import Session
from trafficlight.http import files
from trafficlight.http.case_view import attempt_views
from trafficlight.http.context import current_lab
from trafficlight.http.described import Answer, Endpoint, Query, described
from trafficlight.http.refusals import Refusal
from trafficlight.http.rendering import page, render
from trafficlight.http.tokens import check_people
from trafficlight.http.views import (
    SessionHead,
    adapter_rows,
    case_key,
    case_of,
    case_row,
    frozen,
    listing,
    standing,
)
from trafficlight.results.matrix import Cell, matrices
from trafficlight.results.xml_text import one_line

__all__ = ["assets", "blueprint"]

blueprint = Blueprint("pages", __name__)
#: The style and the script of the pages; they ask for no token, as the page for logging in needs them.
assets = Blueprint("assets", __name__)

_ASSETS = Path(__file__).parent.parent / "static"

LATEST = "latest"
_SESSIONS = 20  # told in the list of sessions
_CELLS = 5_000  # cases above which a matrix helps nobody

_LIST = (
    Query(
        "state", "Show only cases that stand like this, e.g. `failure`; may be repeated.", {"type": "string"}
    ),
    Query("q", "Show only cases whose id, message or reason has these words.", {"type": "string"}),
    Query("page", "The page of the list, from 1.", {"type": "string"}),
)
_PAGE = Answer("The page.", media_type="text/html")
_JUNIT = Answer("The document.", media_type="application/xml")
_SAME = Answer("It is the one that the `ETag` names.", media_type=None)


@blueprint.before_request
async def guard() -> None:
    """Let in who may see the pages."""
    token = current_lab().settings.people_token
    check_people(token.get_secret_value() if token is not None else None)


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
    sessions = current_lab().engine.sessions
    return await _status(_session(LATEST) if sessions else None)


@blueprint.get("/status/<session>")
@described(Endpoint("Pages", {200: _PAGE, 304: _SAME}, (401, 404), query=_LIST, guard="people"))
async def session_status(session: str) -> Response:
    """Show one session; `latest` is the latest."""
    return await _status(_session(session))


@blueprint.get("/status/junit.xml")
@described(Endpoint("Results", {200: _JUNIT}, (401, 404), guard="people"))
async def latest_junit() -> Response:
    """Give the JUnit document of the latest session, as it stands now."""
    return await _junit(_session(LATEST))


@blueprint.get("/status/<session>/junit.xml")
@described(Endpoint("Results", {200: _JUNIT}, (401, 404), guard="people"))
async def junit(session: str) -> Response:
    """Give the JUnit document of a session, as it stands now."""
    return await _junit(_session(session))


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
    found = _session(session)
    case = found.record.cases.get(request.args.get("id", ""))
    if case is None:
        raise _unknown_case(found)
    return redirect(url_for("pages.case", session=found.id, key=case_key(case.id)))


@blueprint.get("/status/<session>/case/<key>")
@described(Endpoint("Pages", {200: _PAGE, 304: _SAME}, (401, 404), guard="people"))
async def case(session: str, key: str) -> Response:
    """Show one case: how it went, what was said, what it left behind."""
    found = _session(session)
    record = case_of(found.record, key)
    if record is None:
        raise _unknown_case(found)
    copy, row = frozen(record), case_row(found, record, current_lab().clock.now())

    def content() -> bytes:
        return render(
            "case.html",
            session=found.id,
            live=found.record.ended is None,
            case=copy,
            row=row,
            attempts=attempt_views(found.folder.path, copy),
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
    folder = _session(session).folder.path
    return await files.serve(await asyncio.to_thread(files.find, folder, name))


@assets.get("/static/<path:name>")
async def asset(name: str) -> Response:
    """Give a part of the pages."""
    return await files.serve(await asyncio.to_thread(files.find, _ASSETS, name), trusted=True)


def _session(name: str) -> Session:
    sessions = current_lab().engine.sessions
    if name == LATEST and sessions:
        return sessions[next(reversed(sessions))]
    if name not in sessions:
        message = "no session has run yet" if not sessions else "there is no such session"
        raise Refusal(HTTPStatus.NOT_FOUND, "unknown_session", message)
    return sessions[name]


def _unknown_case(session: Session) -> Refusal:
    message = f"the session {session.id} has no such case"
    return Refusal(HTTPStatus.NOT_FOUND, "unknown_case", message)


async def _junit(session: Session) -> Response:
    content = await asyncio.to_thread(session.writer.junit)
    return Response(content, content_type="application/xml")


async def _status(session: Session | None) -> Response:
    lab = current_lab()
    types, live, gone = adapter_rows(lab.engine.pool, lab.clock.monotonic())
    states, text = request.args.getlist("state"), request.args.get("q", "")[:200]
    number = request.args.get("page", "1")
    asked = int(number) if number.isascii() and number.isdigit() and len(number) < 10 else 1
    heads = [SessionHead.of(one) for one in list(lab.engine.sessions.values())[: -_SESSIONS - 1 : -1]]
    values: dict[str, Any] = {
        "types": types,
        "adapters": live,
        "gone": gone,
        "drained": lab.engine.pool.drained,
        "heads": heads,
        "states": states,
        "text": text,
        "live": session is None or session.record.ended is None,
    }
    if session is None:
        return _unless_known(await asyncio.to_thread(render, "no_session.html", **values))
    shown = listing(session, lab.clock.now(), states=states, text=text, page=asked)
    cases, record = list(session.record.cases.values()), session.record

    def content() -> bytes:
        return render(
            "status.html",
            **values,
            session=session.id,
            record=record,
            listing=shown,
            matrices=matrices(cases) if len(cases) <= _CELLS else None,
            key=case_key,
            tip=_tip,
            standing=lambda case: standing(case, ended=record.ended is not None),
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
    why = one_line(case.message or case.reason, 160)
    return f"{case.cell or case.id}{more}" + (f": {why}" if why else "")
