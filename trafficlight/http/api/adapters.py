"""Adapters, for people: who is there, and who gets no new case."""

import itertools
from functools import partial
from http import HTTPStatus

from pydantic import BaseModel
from quart import Blueprint, Response, request

from trafficlight.coordinator.adapter import Adapter, AdapterState
from trafficlight.coordinator.pool import Pool
from trafficlight.http.api.bodies import AdapterBody, AdapterList, Reason
from trafficlight.http.api.specs import OperationSpec, ResponseSpec
from trafficlight.http.requests import current_lab, form_or_object, is_form, json_response, validated
from trafficlight.http.responses import ApiError, rooted, see_other
from trafficlight.http.security import require_people

blueprint = Blueprint("adapters_admin", __name__, url_prefix="/api/adapters")

_operation = partial(OperationSpec, "Adapter operations", guard="people")
_LIMIT = 16 << 10  # bytes of a reason
_MOST = 10_000  # adapters listed one by one
_AFTER_FORM = {303: ResponseSpec("For a form: to the status page.", media_type=None)}


blueprint.before_request(require_people)


@blueprint.get("")
@_operation({200: ResponseSpec("The adapters.", AdapterList)}, (401,))
async def adapters() -> Response:
    """List the adapters that are there, and say which of them get no new case."""
    return _listed()


@blueprint.post("/<path:adapter>/pause")
@_operation(
    {200: ResponseSpec("It is paused.", AdapterBody), **_AFTER_FORM},
    (400, 401, 403, 404, 413, 415),
    body=Reason,
)
async def pause(adapter: str) -> Response:
    """Give an adapter's program no new case until it is resumed; its current cases continue.

    It stays paused when its adapters register again, and after a restart of the coordinator.
    """
    pool = current_lab().engine.pool
    reason = await _reason()
    found = _named(pool, adapter)
    pool.pause(found, reason)
    await current_lab().keep_paused()
    return _answer(adapter_body(found, current_lab().clock.monotonic()))


@blueprint.post("/<path:adapter>/resume")
@_operation({200: ResponseSpec("It gets cases.", AdapterBody), **_AFTER_FORM}, (401, 403, 404))
async def resume(adapter: str) -> Response:
    """Let an adapter's program have cases again after a pause or a quarantine; forget how often it failed."""
    pool = current_lab().engine.pool
    found = _named(pool, adapter)
    pool.resume(found)
    await current_lab().keep_paused()
    return _answer(adapter_body(found, current_lab().clock.monotonic()))


@blueprint.post("/drain")
@_operation(
    {200: ResponseSpec("Nothing starts.", AdapterList), **_AFTER_FORM}, (400, 401, 403, 413, 415), body=Reason
)
async def drain() -> Response:
    """Give no adapter a new case, including those that register later; running cases continue.

    The lab stays drained after a restart of the coordinator.
    """
    current_lab().engine.pool.drain(await _reason())
    await current_lab().keep_paused()
    return _answer(None)


@blueprint.post("/undrain")
@_operation({200: ResponseSpec("Cases start again.", AdapterList), **_AFTER_FORM}, (401, 403))
async def undrain() -> Response:
    """Let adapters have cases again; those that are paused themselves stay so."""
    current_lab().engine.pool.undrain()
    await current_lab().keep_paused()
    return _answer(None)


async def _reason() -> str:
    """Return the reason in the body, which a program sends as JSON and a page as a form."""
    body = await form_or_object(_LIMIT)
    if is_form() and not request.content_length:
        return "manually, on the status page"
    return validated(Reason, body).reason


def _named(pool: Pool, name: str) -> Adapter:
    if (adapter := pool.named(name)) is None:
        message = f"there is no adapter and no program {name[:300]!r}: `trafficlight adapters` lists them"
        raise ApiError(HTTPStatus.NOT_FOUND, "unknown_adapter", message)
    return adapter


def _answer(body: BaseModel | None) -> Response:
    """Answer a program with what it asked for, and lead a page back to where it was."""
    if is_form():
        return see_other(rooted("/status#adapters"))
    return json_response(body) if body is not None else _listed()


def _listed() -> Response:
    pool, now = current_lab().engine.pool, current_lab().clock.monotonic()
    present = [adapter for adapter in pool if adapter.state is not AdapterState.ENDED]
    shown = [adapter_body(adapter, now) for adapter in itertools.islice(present, _MOST)]
    return json_response(
        AdapterList(adapters=shown, total=len(present), drained=pool.drained, paused=pool.paused)
    )


def adapter_body(adapter: Adapter, now: float) -> AdapterBody:
    """Return what is known of an adapter.

    :param now: on the pool's clock.
    """
    match adapter.state:
        case AdapterState.ENDED:
            doing = adapter.reason
        case AdapterState.LEASED:
            doing = adapter.channel.activity_summary()
        case AdapterState.RESETTING:
            doing = "resetting after its last case"
        case AdapterState.FREE if adapter.paused:
            doing = adapter.paused if adapter.quarantined else f"paused: {adapter.paused}"
        case AdapterState.FREE:
            doing = "polling" if adapter.channel.polling else "not polling"
    lease = adapter.held_by
    return AdapterBody(
        uuid=adapter.uuid,
        program=adapter.program,
        type=adapter.type,
        version=adapter.registration.version or "",
        instance=adapter.registration.instance or "",
        labels=adapter.registration.labels,
        address=adapter.address,
        endpoint=adapter.registration.endpoint or "",
        state=adapter.state,
        case=lease.case if lease is not None else None,
        session=lease.session if lease is not None else None,
        role=adapter.role if lease is not None else None,
        doing=doing,
        paused=adapter.paused,
        quarantined=adapter.quarantined,
        cases=adapter.cases,
        registered=adapter.registered,
        silent=round(max(0.0, now - adapter.seen), 3),
    )
