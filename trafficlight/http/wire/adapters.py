"""The five endpoints that adapters speak to."""

import re
import secrets
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from quart import Blueprint, jsonify, request
from quart.wrappers import Response
from werkzeug.exceptions import MethodNotAllowed

from trafficlight.coordinator.adapter import Adapter, AdapterState
from trafficlight.coordinator.channel import Receipt
from trafficlight.http import security as tokens
from trafficlight.http.answers import Nothing, Responded, Uploaded
from trafficlight.http.api.described import Answer, Endpoint, Query, described
from trafficlight.http.context import current_lab
from trafficlight.http.errors import ApiError
from trafficlight.http.requests import json_object, validated
from trafficlight.http.same_origin import check_same_origin
from trafficlight.http.wire.polling import hold_time
from trafficlight.http.wire.uploads import receive
from trafficlight.protocol import ActionMessage, ErrorReport, Registered, Registration, Respond
from trafficlight.results.events import Log
from trafficlight.text import single_line
from trafficlight.version import VERSION

blueprint = Blueprint("adapter_api", __name__, url_prefix="/client/<uuid>")

# Bytes of the bodies.
_REGISTRATION_LIMIT = 64 << 10
_ANSWER_LIMIT = 16 << 20
_UUID = re.compile(r"[A-Za-z0-9_.:-]{1,100}")
_GROUP = "Adapters"
_FILE_FORM = {
    "type": "object",
    "properties": {"file": {"type": "string", "format": "binary", "description": "The file, with its name."}},
    "required": ["file"],
}


def _adapter(uuid: str) -> Adapter:
    """Return the adapter that speaks, and note its sign of life."""
    pool = current_lab().engine.pool
    adapter = pool.get(uuid)
    tokens.check_adapter(adapter)
    pool.seen(adapter)
    return adapter


@blueprint.before_request
async def guard() -> None:
    """Keep pages of other sites from playing an adapter."""
    check_same_origin()


@blueprint.post("/register")
@described(
    Endpoint(
        _GROUP,
        {200: Answer("It is taken in.", Registered)},
        (400, 401, 409, 413, 415),
        body=Registration,
        guard="registration",
    )
)
async def register(uuid: str) -> Response:
    """Take an adapter in. Returns at once; the first action comes with a poll.

    The same body again changes nothing; another one, or an id that was used before, is refused with 409.
    """
    lab = current_lab()
    shared = lab.settings.adapter_token
    known = lab.engine.pool.known(uuid)
    if known is not None and known.token_used:
        # Whoever knows only the shared token must not be told another adapter's own.
        tokens.check_adapter(known)
    else:
        tokens.check_shared(shared.get_secret_value() if shared else None, "ADAPTER_TOKEN")
    if not _UUID.fullmatch(uuid):
        message = "the uuid must be 1 to 100 letters, digits, or any of _.:-"
        raise ApiError(HTTPStatus.BAD_REQUEST, "invalid_uuid", message)
    body = await json_object(_REGISTRATION_LIMIT)
    registration = validated(Registration, body)
    own = secrets.token_urlsafe(24) if shared is not None else None
    adapter = lab.engine.pool.register(uuid, registration, token=own)
    answer = Registered(
        uuid=uuid,
        coordinator=VERSION,
        poll_hold=lab.settings.poll_hold,
        deadlines={"alive": lab.settings.alive_deadline, "action": lab.settings.action_deadline},
        token=adapter.token,
    )
    return _json(answer.model_dump(exclude_none=True))


@blueprint.get("/poll")
@described(
    Endpoint(
        _GROUP,
        {200: Answer("What to do next.", ActionMessage)},
        (400, 401, 404),
        query=(
            Query(
                "wait",
                "Seconds that the answer may be held, instead of the coordinator's own hold time.",
                {"type": "number", "minimum": 0},
            ),
        ),
        guard="adapter",
    )
)
async def poll(uuid: str) -> Response:
    """Ask what to do next. Held until there is something to do, or the hold time is over.

    An action comes again, with the same `id`, until it is answered. `idle` means: poll again after `delay`
    milliseconds. `exit` means: end, and come back under a new id.
    """
    if request.method == "HEAD":  # it would take an action and tell nobody
        raise MethodNotAllowed(["GET", "OPTIONS"])
    adapter = _adapter(uuid)
    message = await adapter.channel.poll(
        hold_time(request.args.get("wait"), current_lab().settings.poll_hold)
    )
    current_lab().engine.pool.seen(adapter)
    return _json(message.model_dump(exclude_none=True))


