"""One shape for everything that is refused: ``{"error": {"code": ..., "message": ...}}`` with the right status."""

import json
from http import HTTPStatus

from quart import Quart, Response
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from trafficlight.coordinator.pool import RegistrationConflict, UnknownAdapter

__all__ = ["Refusal", "install", "refusal_body"]


class Refusal(Exception):  # noqa: N818
    """A request that is not carried out.

    :param status: the HTTP status.
    :param code: for programs: lower case, stable.
    :param message: for people: what is wrong and what would be right.
    """

    def __init__(self, status: HTTPStatus, code: str, message: str) -> None:
        self.status = status
        self.code = code
        self.message = message
        super().__init__(message)


def refusal_body(code: str, message: str) -> bytes:
    """Return the body of a refusal."""
    return json.dumps({"error": {"code": code, "message": message}}).encode()


def _answer(status: int, code: str, message: str) -> Response:
    return Response(refusal_body(code, message), status=status, content_type="application/json")


def install(app: Quart) -> None:
    """Let every refusal of an application have the one shape."""

    @app.errorhandler(Refusal)
    async def refused(error: Refusal) -> Response:
        return _answer(error.status, error.code, error.message)

    @app.errorhandler(UnknownAdapter)
    async def unknown(error: UnknownAdapter) -> Response:
        return _answer(HTTPStatus.NOT_FOUND, "unknown_adapter", str(error))

    @app.errorhandler(RegistrationConflict)
    async def conflict(error: RegistrationConflict) -> Response:
        return _answer(HTTPStatus.CONFLICT, "registration_conflict", str(error))

    @app.errorhandler(HTTPException)
    async def other(error: HTTPException) -> Response:
        status = HTTPStatus(error.code or 500)
        code = status.phrase.lower().replace(" ", "_").replace("-", "_")
        answer = _answer(status, code, error.description or status.phrase)
        if isinstance(error, MethodNotAllowed) and error.valid_methods:
            answer.headers["Allow"] = ", ".join(sorted(error.valid_methods))
        return answer
