"""Specifications of endpoints, written where the endpoints are; the OpenAPI document is built from them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal, TypeAlias, TypeVar

from pydantic import BaseModel

F = TypeVar("F", bound=Callable[..., Any])
Guard: TypeAlias = Literal["adapter", "registration", "people"]

REFUSALS = {
    HTTPStatus.BAD_REQUEST: "The request is malformed or invalid.",
    HTTPStatus.UNAUTHORIZED: "A token is required, and the right one was not sent.",
    HTTPStatus.FORBIDDEN: "A cross-site request of a browser, or a session for `trafficlight run`.",
    HTTPStatus.NOT_FOUND: "There is no such thing.",
    HTTPStatus.REQUEST_TIMEOUT: "The body stalled.",
    HTTPStatus.CONFLICT: "Not possible in the present state.",
    HTTPStatus.GONE: "The results were deleted.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "More than the limit.",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "The body is of another type.",
    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE: "The range starts behind the end.",
    HTTPStatus.INSUFFICIENT_STORAGE: "The coordinator's disk is full.",
    HTTPStatus.SERVICE_UNAVAILABLE: "The coordinator is not ready, or is shutting down.",
}


@dataclass(frozen=True, slots=True)
class Query:
    """A query parameter."""

    name: str
    description: str
    schema: Mapping[str, Any]


REQUESTS = (
    Query("role", "Only requests of this client.", {"type": "string"}),
    Query(
        "between",
        "Only requests that were sent in these seconds, such as `12.1:13.4`.",
        {"type": "string"},
    ),
)
"""Which recorded requests of clients are asked for."""

MOMENT = (
    Query("at", "Show what was said within a second of this moment, in seconds.", {"type": "number"}),
    Query("attempt", "The number of the attempt that `at` means; the latest by default.", {"type": "string"}),
)
"""Of which moment of an attempt is asked what was said."""


@dataclass(frozen=True, slots=True)
class ResponseSpec:
    """A response that is not a refusal.

    :param model: what its JSON holds; None if it is not JSON.
    :param media_type: `*/*` for any file, None for an empty response.
    """

    description: str
    model: type[BaseModel] | None = None
    media_type: str | None = "application/json"


@dataclass(frozen=True, slots=True)
class OperationSpec:
    """What an endpoint takes and returns: a decorator for its view, whose docstring is the summary.

    :param group: the heading in the document.
    :param refusals: the statuses of its refusals, all of one shape.
    :param guard: whose token it requires, if tokens are enabled.
    """

    group: str
    responses: Mapping[int, ResponseSpec]
    refusals: tuple[int, ...] = ()
    query: tuple[Query, ...] = ()
    body: type[BaseModel] | None = None
    form: Mapping[str, Any] | None = None
    form_type: str = "multipart/form-data"
    guard: Guard | None = None

    def __call__(self, view: F) -> F:
        """Attach the specification to a view."""
        view.__dict__["operation_spec"] = self
        return view


def spec_of(view: Callable[..., Any]) -> OperationSpec | None:
    """Return the specification of a view, if it has one."""
    found = getattr(view, "operation_spec", None)
    return found if isinstance(found, OperationSpec) else None