@blueprint.post("/respond")
@described(
    Endpoint(
        _GROUP,
        {200: Answer("What became of it.", Responded)},
        (400, 401, 404, 409, 413, 415),
        body=Respond,
        guard="adapter",
    )
)
async def respond(uuid: str) -> Response:
    """Answer the outstanding action.

    With the action's `id` it can be sent again without harm; an id that is not waiting is refused with 409.
    Without an id it answers whatever is outstanding. `{"response": "error"}` says that the client failed.
    """
    adapter = _adapter(uuid)
    body = await json_object(_ANSWER_LIMIT)
    answer = validated(Respond, body)
    response = {key: value for key, value in body.items() if key != "id"}
    receipt = adapter.channel.respond(answer.id, response)
    if receipt is Receipt.STALE:
        message = (
            f"the action {single_line(answer.id or '', 100)} is not waiting for an answer: poll for what is"
        )
        raise ApiError(HTTPStatus.CONFLICT, "stale_action", message)
    if receipt is Receipt.UNSOLICITED:
        _note(adapter, f"answered, but nothing was asked of it: {single_line(repr(response))}")
    return _json({"receipt": receipt})


@blueprint.post("/error")
@described(
    Endpoint(
        _GROUP,
        {200: Answer("It is noted.", Nothing)},
        (400, 401, 404, 413, 415),
        body=ErrorReport,
        guard="adapter",
    )
)
async def error(uuid: str) -> Response:
    """Report that something went wrong; the adapter is to register anew after that.

    A `type` of `action` means that the client failed, anything else that the adapter did.
    """
    adapter = _adapter(uuid)
    body = await json_object(_ANSWER_LIMIT)
    if not isinstance(body.get("error", {}), dict):
        body = {"error": {"details": str(body["error"]) if body["error"] is not None else None}}
    report = validated(ErrorReport, body)
    if adapter.state is AdapterState.ENDED:
        _note(adapter, f"reported an error after it had ended: {single_line(report.error.details)}")
    current_lab().engine.pool.report(adapter, report.error)
    return _json({})


@blueprint.post("/upload")
@described(
    Endpoint(
        _GROUP,
        {200: Answer("They are kept.", Uploaded)},
        (400, 401, 404, 413, 415, 507),
        form=_FILE_FORM,
        guard="adapter",
    )
)
async def upload(uuid: str) -> Response:
    """Send files that belong to the adapter's case, also after its end.

    Every part with a file name is one file. A name that comes again keeps both files.
    """
    adapter, lab = _adapter(uuid), current_lab()
    claim, role, limits = adapter.claim, adapter.role, current_lab().settings
    folder = (
        claim.client_folder(role) if claim is not None and role is not None else lab.unclaimed_folder(uuid)
    )

    before = _used(folder) if claim is None else 0

    def room() -> int:
        used = claim.uploaded_bytes if claim is not None else before
        return max(0, limits.upload_case_limit - used)

    files = await receive(folder, file_limit=limits.upload_file_limit, room=room)
    for file in files:
        if claim is not None and role is not None:
            claim.uploaded(role, uuid, file)
        else:
            _note(adapter, f"uploaded {file.name!r}, which belongs to no case: {file.path}")
    return _json({"files": [{"name": file.name, "size": file.size, "sha256": file.sha256} for file in files]})


def _note(adapter: Adapter, message: str) -> None:
    """Write into the log of the adapter's case, or of the lab where it has none."""
    claim = adapter.claim
    current_lab().journal.append(
        Log(
            session=claim.session if claim is not None else "",
            case=claim.case if claim is not None else None,
            attempt=claim.attempt if claim is not None else None,
            role=adapter.role if claim is not None else None,
            adapter=adapter.uuid,
            level="warning",
            logger="adapter",
            message=message,
        )
    )


def _used(folder: Path) -> int:
    """Return the bytes that lie in the folder of an adapter without a case; unfinished files do not count."""
    return sum(entry.stat().st_size for entry in folder.iterdir() if not entry.name.startswith("."))


def _json(body: Mapping[str, Any]) -> Response:
    return jsonify(body)
