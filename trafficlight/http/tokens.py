"""Who may do what: bearer tokens for adapters and for people's programs."""

import hmac
from http import HTTPStatus

from quart import request

from trafficlight.coordinator.pool import Adapter
from trafficlight.http.refusals import Refusal

__all__ = ["check_adapter", "check_shared", "same"]


def same(given: str, expected: str) -> bool:
    """Compare two secrets in a time that does not depend on where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode())


def bearer() -> str | None:
    """Return the token of the request's ``Authorization: Bearer`` header."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
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


def check_adapter(adapter: Adapter) -> None:
    """Require the adapter's own token, where tokens are on.

    :raises Refusal: it is missing, wrong, or another adapter's (401).
    """
    if adapter.token is None:
        return
    given = bearer()
    if given is None or not same(given, adapter.token):
        _refuse(given, "the token that the answer to this adapter's registration held")


def _refuse(given: str | None, wanted: str) -> None:
    what = "no bearer token was sent" if given is None else "the bearer token is wrong"
    raise Refusal(HTTPStatus.UNAUTHORIZED, "unauthorized", f"{what}: send {wanted}")
