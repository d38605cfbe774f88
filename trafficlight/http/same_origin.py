"""What keeps another site's page from acting through a person's browser."""

import ipaddress
from http import HTTPStatus
from urllib.parse import urlsplit

from quart import request

from trafficlight.http.context import current_lab
from trafficlight.http.errors import ApiError

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN = frozenset({"same-origin", "none"})


def check_same_origin() -> None:
    """Refuse a request that changes something, where a browser says that another site's page sends it.

    Programs send neither header, and are let through.

    :raises Refusal: it comes from elsewhere (403).
    """
    if request.method in _SAFE:
        return
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    foreign = site not in _OWN if site is not None else origin is not None and not _is_ours(origin)
    if not foreign and origin is not None and current_lab().settings.people_token is None:
        # A name that somebody made mean this machine looks like our own to the browser.
        foreign = not _is_own_name(request.host)
    if foreign:
        message = "this changes the lab, so a page of another site cannot ask for it"
        raise ApiError(HTTPStatus.FORBIDDEN, "cross_site", message)


def _is_own_name(host: str) -> bool:
    """Return whether a host is an address, this machine's own name, or the one that the settings name."""
    name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
    if name == "localhost" or name.endswith(".localhost") or name == current_lab().settings.host:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_ours(origin: str) -> bool:
    try:
        return urlsplit(origin).netloc.lower() == request.host.lower()
    except ValueError:
        return False
