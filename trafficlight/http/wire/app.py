"""The five endpoints of adapters: an ASGI application in front of the one for API and pages.

Thousands of adapters poll all the time, so these endpoints bypass the web framework.
"""

import asyncio
import json
import logging
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import parse_qs

from trafficlight.coordinator.adapter import (
    Adapter,
    AdapterState,
    RegistrationConflictError,
    UnknownAdapterError,
)
from trafficlight.coordinator.channel import Receipt
from trafficlight.coordinator.lab import Lab
from trafficlight.http.api.specs import OperationSpec, Query, ResponseSpec
from trafficlight.http.door import Application, Receive, Scope, Send, send_json
from trafficlight.http.requests import (
    LARGE,
    Bodies,
    Chunks,
    DisconnectedError,
    check_json_type,
    check_size,
    hold_time,
    validated,
)
from trafficlight.http.responses import ApiError, refusal_body
from trafficlight.http.security import (
    refuse_cross_site,
    require_adapter_token,
    require_registration_token,
    trust,
)
from trafficlight.http.wire.uploads import receive_files
from trafficlight.logs import LogContext
from trafficlight.protocol import (
    EXIT,
    ActionMessage,
    Empty,
    ErrorReport,
    JsonObject,
    Registered,
    Registration,
    Respond,
    Responded,
    Uploaded,
)
from trafficlight.results.events import ActionLate, Log, Upload
from trafficlight.results.folder import UNCLAIMED
from trafficlight.results.journal import excerpt
from trafficlight.text import single_line
from trafficlight.version import VERSION

logger = logging.getLogger(__name__)


_PATH = re.compile(r"(?:/program/(\w+))?/client/([^/]+)/(register|poll|respond|error|upload)")
_UUID = re.compile(r"[A-Za-z0-9_.:-]{1,100}")
# Bytes of a body.
_REGISTRATION_LIMIT = 64 << 10
_ANSWER_LIMIT = 16 << 20
_ERROR_LIMIT = 1 << 20
# Files of a case: each takes at least this share of its limit of bytes.
_FILES = 10_000
# Characters of the name of a program that does not name itself.
_PROGRAM = 300
_GROUP = "Adapters"
_FILE_FORM = {
    "type": "object",
    "properties": {"file": {"type": "string", "format": "binary", "description": "The file, with its name."}},
    "required": ["file"],
}


@dataclass(slots=True)
class WireRequest:
    """A request of an adapter.

    :param bodies: the memory for the bodies of requests.
    :param uuid: the adapter's id, as the path has it.
    :param program: the program that the lab started, from the URL that it gave it; empty for others.
    """

    lab: Lab
    bodies: Bodies
    uuid: str
    program: str
    scope: Scope
    receive: Receive
    headers: Mapping[bytes, bytes]

    def header(self, name: str) -> str | None:
        """Return the value of a header, or None."""
        value = self.headers.get(name.lower().encode())
        return value.decode("latin-1") if value is not None else None

    def query(self, name: str) -> str | None:
        """Return the first value of a query parameter, or None."""
        query = parse_qs(self.scope["query_string"].decode("latin-1"), keep_blank_values=True)
        return query[name][0] if name in query else None

    @property
    def address(self) -> str:
        """The address that it comes from."""
        return str((self.scope.get("client") or ("?",))[0])

    def adapter(self) -> Adapter:
        """Return the adapter that sends this, and note its sign of life.

        :raises UnknownAdapterError: none is registered under this id.
        :raises ApiError: its token is missing or wrong (401).
        """
        pool = self.lab.engine.pool
        adapter = pool.get(self.uuid)
        require_adapter_token(self.header, adapter)
        trust(self.scope)
        pool.seen(adapter)
        return adapter

    async def json_object(self, limit: int) -> JsonObject:
        """Return the body, which must be a JSON object.

        :raises ApiError: the body is too large (413), of another type (415), or not a JSON object (400), or
            there are too many (503).
        """
        check_json_type((self.header("Content-Type") or "").partition(";")[0].strip().lower())
        return await self.bodies.read_object(self.chunks(limit))

    def chunks(self, limit: int) -> AsyncIterator[bytes]:
        """Iterate over the body.

        :param limit: the most bytes that it may have.
        :raises ApiError: it has more (413), or stalls (408).
        """
        length = self.headers.get(b"content-length", b"")
        check_size(int(length) if length.isdigit() else 0, limit)
        return Chunks(self.receive, limit)

    async def disconnected(self) -> None:
        """Wait until the client closes the connection."""
        while (await self.receive())["type"] != "http.disconnect":
            pass


