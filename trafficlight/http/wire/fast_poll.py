"""The poll, answered at the ASGI interface itself: the request that thousands of adapters send all the time.

Its answers and refusals are those of the route that the OpenAPI document describes, at less cost.
"""

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, TypeAlias
from urllib.parse import parse_qs

from trafficlight.clock import race
from trafficlight.coordinator.adapter import UnknownAdapterError
from trafficlight.coordinator.lab import Lab
from trafficlight.http.context import log_context_of
from trafficlight.http.errors import ApiError, refusal_body
from trafficlight.http.security import check_adapter
from trafficlight.http.wire.polling import hold_time
from trafficlight.protocol import ActionMessage

Scope: TypeAlias = Any
Receive: TypeAlias = Callable[[], Awaitable[Any]]
Send: TypeAlias = Callable[[Any], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_PATH = re.compile(r"/client/([^/]+)/poll")
_HEADERS = [(b"content-type", b"application/json"), (b"x-content-type-options", b"nosniff")]


class FastPoll:
    """An ASGI application that answers polls, and hands everything else on.

    :param application: the rest.
    :param lab: gives the lab, once there is one.
    """

    def __init__(self, application: Application, lab: Callable[[], Lab]) -> None:
        self._application = application
        self._lab = lab

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        poll = scope["type"] == "http" and scope["method"] == "GET" and _PATH.fullmatch(scope["path"])
        if not poll:
            await self._application(scope, receive, send)
            return
        try:
            message = await self._poll(poll[1], scope, receive)
        except ApiError as refusal:
            body = refusal_body(refusal.code, refusal.message)
            await _answer(send, refusal.status, body, refusal.headers)
        except UnknownAdapterError as unknown:
            await _answer(send, HTTPStatus.NOT_FOUND, refusal_body("unknown_adapter", str(unknown)))
        else:
            if message is not None:
                await _answer(send, HTTPStatus.OK, _json(message))

    async def _poll(self, uuid: str, scope: Scope, receive: Receive) -> ActionMessage | None:
        """Return the answer; None when whoever asked is gone."""
        lab = self._lab()
        pool = lab.engine.pool
        adapter = pool.get(uuid)
        headers = dict(scope["headers"])
        check_adapter(adapter, headers.get(b"authorization", b"").decode("latin-1"))
        log_context_of(adapter).enter()
        pool.seen(adapter)
        query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        wait = hold_time(query.get("wait", [None])[0], lab.settings.poll_hold)
        message = await race(adapter.channel.poll(wait), _gone(receive))
        if message is not None:
            pool.seen(adapter)
        return message


def _json(message: ActionMessage) -> bytes:
    # Not pydantic's own: texts of tests may hold what UTF-8 cannot.
    return json.dumps(message.model_dump(exclude_none=True)).encode()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _answer(
    send: Send, status: HTTPStatus, body: bytes, headers: Mapping[str, str] | None = None
) -> None:
    more = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": int(status), "headers": [*_HEADERS, length, *more]})
    await send({"type": "http.response.body", "body": body})
