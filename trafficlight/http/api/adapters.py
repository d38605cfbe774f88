"""Adapters, for people: who is there, and who gets no new case."""

import itertools
from datetime import datetime
from http import HTTPStatus
from urllib.parse import parse_qs

from pydantic import BaseModel, Field
from quart import Blueprint, Response, request

from trafficlight.coordinator.adapter import Adapter, AdapterState
from trafficlight.coordinator.pool import Pool
from trafficlight.http.api.specs import OperationSpec, ResponseSpec
from trafficlight.http.errors import ApiError
from trafficlight.http.requests import chunks, current_lab, json_object, validated
from trafficlight.http.security import require_people

blueprint = Blueprint("adapters_admin", __name__, url_prefix="/api/adapters")

_GROUP = "Adapter operations"
_LIMIT = 16 << 10  # bytes of a reason
_MOST = 10_000  # adapters listed one by one
_FORM = "application/x-www-form-urlencoded"


class AdapterBody(BaseModel):
    """One adapter that is there."""

    uuid: str
    type: str
    version: str
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


class Reason(BaseModel):
    """Why."""

    reason: str = Field(min_length=1, max_length=500, description="Shown to people.")


blueprint.before_request(require_people)


@blueprint.get("")
@OperationSpec(_GROUP, {200: ResponseSpec("The adapters.", AdapterList)}, (401,), guard="people")
async def adapters() -> Response:
    """List the adapters that are there, and say which of them get no new case."""
    return _listed()


@blueprint.post("/<uuid>/pause")
@OperationSpec(
    _GROUP,
    {
        200: ResponseSpec("It is paused.", AdapterBody),
        303: ResponseSpec("For a form: to the status page.", media_type=None),
    },
    (400, 401, 403, 404, 409, 413, 415),
    body=Reason,
    guard="people",
)
async def pause(uuid: str) -> Response:
    """Give an adapter no new case until it is resumed; what it is in goes on.

    An adapter that registers again for each case is not paused then: drain the pool to stop all of them.
    """
    pool = current_lab().engine.pool
    reason = await _reason()
    adapter = _present(pool, uuid)
    pool.pause(adapter, reason)
    return _told(_body(adapter))


@blueprint.post("/<uuid>/resume")
@OperationSpec(
    _GROUP,
    {
        200: ResponseSpec("It gets cases.", AdapterBody),
        303: ResponseSpec("For a form: to the status page.", media_type=None),
    },
    (401, 403, 404, 409),
    guard="people",
)
async def resume(uuid: str) -> Response:
    """Let a paused or quarantined adapter have cases again, and forget how often its program failed."""
    pool = current_lab().engine.pool
    adapter = _present(pool, uuid)
    pool.resume(adapter)
    return _told(_body(adapter))


@blueprint.post("/drain")
@OperationSpec(
    _GROUP,
    {
        200: ResponseSpec("Nothing starts.", AdapterList),
        303: ResponseSpec("For a form: to the status page.", media_type=None),
    },
    (400, 401, 403, 413, 415),
    body=Reason,
    guard="people",
)
async def drain() -> Response:
    """Give no adapter a new case, those that will yet register included; what runs goes on."""
    current_lab().engine.pool.drain(await _reason())
    return _told(None)


@blueprint.post("/undrain")
@OperationSpec(
    _GROUP,
    {
        200: ResponseSpec("Cases start again.", AdapterList),
        303: ResponseSpec("For a form: to the status page.", media_type=None),
    },
    (401, 403),
    guard="people",
)
async def undrain() -> Response:
    """Let adapters have cases again; those that are paused themselves stay so."""
    current_lab().engine.pool.undrain()
    return _told(None)


async def _reason() -> str:
    """Return the reason in the body, which a program sends as JSON and a page as a form."""
    if request.mimetype != _FORM:
        return validated(Reason, await json_object(_LIMIT)).reason
    raw = b"".join([chunk async for chunk in chunks(_LIMIT)])
    if not raw:
        return "manually, on the status page"
    try:
        form = parse_qs(raw.decode("utf-8", "replace"), max_num_fields=20)
    except ValueError as error:
        raise ApiError(
            HTTPStatus.BAD_REQUEST, "malformed_form", f"the form cannot be read: {error}"
        ) from None
    return validated(Reason, {name: values[0] for name, values in form.items()}).reason


def _present(pool: Pool, uuid: str) -> Adapter:
    adapter = pool.get(uuid)
    if adapter.state is AdapterState.ENDED:
        message = f"the adapter has ended: {adapter.reason}"
        raise ApiError(HTTPStatus.CONFLICT, "adapter_ended", message)
    return adapter


def _told(body: BaseModel | None) -> Response:
    """ResponseSpec a program with what it asked for, and lead a page back to where it was."""
    if request.mimetype == _FORM:
        return Response(b"", status=HTTPStatus.SEE_OTHER, headers={"Location": "/status#adapters"})
    return _json(body) if body is not None else _listed()


def _listed() -> Response:
    pool = current_lab().engine.pool
    present = [adapter for adapter in pool if adapter.state is not AdapterState.ENDED]
    shown = [_body(adapter) for adapter in itertools.islice(present, _MOST)]
    return _json(AdapterList(adapters=shown, total=len(present), drained=pool.drained))


def _body(adapter: Adapter) -> AdapterBody:
    lease = adapter.held_by
    waits = "waits in a poll" if adapter.channel.polling else "is not polling right now"
    return AdapterBody(
        uuid=adapter.uuid,
        type=adapter.type,
        version=adapter.registration.version or "",
        state=adapter.state,
        case=lease.case if lease is not None else None,
        session=lease.session if lease is not None else None,
        role=adapter.role if lease is not None else None,
        doing=waits if adapter.state is AdapterState.FREE else adapter.channel.activity_summary(),
        paused=adapter.paused,
        quarantined=adapter.quarantined,
        cases=adapter.cases,
        registered=adapter.registered,
        silent=round(max(0.0, current_lab().clock.monotonic() - adapter.seen), 3),
    )


def _json(body: BaseModel) -> Response:
    return Response(body.model_dump_json(), content_type="application/json")