View: TypeAlias = Callable[[WireRequest], Awaitable[Mapping[str, Any]]]


@OperationSpec(
    _GROUP,
    {200: ResponseSpec("It is registered.", Registered)},
    (400, 401, 408, 409, 413, 415, 503),
    body=Registration,
    guard="registration",
)
async def register(request: WireRequest) -> Mapping[str, Any]:
    """Register an adapter. Returns at once; the first action comes with a poll.

    The same body again changes nothing; another one, or an id that was used before, is refused with 409.
    """
    lab, uuid = request.lab, request.uuid
    known = lab.engine.pool.known(uuid)
    if known is not None and known.token_used:
        # The shared token must not be enough to learn another adapter's own token.
        require_adapter_token(request.header, known)
    else:
        require_registration_token(request.header, lab.settings)
        if known is not None and known.token is not None and known.address != request.address:
            raise RegistrationConflictError(uuid, "already registered from another address")
    trust(request.scope)
    if not _UUID.fullmatch(uuid):
        message = "the uuid must be 1 to 100 letters, digits, or any of _.:-"
        raise ApiError(HTTPStatus.BAD_REQUEST, "invalid_uuid", message)
    registration = validated(Registration, await request.json_object(_REGISTRATION_LIMIT))
    pool = lab.engine.pool
    own = pool.own_programs.get(request.program)
    if request.program and not registration.instance:
        registration = registration.model_copy(update={"instance": own or request.program})
    words = [registration.type, *registration.labels, "at", request.address]
    if own is not None:
        program = own
    elif named := request.program or registration.instance:
        program = pool.program_name(named, request.address, registration.instance_secret or "")
    else:
        program = pool.program_name(single_line(" ".join(words), _PROGRAM), f"{request.address}, unnamed")
    token = secrets.token_urlsafe(24) if lab.settings.adapter_token is not None else None
    adapter = pool.register(uuid, registration, token=token, program=program, address=request.address)
    answer = {
        "uuid": uuid,
        "coordinator": VERSION,
        "poll_hold": lab.settings.poll_hold,
        "deadlines": {"alive": lab.settings.alive_deadline, "action": lab.settings.action_deadline},
    }
    return answer if adapter.token is None else {**answer, "token": adapter.token}


@OperationSpec(
    _GROUP,
    {200: ResponseSpec("What to do next.", ActionMessage)},
    (400, 401),
    query=(
        Query(
            "wait",
            "Seconds that the poll may be held; at most, and by default, the coordinator's hold time.",
            {"type": "number", "minimum": 0},
        ),
        Query(
            "busy",
            "`1` while the adapter performs an action: the answer is `kill`, `idle` or `exit`.",
            {"type": "string", "enum": ["1"]},
        ),
    ),
    guard="adapter",
)
async def poll(request: WireRequest) -> Mapping[str, Any]:
    """Ask what to do next. Held until there is something to do, or the hold time is over.

    An action comes again, with the same `id`, until it is answered. `idle` means: poll again after `delay`
    milliseconds. `exit` means: stop polling, and register under a new id. An id that is not registered is
    answered with `exit`, too.
    """
    try:
        adapter = request.adapter()
    except UnknownAdapterError as unknown:
        return {"action": EXIT, "data": {"reason": str(unknown)}}
    wait = hold_time(request.query("wait"), request.lab.settings.poll_hold)
    busy = request.query("busy") == "1"
    return await _next(request, adapter, wait, busy=busy)


async def _next(
    request: WireRequest, adapter: Adapter, wait: float, *, busy: bool = False
) -> Mapping[str, Any]:
    message = await adapter.channel.poll(wait, request.disconnected, busy=busy)
    request.lab.engine.pool.seen(adapter)
    body = {"action": message.action, "data": message.data}
    return body if message.id is None else {**body, "id": message.id}


@OperationSpec(
    _GROUP,
    {200: ResponseSpec("How it was received.", Responded)},
    (400, 401, 404, 408, 409, 413, 415, 503),
    query=(
        Query(
            "action",
            "The action's `id`, instead of in the body; an `id` there is part of the response then.",
            {"type": "string"},
        ),
        Query(
            "next",
            "Also return what to do next, as `next`: held for at most this many seconds, and never longer"
            " than the coordinator's hold time.",
            {"type": "number", "minimum": 0},
        ),
    ),
    body=Respond,
    guard="adapter",
)
async def respond(request: WireRequest) -> Mapping[str, Any]:
    """Answer the outstanding action.

    With the action's `id` it can be sent again without harm; an id that is not waiting is refused with 409.
    Without an id it answers whatever is outstanding. `{"response": "error"}` says that the client failed.
    """
    adapter, wait = request.adapter(), request.query("next")
    hold = hold_time(wait, request.lab.settings.poll_hold, "next")
    answer: dict[str, Any] = {"receipt": await _received(request, adapter)}
    return answer if wait is None else {**answer, "next": await _next(request, adapter, hold)}


