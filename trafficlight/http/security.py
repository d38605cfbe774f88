"""Access control: bearer tokens, logins of browsers, and the refusal of cross-site requests."""

import hmac
import ipaddress
import re
import secrets
import socket
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import SecretStr
from quart import current_app, request

from trafficlight.config import Settings
from trafficlight.coordinator.adapter import Adapter
from trafficlight.http.local_token import LocalToken
from trafficlight.http.requests import current_lab
from trafficlight.http.responses import ApiError
from trafficlight.text import is_loopback

LOGIN_TIME = 24 * 3600
"""Seconds that a login is valid."""

Headers: TypeAlias = Callable[[str], str | None]
"""Returns the value of a request header, or None."""

Use: TypeAlias = Literal["read", "change"]
"""What a proof of a login is good for. Browsers send a cookie to every port of the host: it only reads."""

_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="trafficlight"'}
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
# A login is valid for this process only.
_KEY = secrets.token_bytes(32)
_SAME_SITE = frozenset({"same-origin", "none"})


async def require_people() -> None:
    """Let a request pass that may use the lab: a `before_request` function.

    Without a configured token, only requests that change something need one.

    :raises ApiError: the people's token is missing or wrong (401), or the request is cross-site (403).
    """
    settings = current_lab().settings
    configured = settings.people_token is not None
    reads = request.method in _SAFE
    expected = people_token() if configured or not reads else None
    if expected is not None and not (
        (reads and is_login(request.cookies.get(cookie_name(), ""), expected, "read"))
        or is_login(_bearer(request.headers.get), expected, "change")
    ):
        local = current_app.config["LOCAL_TOKEN"]
        source = "that the coordinator has as PEOPLE_TOKEN" if configured else f"in {local.path}"
        _require(request.headers.get, expected, f"the token {source}")
    if not reads:
        refuse_cross_site(request.headers.get)
    trust(request.scope)


def people_token() -> str | None:
    """Return the token that people log in with: the configured one, or the one in the coordinator's file."""
    local: LocalToken | None = current_app.config["LOCAL_TOKEN"]
    return secret_of(current_lab().settings.people_token) or (local.value if local is not None else None)


def require_registration_token(headers: Headers, settings: Settings) -> None:
    """Require the shared token, if the settings have one.

    :raises ApiError: it is missing or wrong (401).
    """
    if (expected := secret_of(settings.adapter_token)) is not None:
        _require(headers, expected, "the token that the coordinator has as ADAPTER_TOKEN")


def require_adapter_token(headers: Headers, adapter: Adapter) -> None:
    """Require the adapter's own token, if it has one.

    :raises ApiError: it is missing, wrong, or another adapter's (401).
    """
    if adapter.token is not None:
        _require(headers, adapter.token, "the token in the response to this adapter's registration")
        adapter.token_used = True


def refuse_cross_site(headers: Headers) -> None:
    """Refuse a request that a browser sends for another site's page.

    Programs send neither `Sec-Fetch-Site` nor `Origin`, and pass.

    :raises ApiError: it is cross-site (403).
    """
    site, origin = headers("Sec-Fetch-Site"), headers("Origin")
    if site is not None:
        foreign = site not in _SAME_SITE
    else:
        foreign = origin is not None and not _matches(origin, headers("Host") or "")
    if foreign:
        message = "a page of another site cannot send a request that changes the lab"
        raise ApiError(HTTPStatus.FORBIDDEN, "cross_site", message)


def is_own_host(host: str, settings: Settings) -> bool:
    """Whether a `Host` header names this coordinator.

    A foreign name means DNS rebinding: a page of another site made its own name resolve to this machine, so
    that the browser takes the coordinator for that site.
    """
    try:
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        if name == "localhost" or name.endswith(".localhost"):
            return True
        own = {name.lower() for name in (settings.host, socket.gethostname(), *settings.allowed_hosts)}
        return "*" in own or name in own or bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def secret_of(setting: SecretStr | None) -> str | None:
    """Return the value of a secret setting, or None."""
    return setting.get_secret_value() if setting is not None else None


def constant_time_equal(given: str, expected: str) -> bool:
    """Compare two secrets in a time that does not depend on where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode())


def cookie_name() -> str:
    """Return the name of the cookie of a browser that has logged in: browsers send cookies to every port."""
    return "trafficlight" + "".join(f"-{port}" for port in re.findall(r":(\d+)$", request.host))


def login_of(token: str, expiry: float, use: Use) -> str:
    """Return a proof of a login: it shows knowledge of the token to this process, and does not reveal it.

    :param expiry: the Unix time until which it is valid.
    """
    text = f"{expiry:.0f}"
    return f"{text}.{hmac.new(_KEY, f'{use} {text} {token}'.encode(), 'sha256').hexdigest()}"


def is_login(given: str, token: str, use: Use) -> bool:
    """Whether a proof of a login is for this token and use, and has not expired."""
    text = given.partition(".")[0]
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        return False
    return time.time() < int(text) and constant_time_equal(given, login_of(token, int(text), use))


def trust(scope: Any) -> None:
    """Keep the connection of an authorized request when the limit of connections is reached."""
    if (connection := scope.get("state", {}).get("connection")) is not None:
        connection.trusted = True


def warning_for(settings: Settings, address: str = "") -> str | None:
    """Return a one-line warning if anyone on the network could use the lab, else None.

    :param address: what the server listens on, if it is not the host of the settings.
    """
    address = address or settings.host
    if is_loopback(address):
        return None
    pairs = (("ADAPTER_TOKEN", settings.adapter_token), ("PEOPLE_TOKEN", settings.people_token))
    missing = [key for key, token in pairs if token is None]
    if not missing:
        return None
    what = {
        "ADAPTER_TOKEN": "register adapters",
        "PEOPLE_TOKEN": "read all results",
    }
    everyone = " and ".join(what[key] for key in missing)
    return (
        f"listening on {address} without {' and '.join(missing)}: "
        f"anyone who can reach this address can {everyone}"
    )


def _bearer(headers: Headers) -> str:
    scheme, _, given = (headers("Authorization") or "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else ""


def _require(headers: Headers, expected: str, description: str) -> None:
    token = _bearer(headers)
    if not token or not constant_time_equal(token, expected):
        what = "the bearer token is wrong" if token else "no bearer token was sent"
        message = f"{what}: send {description}"
        raise ApiError(HTTPStatus.UNAUTHORIZED, "unauthorized", message, headers=_CHALLENGE)


def _matches(origin: str, host: str) -> bool:
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False
