"""Responses for browsers: pages, and the headers that restrict what a browser does with a response."""

import hashlib
from http import HTTPStatus
from typing import Any

from quart import Quart, Response, request

from trafficlight.results.reports.presentation import render

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""For pages: nothing inline, nothing from other origins."""

FILE_POLICY = (
    "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'; sandbox"
)
"""For uploaded files: they are shown, and cannot run scripts."""


def install(app: Quart) -> None:
    """Set the headers of every response of an application, except those that a view has set."""

    @app.after_request
    async def guard(response: Response) -> Response:
        for name, value in (
            ("Content-Security-Policy", PAGE_POLICY),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "same-origin"),
            ("X-Frame-Options", "DENY"),
            ("Cross-Origin-Opener-Policy", "same-origin"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Cache-Control", "no-cache"),
        ):
            response.headers.setdefault(name, value)
        return response


def rooted(path: str) -> str:
    """Return where browsers find a path of the coordinator: below the prefix that a proxy removed."""
    return request.root_path + path


def rendered(template: str, **values: Any) -> bytes:
    """Return a rendered page, whose links have the prefix that a proxy removed. Any thread may call it."""
    return render(template, root=request.root_path, **values)


def page(content: bytes, status: int = 200) -> Response:
    """Return the response for a page."""
    response = Response(content, status=status, content_type="text/html; charset=utf-8")
    response.headers["Vary"] = "Accept, Authorization, Cookie"
    return response


def unless_known(content: bytes) -> Response:
    """Return the response for a page, or 304 if the browser has it already."""
    tag = hashlib.sha256(content).hexdigest()[:32]
    known = request.if_none_match.contains_weak(tag)
    response = page(b"" if known else content, HTTPStatus.NOT_MODIFIED if known else HTTPStatus.OK)
    response.set_etag(tag, weak=True)
    return response