async def _received(request: WireRequest, adapter: Adapter) -> Receipt:
    """Receive a response, and return how it was received.

    :raises ApiError: it is refused.
    """
    async with adapter.answering:
        waits = adapter.channel.outstanding is not None
        try:
            body = await request.json_object(_ANSWER_LIMIT if waits else LARGE)
        except ApiError as refusal:
            if waits or refusal.status is not HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                raise
            message = "no action is waiting for an answer: poll for what is"
            raise ApiError(HTTPStatus.CONFLICT, "stale_action", message) from None
    action, response = request.query("action"), body
    if action is None:
        action = validated(Respond, body).id
        response = {key: value for key, value in body.items() if key != "id"}
    receipt = adapter.channel.respond(action, response)
    if receipt is Receipt.STALE:
        if (late := adapter.channel.too_late(action)) is not None and adapter.lease is not None:
            name, seconds = late
            event = ActionLate(id=action or "", action=name, response=response, seconds=seconds)
            adapter.lease.emit(event, role=adapter.role, adapter=adapter.uuid)
        message = (
            f"the action {single_line(action or '', 100)} is not waiting for an answer: poll for what is"
        )
        raise ApiError(HTTPStatus.CONFLICT, "stale_action", message)
    if receipt is Receipt.UNSOLICITED:
        _note(
            request.lab,
            adapter,
            f"sent a response, but no action was outstanding: {single_line(repr(excerpt(response)))}",
        )
    return receipt


@OperationSpec(
    _GROUP,
    {200: ResponseSpec("It is noted.", Empty)},
    (400, 401, 404, 408, 413, 415, 503),
    body=ErrorReport,
    guard="adapter",
)
async def error(request: WireRequest) -> Mapping[str, Any]:
    """Report an error; the adapter has to register again after that, under a new id.

    A `type` of `action` means that the client failed, anything else that the adapter did.
    """
    adapter = request.adapter()
    body = await request.json_object(_ERROR_LIMIT)
    if not isinstance(body.get("error", {}), dict):
        body = {"error": {"details": str(body["error"]) if body["error"] is not None else None}}
    report = validated(ErrorReport, body)
    if adapter.state is AdapterState.ENDED:
        message = f"reported an error after it had ended: {single_line(report.error.details)}"
        _note(request.lab, adapter, message)
    request.lab.engine.pool.report(adapter, report.error)
    return {}


