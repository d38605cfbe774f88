"""One shape for all refusals: ``{"error": {"code": ..., "message": ...}}`` with the right status.

A browser gets a page instead.
"""

import json
from collections.abc import Mapping
from http import HTTPStatus

from quart import Quart, Response, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from trafficlight.coordinator.adapter import UnknownAdapterError
from trafficlight.http.headers import page, rendered, rooted


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
    """Give every refusal of an application the one shape."""

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
