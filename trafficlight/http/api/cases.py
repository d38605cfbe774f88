"""One case of a session over HTTP: cancel it, or run it again."""

from functools import partial
from http import HTTPStatus

from pydantic import BaseModel, Field
from quart import Blueprint, Response, current_app

from trafficlight.errors import UsageError
from trafficlight.http.api.sessions import (
    SESSION,
    STARTED,
    check_open,
    current_body,
    ended_already,
    start_again,
    started_response,
)
from trafficlight.http.api.specs import OperationSpec, ResponseSpec
from trafficlight.http.pages.views import case_path
from trafficlight.http.requests import (
    current_lab,
    form_or_object,
    is_form,
    json_response,
    open_session,
    running,
    session_id,
    validated,
)
from trafficlight.http.responses import ApiError, rooted, see_other
from trafficlight.http.security import require_people
from trafficlight.results.case import CaseRecord
from trafficlight.results.catalog import SessionView
from trafficlight.results.events import FINAL

blueprint = Blueprint("cases_api", __name__, url_prefix="/api/sessions")

_operation = partial(OperationSpec, "Sessions", guard="people")
_LIMIT = 64 << 10  # bytes
_AFTER_FORM = {303: ResponseSpec("For a form: to the page of the case.", media_type=None)}


class CaseName(BaseModel):
    """Names one case of the session."""

    case: str = Field(min_length=1, description="The case's id.")
    reason: str = Field(default="", max_length=500, description="Why; shown to people.")


blueprint.before_request(require_people)


@blueprint.post("/<session>/cases/cancel")
@_operation({200: SESSION, **_AFTER_FORM}, (400, 401, 403, 404, 409, 413, 415), body=CaseName)
async def cancel_case(session: str) -> Response:
    """Cancel a case: it ends as skipped if it waits, and as an error if it runs. It is not tried again.

    One that waits for a further attempt keeps its verdict. Can be repeated while a case is being cancelled.
    """
    id, (case, how) = await session_id(session), await _asked()
    found = running(id)
    if found is None:
        raise ended_already(id)
    if case not in found.record.cases:
        raise _unknown_case(id)
    if not current_lab().engine.cancel_case(found, case, f"the case was cancelled {how}"):
        raise ApiError(HTTPStatus.CONFLICT, "case_ended", "the case has ended already")
    return _on_its_page(id, case) or json_response(await current_body(id))


@blueprint.post("/<session>/cases/rerun")
@_operation(
    {200: SESSION, **STARTED, **_AFTER_FORM}, (400, 401, 403, 404, 409, 413, 415, 503, 507), body=CaseName
)
async def rerun_case(session: str) -> Response:
    """Run a case that has ended again: in its session if that starts cases, otherwise in a new session.

    In its session, it gets a further attempt, whose verdict replaces the last one: 200. A new session runs
    the case as the request of this session does: 201.
    """
    id, (case, how) = await session_id(session), await _asked()
    async with open_session(id) as found:
        if (known := found.record.cases.get(case)) is None:
            raise _unknown_case(id)
        if known.state not in FINAL and not found.over:
            raise ApiError(HTTPStatus.CONFLICT, "case_not_ended", "the case has not ended yet")
    if (here := running(id)) is not None and here.reruns:
        try:
            again = await current_lab().engine.rerun_case(here, case, f"the case was run again {how}")
        except UsageError as error:
            raise ApiError(HTTPStatus.CONFLICT, "case_not_run", str(error)) from None
        if again:
            return _on_its_page(id, case) or json_response(await current_body(id))
    check_open()
    new = await start_again(id, [case], f"POST /api/sessions/{id}/cases/rerun")
    # A repetition has the id of its case there.
    case = next(iter(new.record.cases), case)
    return _on_its_page(new.id, case) or await started_response(new)


def offered(session: SessionView, case: CaseRecord) -> str:
    """Return which of these the page of a case offers: ``cancel``, ``rerun``, ``new``, or empty for none.

    :return: ``new`` stands for a rerun in a new session, whose request must be there, too.
    """
    here = running(session.id)
    if here is not None and not case.cancelled and (case.id in here.running or case.id in here.waiting):
        return "cancel"
    if case.state not in FINAL and not session.over:
        return ""
    if here is not None and here.reruns:
        return "" if case.skip_type == "ignored" else "rerun"
    return "new" if current_app.config["SESSIONS"] and not current_lab().engine.stopping else ""


async def _asked() -> tuple[str, str]:
    """Return the case that is named, and how: by a page, as a form, or by a program, as JSON."""
    named = validated(CaseName, await form_or_object(_LIMIT))
    how = "on its page" if is_form() else "over the API"
    return named.case, f"{how}: {named.reason}" if named.reason else how


def _on_its_page(session: str, case: str) -> Response | None:
    """Lead a page to the case; None for a program."""
    return see_other(rooted(case_path(session, case))) if is_form() else None


def _unknown_case(session: str) -> ApiError:
    message = f"the session {session} has no such case"
    return ApiError(HTTPStatus.NOT_FOUND, "unknown_case", message)
