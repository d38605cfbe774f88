"""The five endpoints that adapters speak to."""

import re
import secrets
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from quart import Blueprint, current_app, jsonify, request
from quart.wrappers import Response

from trafficlight.coordinator.channel import Receipt
from trafficlight.coordinator.lab import Lab
from trafficlight.coordinator.pool import Adapter
from trafficlight.http import tokens
from trafficlight.http.bodies import json_object, validated
from trafficlight.http.refusals import Refusal
from trafficlight.http.uploads import receive
from trafficlight.protocol import ErrorReport, Registered, Registration, Respond
from trafficlight.version import VERSION

__all__ = ["blueprint"]

blueprint = Blueprint("adapter_api", __name__, url_prefix="/client/<uuid>")

# Bytes of the bodies.
_REGISTRATION_LIMIT = 64 << 10
_ANSWER_LIMIT = 16 << 20
_UUID = re.compile(r"[A-Za-z0-9_.:-]{1,100}")


def _lab() -> Lab:
    lab: Lab = current_app.config["LAB"]
    return lab


def _adapter(uuid: str) -> Adapter:
    """Return the adapter that speaks, and note its sign of life."""
    pool = _lab().engine.pool
    adapter = pool.get(uuid)
    tokens.check_adapter(adapter)
    pool.seen(adapter)
    return adapter


@blueprint.post("/register")
async def register(uuid: str) -> Response:
    """Take an adapter in. Returns at once; the first action comes with a poll."""
    lab = _lab()
    shared = lab.settings.adapter_token
    tokens.check_shared(shared.get_secret_value() if shared else None, "ADAPTER_TOKEN")
    if not _UUID.fullmatch(uuid):
        message = "the uuid must be 1 to 100 letters, digits, or any of _.:-"
        raise Refusal(HTTPStatus.BAD_REQUEST, "invalid_uuid", message)
    body = await json_object(_REGISTRATION_LIMIT)
    validated(Registration, body)
    own = secrets.token_urlsafe(24) if shared is not None else None
    adapter = lab.engine.pool.register(uuid, body, token=own)
    answer = Registered(
        uuid=uuid,
        coordinator=VERSION,
        poll_hold=lab.settings.poll_hold,
        deadlines={"alive": lab.settings.alive_deadline, "action": lab.settings.action_deadline},
        token=adapter.token,
    )
    return _json(answer.model_dump(exclude_none=True))


@blueprint.get("/poll")
async def poll(uuid: str) -> Response:
    """Hold the adapter's question until there is something to do, or the hold time is over."""
    adapter = _adapter(uuid)
    message = await adapter.channel.poll(_wait(request.args.get("wait")))
    _lab().engine.pool.seen(adapter)
    return _json(message.model_dump(exclude_none=True))


@blueprint.post("/respond")
async def respond(uuid: str) -> Response:
    """Take the answer to the outstanding action."""
    adapter = _adapter(uuid)
    body = await json_object(_ANSWER_LIMIT)
    answer = validated(Respond, body)
    receipt = adapter.channel.respond(answer.id, {key: value for key, value in body.items() if key != "id"})
    if receipt is Receipt.STALE:
        message = f"the action {answer.id} is not waiting for an answer: poll for what is"
        raise Refusal(HTTPStatus.CONFLICT, "stale_action", message)
    return _json({"receipt": receipt.name.lower()})


@blueprint.post("/error")
async def error(uuid: str) -> Response:
    """Take the report of an adapter that went wrong; it is to register anew after that."""
    adapter = _adapter(uuid)
    body = await json_object(_ANSWER_LIMIT)
    if not isinstance(body.get("error", {}), dict):
        body = {"error": {"details": str(body["error"]) if body["error"] is not None else None}}
    report = validated(ErrorReport, body)
    _lab().engine.pool.report(adapter, report.error)
    return _json({})


@blueprint.post("/upload")
async def upload(uuid: str) -> Response:
    """Take files that belong to the adapter's case, also after its end."""
    adapter, lab = _adapter(uuid), _lab()
    claim, role = adapter.claim, adapter.role
    used = claim.uploaded_bytes if claim is not None else 0
    folder = claim.client_folder(role) if claim is not None and role is not None else lab.spool(uuid)
    limits = lab.settings
    room = max(0, limits.upload_case_limit - used)
    files = await receive(folder, file_limit=limits.upload_file_limit, room=room)
    for file in files:
        if claim is not None and role is not None:
            claim.uploaded(role, uuid, file)
    return _json({"files": [{"name": file.name, "size": file.size, "sha256": file.sha256} for file in files]})


def _wait(asked: str | None) -> float:
    """Return how long to hold a poll: what the adapter asks for, the hold time at most."""
    hold = _lab().settings.poll_hold
    if asked is None:
        return hold
    try:
        seconds = float(asked)
    except ValueError:
        seconds = float("nan")
    if not seconds >= 0:
        message = f"wait must be a number of seconds from 0, not {asked[:40]!r}"
        raise Refusal(HTTPStatus.BAD_REQUEST, "invalid_wait", message)
    return min(seconds, hold)


def _json(body: Mapping[str, Any]) -> Response:
    return jsonify(body)