@OperationSpec(
    _GROUP,
    {200: ResponseSpec("They are kept.", Uploaded)},
    (400, 401, 404, 408, 410, 413, 415, 507),
    form=_FILE_FORM,
    guard="adapter",
)
async def upload(request: WireRequest) -> Mapping[str, Any]:
    """Send files that belong to the adapter's case, also after its end.

    Every part with a file name is one file. A name that comes again keeps both files.
    """
    adapter, lab = request.adapter(), request.lab
    lease, role, limits = adapter.lease, adapter.role, lab.settings

    def room() -> int:
        taken = lease.uploaded_bytes if lease is not None else lab.unclaimed.size
        return max(0, limits.upload_case_limit - taken)

    async def receive(folder: Path) -> list[Upload]:
        return await receive_files(
            request.chunks, content_type, folder, file_limit=limits.upload_file_limit, room=room, least=least
        )

    least = max(1, limits.upload_case_limit // _FILES)
    content_type = request.header("Content-Type") or ""
    try:
        if lease is not None and role is not None:
            folder = await asyncio.to_thread(lease.folder.client, role)
            files = await receive(folder)
            lease.uploaded_bytes += sum(max(file.size, least) for file in files)
            for file in files:
                lease.uploaded(role, request.uuid, file, folder)
        else:
            async with lab.unclaimed.receive(request.uuid, least) as folder:
                if room() < least:
                    message = f"no room for more uploads that belong to no case: delete results/{UNCLAIMED}"
                    raise ApiError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large", message)
                files = await receive(folder)
                lab.unclaimed.size += sum(max(file.size, least) for file in files)
            for file in files:
                _note(lab, adapter, f"uploaded {file.name!r}, which belongs to no case: {folder / file.path}")
    except FileNotFoundError:
        message = "the results of this case were deleted"
        raise ApiError(HTTPStatus.GONE, "results_deleted", message) from None
    return {"files": [{"name": file.name, "size": file.size, "sha256": file.sha256} for file in files]}


ENDPOINTS: Mapping[str, tuple[str, View]] = {
    "register": ("POST", register),
    "poll": ("GET", poll),
    "respond": ("POST", respond),
    "error": ("POST", error),
    "upload": ("POST", upload),
}
"""Method and view by the last part of the path, which is `/client/{uuid}/...`."""


class WireApp:
    """An ASGI application that serves the adapters' endpoints, and passes everything else on.

    :param application: gets everything else.
    :param lab: returns the lab, once there is one.
    :param bodies: the memory for the bodies of requests.
    """

    def __init__(self, application: Application, lab: Callable[[], Lab], bodies: Bodies) -> None:
        self._application = application
        self._lab = lab
        self._bodies = bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        path = None
        if scope["type"] == "http":
            path = _PATH.fullmatch(scope["path"].removeprefix(scope.get("root_path", "")))
        if path is None:
            await self._application(scope, receive, send)
            return
        status, headers = HTTPStatus.OK, {}
        method, view = ENDPOINTS[path[3]]
        try:
            if scope["method"] == "OPTIONS":
                body, headers = b"", {"Allow": f"{method}, OPTIONS"}
            elif scope["method"] != method:
                headers, given = {"Allow": f"{method}, OPTIONS"}, scope["method"][:20]
                status, message = (
                    HTTPStatus.METHOD_NOT_ALLOWED,
                    f"this path takes {headers['Allow']}, not {given}",
                )
                body = refusal_body("method_not_allowed", message)
            else:
                request = WireRequest(
                    self._lab(), self._bodies, path[2], path[1] or "", scope, receive, dict(scope["headers"])
                )
                body = await _handled(request, view)
        except DisconnectedError:
            return
        except ApiError as refusal:
            status, headers = refusal.status, refusal.headers
            body = refusal_body(refusal.code, refusal.message)
            _note_refusal(self._lab(), path[2], path[1] or "", path[3], refusal)
        except UnknownAdapterError as unknown:
            status, body = HTTPStatus.NOT_FOUND, refusal_body("unknown_adapter", str(unknown))
        except RegistrationConflictError as conflict:
            status, body = HTTPStatus.CONFLICT, refusal_body("registration_conflict", str(conflict))
        except Exception:
            logger.exception("%s %r failed", scope["method"], scope["path"])
            message = "the coordinator failed to handle this; its log has the reason"
            status, body = HTTPStatus.INTERNAL_SERVER_ERROR, refusal_body("internal_server_error", message)
        await send_json(send, "http", status, body, headers)


async def _handled(request: WireRequest, view: View) -> bytes:
    adapter = request.lab.engine.pool.known(request.uuid)
    context = LogContext(adapter=request.uuid[:100]) if adapter is None else adapter.log_context
    context.enter()
    refuse_cross_site(request.header)  # a poll, too: it takes the action
    # Not pydantic's serializer: texts of tests may hold what UTF-8 cannot encode.
    return json.dumps(await view(request)).encode()


def _note(lab: Lab, adapter: Adapter, message: str) -> None:
    """Write to the log of the adapter's case, or of the lab if it has none."""
    event = Log(adapter=adapter.uuid, level="warning", logger="adapter", message=message)
    if (lease := adapter.lease) is not None:
        lease.emit(event, role=adapter.role)
    else:
        lab.journal.append(event)


def _note_refusal(lab: Lab, uuid: str, program: str, endpoint: str, refusal: ApiError) -> None:
    """Note a refused request where its consequence will be explained."""
    pool, why = lab.engine.pool, f"{int(refusal.status)} {refusal.message}"
    if endpoint == "register":
        logger.info("the registration of %r was refused: %s", uuid[:100], why)
        if (own := pool.own_programs.get(program)) is not None:
            what = f"a registration of the program was refused: {why}"
            pool.note_missing(own, "adapter", what, pool.registration_of(own))
    elif endpoint in ("respond", "error") and (adapter := pool.known(uuid)) is not None:
        too_large = refusal.status is HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        adapter.channel.refuse(f"answer too large: {why}" if too_large else why, final=too_large)
