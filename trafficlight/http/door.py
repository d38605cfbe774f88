"""Where a request comes from: the host that it names, and what a trusted proxy says of it.

A trusted proxy states the client's address, the scheme, and the prefix of the path.
"""

import ipaddress
import re
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, TypeAlias

from trafficlight.config import Settings
from trafficlight.http.responses import refusal_body
from trafficlight.http.security import is_own_host

Scope: TypeAlias = Any
Receive: TypeAlias = Callable[[], Awaitable[Any]]
Send: TypeAlias = Callable[[Any], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_HEADERS = [(b"content-type", b"application/json"), (b"x-content-type-options", b"nosniff")]
# Host headers that are known to be allowed.
_HOSTS = 100

_FOR, _PROTO, _PREFIX = b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-prefix"
_NAMES = frozenset({_FOR, _PROTO, _PREFIX})
_SCHEMES = frozenset({"http", "https"})
# An address as some proxies write it: `192.0.2.1:443`, `[2001:db8::1]:443`.
_WITH_PORT = re.compile(r"\[([^]]+)\](?::\d+)?|([^:]+):\d+")
# It ends up in links: no second slash at the beginning, which would name another host.
_PATH = re.compile(r"(?:/[\w.~-]+)+", re.ASCII)


class Door:
    """An ASGI application in front of the others, which refuses foreign host names and websockets.

    It applies the `X-Forwarded-*` headers of trusted proxies. `X-Forwarded-Host` is not read: the check of
    host names relies on `Host`.

    :param application: gets every other request.
    :param settings: returns the settings, once there is a lab.
    """

    def __init__(self, application: Application, settings: Callable[[], Settings]) -> None:
        self._application = application
        self._settings = settings
        self._own_hosts: set[bytes] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] == "websocket":
            await _refuse_websocket(scope, send)
            return
        if scope["type"] == "http":
            if not self._is_own_host(scope):
                message = "this host name is not the coordinator's: add it to the setting ALLOWED_HOSTS"
                body = refusal_body("unknown_host", message)
                await send_json(send, "http", HTTPStatus.MISDIRECTED_REQUEST, body, {})
                return
            if any(name in _NAMES for name, _ in scope["headers"]):
                scope = self._forwarded(scope)
        await self._application(scope, receive, send)

    def _is_own_host(self, scope: Scope) -> bool:
        host = next((value for name, value in scope["headers"] if name == b"host"), None)
        if host is None or host in self._own_hosts:  # browsers always send one
            return True
        own = is_own_host(host.decode("latin-1"), self._settings())
        if own and len(self._own_hosts) < _HOSTS:
            self._own_hosts.add(host)
        return own

    def _forwarded(self, scope: Any) -> Any:
        if not self._is_proxy((scope.get("client") or ("",))[0]):
            return scope
        sent: dict[bytes, list[str]] = {}
        for name, value in scope["headers"]:
            if name in _NAMES:
                sent.setdefault(name, []).extend(part.strip() for part in value.decode("latin-1").split(","))
        changed = dict(scope)
        # The last entry is the nearest proxy's; those before the first untrusted one may be forged.
        for entry in reversed(sent.get(_FOR, [])):
            with_port = _WITH_PORT.fullmatch(entry)
            address = entry if with_port is None else with_port[1] or with_port[2]
            if _parsed(address) is None:
                break
            changed["client"] = (address, 0)
            if not self._is_proxy(address):
                break
        if (scheme := sent.get(_PROTO, [""])[-1].lower()) in _SCHEMES:
            changed["scheme"] = scheme
        prefix = sent.get(_PREFIX, [""])[-1].rstrip("/")
        if _PATH.fullmatch(prefix):
            # In ASGI, the path includes the prefix, which the proxy has removed.
            changed["root_path"], changed["path"] = prefix, prefix + scope["path"]
        return changed

    def _is_proxy(self, address: str) -> bool:
        parsed = _parsed(address)
        return parsed is not None and any(parsed in network for network in self._settings().trusted_proxies)


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    # What a socket for both versions says of an IPv4 client.
    return getattr(parsed, "ipv4_mapped", None) or parsed


async def _refuse_websocket(scope: Scope, send: Send) -> None:
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close"})  # the server answers 403
        return
    body = refusal_body("no_websockets", "there are no websockets here; /openapi lists what there is")
    await send_json(send, "websocket.http", HTTPStatus.UPGRADE_REQUIRED, body, {"Upgrade": "HTTP/1.1"})


async def send_json(
    send: Send, protocol: str, status: HTTPStatus, body: bytes, headers: Mapping[str, str]
) -> None:
    """Send a response that holds JSON.

    :param protocol: `http`, or `websocket.http` for the refusal of a websocket.
    """
    fields = [*_HEADERS, (b"content-length", str(len(body)).encode())]
    fields += [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": f"{protocol}.response.start", "status": int(status), "headers": fields})
    await send({"type": f"{protocol}.response.body", "body": body})
