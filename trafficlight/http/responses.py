"""Responses: pages, their headers, and refusals.

All refusals have one shape, ``{"error": {"code": ..., "message": ...}}``; a browser gets a page instead.
"""

import asyncio
import gzip
import hashlib
import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from quart import Quart, Response, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from trafficlight.coordinator.adapter import UnknownAdapterError
from trafficlight.results.reports.parts import Parts
from trafficlight.results.reports.presentation import render

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""For pages: nothing inline, nothing from other origins."""

REPORT_POLICY = (
    "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'self' 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
"""For ``report.html``, which the lab wrote: it has no scripts, and shows pictures of its session."""

FILE_POLICY = f"{REPORT_POLICY}; sandbox"
"""For uploaded files: they are shown, and cannot run scripts."""

# Unless a view has set them.
_HEADERS = {
    "Content-Security-Policy": PAGE_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


PARTS_HEADER = "Live-Parts"
"""The versions of a page's parts that its script has, see :func:`known_versions`."""

_VARY = "Accept, Accept-Encoding, Authorization, Cookie"  # of pages
_SMALL = 1_400  # bytes that are one packet anyway


def rooted(path: str) -> str:
    """Return where browsers find a path of the coordinator: below the prefix that a proxy removed."""
    return request.root_path + path


def rendered(template: str, **values: Any) -> bytes:
    """Return a rendered page, whose links have the prefix that a proxy removed. Any thread may call it."""
    return render(template, root=request.root_path, **{"live": Parts(), **values})


def page(content: bytes, status: int = 200) -> Response:
    """Return the response for a page."""
    response = Response(content, status=status, content_type="text/html; charset=utf-8")
    response.headers["Vary"] = _VARY
    return response


def unless_known(content: bytes) -> Response:
    """Return the response for a page, or 304 if the browser has it already."""
    if PARTS_HEADER in request.headers:  # the page is for this request only
        response = page(content)
        response.headers["Cache-Control"] = "no-store"
        return response
    tag = hashlib.sha256(content).hexdigest()[:32]
    known = request.if_none_match.contains_weak(tag)
    response = page(b"" if known else content, HTTPStatus.NOT_MODIFIED if known else HTTPStatus.OK)
    response.set_etag(tag, weak=True)
    return response


def see_other(path: str) -> Response:
    """Return the redirect to a page, for a browser that has sent a form.

    :param path: as browsers find it, see :func:`rooted`.
    """
    return Response(b"", status=HTTPStatus.SEE_OTHER, headers={"Location": path})


class ApiError(Exception):
    """A refused request.

    :param code: for programs: lower case, stable.
    :param message: for people: what is wrong, and what would be right.
    :param headers: headers that the status requires.
    """

    def __init__(
        self, status: HTTPStatus, code: str, message: str, *, headers: Mapping[str, str] | None = None
    ) -> None:
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})
        super().__init__(message)


def refusal_body(code: str, message: str) -> bytes:
    """Return the body of a refusal."""
    return json.dumps({"error": {"code": code, "message": message}}).encode()


def wants_page() -> bool:
    """Whether the client is a browser. Programs that accept anything are not."""
    accepted = request.accept_mimetypes
    programs_only = request.path.startswith("/client/")
    return not programs_only and accepted.best_match(("application/json", "text/html")) == "text/html"


def install(app: Quart) -> None:
    """Give every refusal of an application the one shape, and every response the usual headers."""

    @app.after_request
    async def guard(response: Response) -> Response:
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        # Pages only: files have ranges, and a stream is not complete.
        if response.headers.get("Vary") == _VARY and request.accept_encodings.quality("gzip"):
            content = await response.get_data(as_text=False)
            if len(content) > _SMALL:
                response.set_data(await asyncio.to_thread(gzip.compress, content, 3))
                response.headers["Content-Encoding"] = "gzip"
        return response

    @app.errorhandler(ApiError)
    async def refused(error: ApiError) -> Response:
        return _answer(error.status, error.code, error.message, error.headers)

    @app.errorhandler(UnknownAdapterError)
    async def unknown(error: UnknownAdapterError) -> Response:
        return _answer(HTTPStatus.NOT_FOUND, "unknown_adapter", str(error))

    @app.errorhandler(HTTPException)
    async def other(error: HTTPException) -> Response:
        if error.code is not None and 300 <= error.code < 400:  # a redirect by the router
            redirect = error.get_response()
            return Response(b"", status=error.code, headers={"Location": redirect.headers["Location"]})
        status = HTTPStatus(error.code or 500)
        code = status.phrase.lower().replace(" ", "_").replace("-", "_")
        # `Allow` of a 405, for instance.
        headers = {name: value for name, value in error.get_headers() if name.lower() != "content-type"}
        return _answer(status, code, _said(error, status), headers)


def _said(error: HTTPException, status: HTTPStatus) -> str:
    """Return the message; for some errors, one that says more than the framework's."""
    if status == HTTPStatus.NOT_FOUND:
        return "no such path; /openapi lists all paths"
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        return f"this path takes {', '.join(sorted(error.valid_methods))}, not {request.method[:20]}"
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        return "the coordinator failed to handle this; its log has the reason"
    return error.description or status.phrase


def _answer(
    status: HTTPStatus | int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> Response:
    if wants_page():
        asks = status == HTTPStatus.UNAUTHORIZED
        if asks and request.method == "GET":
            message = ""  # is for programs
        # After the login, the browser returns to this page.
        target = rooted(request.full_path.rstrip("?") if request.method == "GET" else "/status")
        content = rendered(
            "login.html" if asks else "error.html", status=int(status), message=message, target=target
        )
        answer = page(content, int(status))
    else:
        content_type = "application/json"
        answer = Response(refusal_body(code, message), status=int(status), content_type=content_type)
    answer.headers.update(headers or {})
    return answer
