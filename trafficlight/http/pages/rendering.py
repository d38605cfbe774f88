"""HTML responses."""

import hashlib
from http import HTTPStatus

from quart import Response, request

from trafficlight.http.headers import PAGE_POLICY


def page(content: bytes, status: int = 200) -> Response:
    """Return the response for a page."""
    response = Response(content, status=status, content_type="text/html; charset=utf-8")
    response.headers["Content-Security-Policy"] = PAGE_POLICY
    response.headers["Vary"] = "Accept, Authorization, Cookie"
    return response


def unless_known(content: bytes) -> Response:
    """Return a page, or 304 if the browser has it already."""
    tag = hashlib.sha256(content).hexdigest()[:32]
    known = request.if_none_match.contains_weak(tag)
    response = page(b"" if known else content, HTTPStatus.NOT_MODIFIED if known else HTTPStatus.OK)
    response.set_etag(tag, weak=True)
    return response
