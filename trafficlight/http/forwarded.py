"""What a trusted proxy says of a request: the client's address, the scheme, and the prefix of the path."""

import ipaddress
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

Application: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]
Networks: TypeAlias = Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]

_FOR, _PROTO, _PREFIX = b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-prefix"
_NAMES = frozenset({_FOR, _PROTO, _PREFIX})
_SCHEMES = frozenset({"http", "https"})
# It ends up in links: no second slash at the beginning, which would name another host.
_PATH = re.compile(r"(?:/[\w.~-]+)+", re.ASCII)


class ForwardedApp:
    """An ASGI application that applies the `X-Forwarded-*` headers of trusted proxies.

    `X-Forwarded-Host` is not read: the check of host names relies on `Host`.

    :param application: gets every request.
    :param trusted: returns the networks of the trusted proxies.
    """

    def __init__(self, application: Application, trusted: Callable[[], Networks]) -> None:
        self._application = application
        self._trusted = trusted

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle a request."""
        if scope["type"] == "http" and any(name in _NAMES for name, _ in scope["headers"]):
            scope = self._forwarded(scope)
        await self._application(scope, receive, send)

    def _forwarded(self, scope: Any) -> Any:
        if not self._is_proxy((scope.get("client") or ("",))[0]):
            return scope
        sent: dict[bytes, list[str]] = {}
        for name, value in scope["headers"]:
            if name in _NAMES:
                sent.setdefault(name, []).extend(part.strip() for part in value.decode("latin-1").split(","))
        changed = dict(scope)
        # The last entry is the nearest proxy's; those before the first untrusted one may be forged.
        for address in reversed(sent.get(_FOR, [])):
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
        return parsed is not None and any(parsed in network for network in self._trusted())


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    # What a socket for both versions says of an IPv4 client.
    return getattr(parsed, "ipv4_mapped", None) or parsed
