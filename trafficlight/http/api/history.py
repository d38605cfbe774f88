"""The history over HTTP: what changed in a session, and how a case ended before."""

import asyncio
from http import HTTPStatus

from quart import Blueprint, Response, request

from trafficlight.errors import UsageError
from trafficlight.http.api.bodies import HistoryBody, PastBody
from trafficlight.http.api.specs import OperationSpec, Query, ResponseSpec
from trafficlight.http.pages.past import CATCHING_UP
from trafficlight.http.requests import current_lab, json_response, one_at_a_time, session_folder
from trafficlight.http.responses import ApiError
from trafficlight.http.security import require_people
from trafficlight.results.history.changes import Changes, compare_folders, read_changes
from trafficlight.results.history.database import HistoryError

blueprint = Blueprint("history_api", __name__, url_prefix="/api")
blueprint.before_request(require_people)

_VERDICTS, _MOST_VERDICTS = 20, 1000


@blueprint.get("/sessions/<session>/changes")
@OperationSpec(
    "Sessions",
    {200: ResponseSpec("What changed.", Changes)},
    (400, 401, 404),
    query=(Query("since", "The session to compare with; by default all earlier ones.", {"type": "string"}),),
    guard="people",
)
async def changes(session: str) -> Response:
    """Return what changed in a session: new, known, fixed and slower cases, measurements, versions.

    404 with the code `no_changes` if it has not ended, or was the first.
    """
    folder = await session_folder(session)
    if since := request.args.get("since"):
        before = await session_folder(since)
        try:
            return json_response(await one_at_a_time(lambda: compare_folders(before, folder)))
        except UsageError as error:
            raise ApiError(HTTPStatus.BAD_REQUEST, "invalid_request", str(error)) from None
    if (found := await asyncio.to_thread(read_changes, folder)) is None:
        message = f"the session {folder.name} has not been compared with earlier ones"
        raise ApiError(HTTPStatus.NOT_FOUND, "no_changes", message)
    return json_response(found)


@blueprint.get("/history")
@OperationSpec(
    "Sessions",
    {200: ResponseSpec("Its verdicts.", HistoryBody)},
    (400, 401, 503),
    query=(
        Query("case", "The case's id.", {"type": "string"}),
        Query(
            "limit",
            f"The maximum number of verdicts; {_VERDICTS} by default, at most {_MOST_VERDICTS}.",
            {"type": "integer", "minimum": 1, "maximum": _MOST_VERDICTS},
        ),
    ),
    guard="people",
)
async def history() -> Response:
    """Return how a case ended in the latest sessions, how often it flakes, and since when it fails."""
    case, text = request.args.get("case", ""), request.args.get("limit", str(_VERDICTS))
    if not (text.isascii() and text.isdigit() and len(text) < 9 and 1 <= int(text) <= _MOST_VERDICTS):
        message = f"limit must be a number from 1 to {_MOST_VERDICTS}, not {text[:40]!r}"
        raise ApiError(HTTPStatus.BAD_REQUEST, "invalid_query", message)
    known = current_lab().history

    def content() -> HistoryBody:
        known.update(CATCHING_UP)
        found = known.of_case(case, int(text))
        verdicts = [PastBody.of(one) for one in found.past]
        first, good = found.first_bad, found.last_good
        return HistoryBody(
            case=case,
            verdicts=verdicts,
            flakes=found.flakes,
            flake_interval=tuple(found.flake_interval),
            failing_since=first.session if first is not None else None,
            failing_sessions=len(found.failing),
            last_good=good.session if good is not None else None,
            typical_seconds=found.typical_seconds,
        )

    try:
        return json_response(await asyncio.to_thread(content))
    except HistoryError as error:
        raise ApiError(HTTPStatus.SERVICE_UNAVAILABLE, "no_history", str(error)) from None
