"""Who may do what: bearer tokens for adapters and for people's programs, a cookie for people's browsers."""

import hmac
import ipaddress
from http import HTTPStatus

from quart import request

from trafficlight.config import Settings
from trafficlight.coordinator.adapter import Adapter
from trafficlight.http.errors import ApiError

COOKIE = "trafficlight"
"""The cookie of people who have logged in."""

_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="trafficlight"'}


def same(given: str, expected: str) -> bool:
    """Compare two secrets in a time that does not depend on where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode())


def bearer() -> str | None:
    """Return the token of the request's ``Authorization: Bearer`` header."""
    return bearer_of(request.headers.get("Authorization", ""))


def bearer_of(authorization: str) -> str | None:
    """Return the token of an ``Authorization: Bearer`` header; None where it holds none."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def check_shared(expected: str | None, setting: str) -> None:
    """Require the shared token, where there is one.

    :param setting: the setting that holds it, for the message.
    :raises Refusal: it is missing or wrong (401).
    """
    if expected is None:
        return
    given = bearer()
    if given is None or not same(given, expected):
        _refuse(given, f"the token that the coordinator has as {setting}")


def check_adapter(adapter: Adapter, authorization: str | None = None) -> None:
    """Require the adapter's own token, where tokens are on.

    :param authorization: the header that should hold it; the current request's where it is left out.
    :raises Refusal: it is missing, wrong, or another adapter's (401).
    """
    if adapter.token is None:
        return
    given = bearer() if authorization is None else bearer_of(authorization)
    if given is None or not same(given, adapter.token):
        _refuse(given, "the token that the answer to this adapter's registration held")
    adapter.token_used = True


def check_people(expected: str | None) -> None:
    """Require the people's token, as bearer token or as the cookie of somebody who logged in.

    :raises Refusal: both are missing or wrong (401).
    """
    if expected is None or same(request.cookies.get(COOKIE, ""), cookie_of(expected)):
        return
    check_shared(expected, "PEOPLE_TOKEN")


def cookie_of(token: str) -> str:
    """Return the cookie's value: it proves that its owner knew the token, and does not tell the token."""
    return hmac.new(token.encode(), b"trafficlight: a person has logged in", "sha256").hexdigest()


def warning_for(settings: Settings) -> str | None:
    """Return what to warn of, in one line, where anybody in the network could use the lab."""
    if _is_loopback(settings.host):
        return None
    pairs = (("ADAPTER_TOKEN", settings.adapter_token), ("PEOPLE_TOKEN", settings.people_token))
    missing = [key for key, token in pairs if token is None]
    if not missing:
        return None
    what = {
        "ADAPTER_TOKEN": "register adapters",
        "PEOPLE_TOKEN": "run code on this machine and read all results",
    }
    everyone = " and ".join(what[key] for key in missing)
    return (
        f"listening on {settings.host} without {' and '.join(missing)}: "
        f"everybody who reaches this address can {everyone}"
    )


def _is_loopback(host: str) -> bool:
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:  # a name may mean any address; an empty host means all of them
        return False


def _refuse(given: str | None, wanted: str) -> None:
    what = "no bearer token was sent" if given is None else "the bearer token is wrong"
    message = f"{what}: send {wanted}"
    raise ApiError(HTTPStatus.UNAUTHORIZED, "unauthorized", message, headers=_CHALLENGE)
