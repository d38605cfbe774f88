"""The login, which exchanges the people's token for a cookie."""

from http import HTTPStatus

from quart import Blueprint, Response, request

from trafficlight.http.api.specs import OperationSpec, ResponseSpec
from trafficlight.http.errors import ApiError
from trafficlight.http.headers import rooted
from trafficlight.http.requests import form_fields
from trafficlight.http.security import COOKIE, constant_time_equal, cookie_of, people_token

blueprint = Blueprint("login", __name__)

_LIMIT = 16 << 10  # bytes of the form
_MAX_AGE = 30 * 24 * 3600  # seconds


@blueprint.post("/login")
@OperationSpec(
    "Pages",
    {303: ResponseSpec("The cookie is set; redirects to `next`.", media_type="text/html")},
    (400, 401, 413),
    form={
        "type": "object",
        "properties": {"token": {"type": "string"}, "next": {"type": "string"}},
        "required": ["token"],
    },
    form_type="application/x-www-form-urlencoded",
)
async def login() -> Response:
    """Exchange the people's token for a cookie, and redirect to the page that required it."""
    form, expected = await form_fields(_LIMIT), people_token()
    response = Response(b"", status=HTTPStatus.SEE_OTHER, headers={"Location": _within(form.get("next", ""))})
    if expected is None:
        return response
    if not constant_time_equal(form.get("token", ""), expected):
        raise ApiError(HTTPStatus.UNAUTHORIZED, "unauthorized", "the token is wrong")
    response.set_cookie(
        COOKIE,
        cookie_of(expected),
        max_age=_MAX_AGE,
        httponly=True,
        samesite="Lax",
        secure=request.is_secure,
        path=request.root_path or "/",
    )
    return response


def _within(target: str) -> str:
    """Return a path of this lab; the status page if the target is anything else."""
    plain = target.isascii() and target.isprintable() and "\\" not in target
    inside = plain and target.startswith(rooted("/")) and not target.startswith("//")
    return target if inside else rooted("/status")
