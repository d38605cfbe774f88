"""What an endpoint takes and answers, written where it is implemented; the OpenAPI document is made of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal, TypeAlias, TypeVar

from pydantic import BaseModel

from trafficlight.http.schemas import ErrorResponse

F = TypeVar("F", bound=Callable[..., Any])
Guard: TypeAlias = Literal["adapter", "registration", "people"]

_DESCRIBED = "__trafficlight_endpoint__"

_REFUSALS = {
    HTTPStatus.BAD_REQUEST: "The request cannot be read, or does not fit.",
    HTTPStatus.UNAUTHORIZED: "Tokens are on, and the right one was not sent.",
    HTTPStatus.NOT_FOUND: "There is no such thing.",
    HTTPStatus.REQUEST_TIMEOUT: "The body stalled.",
    HTTPStatus.CONFLICT: "Out of turn.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "More than the limit.",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "The body is of another type.",
    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE: "The range lies behind the end.",
    HTTPStatus.FORBIDDEN: "A browser asks on behalf of another site.",
    HTTPStatus.INSUFFICIENT_STORAGE: "The coordinator's disk is full.",
    HTTPStatus.SERVICE_UNAVAILABLE: "The coordinator is not ready for it, or is ending.",
}


@dataclass(frozen=True, slots=True)
class Query:
    """A parameter in the query.

    :param schema: its JSON Schema.
    """

    name: str
    description: str
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that is no refusal.

    :param model: what it holds; None for what is no JSON.
    :param media_type: what it is; `*/*` for any file, None for none.
    """

    description: str
    model: type[BaseModel] | None = None
    media_type: str | None = "application/json"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What an endpoint takes and answers.

    :param group: under which heading people find it.
    :param answers: by status.
    :param refusals: the statuses of its refusals, all of one shape.
    :param body: what it takes as JSON.
    :param form: the JSON Schema of what it takes as a form.
    :param form_type: the form's media type.
    :param guard: whose token it asks for, where tokens are on.
    """

    group: str
    answers: Mapping[int, Answer]
    refusals: tuple[int, ...] = ()
    query: tuple[Query, ...] = ()
    body: type[BaseModel] | None = None
    form: Mapping[str, Any] | None = None
    form_type: str = "multipart/form-data"
    guard: Guard | None = None
    models: tuple[type[BaseModel], ...] = field(init=False)

    def __post_init__(self) -> None:
        named = [self.body, *(answer.model for answer in self.answers.values())]
        found = tuple(dict.fromkeys(model for model in (*named, ErrorResponse) if model is not None))
        object.__setattr__(self, "models", found)

    def refusal(self, status: int) -> str:
        """Say what a refusal means."""
        return _REFUSALS[HTTPStatus(status)]


def described(endpoint: Endpoint) -> Callable[[F], F]:
    """Describe a view; its docstring is the summary."""

    def mark(view: F) -> F:
        setattr(view, _DESCRIBED, endpoint)
        return view

    return mark


def description_of(view: Callable[..., Any]) -> Endpoint | None:
    """Return how a view is described; None where it is not."""
    found = getattr(view, _DESCRIBED, None)
    return found if isinstance(found, Endpoint) else None
