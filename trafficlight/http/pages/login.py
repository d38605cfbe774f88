"""The login of people: their token against a cookie, and a token for changes."""

import time
from http import HTTPStatus

from quart import Blueprint, Response, request

from trafficlight.http.api.bodies import Login
from trafficlight.http.api.specs import OperationSpec, ResponseSpec
from trafficlight.http.requests import form_fields, json_response
from trafficlight.http.responses import ApiError, rooted, see_other
from trafficlight.http.security import (
    LOGIN_TIME,
    constant_time_equal,
    cookie_name,
    login_of,
    people_token,
)

#: It requires no token.
blueprint = Blueprint("login", __name__)

_FORM_LIMIT = 16 << 10  # bytes of the form


@blueprint.post("/login")
@OperationSpec(
    "Pages",
    {
        200: ResponseSpec("The cookie is set; for a script that accepts JSON only.", Login),
        303: ResponseSpec("The cookie is set; redirects to `next`.", media_type="text/html"),
    },
    (400, 401, 413),
    form={
        "type": "object",
        "properties": {"token": {"type": "string"}, "next": {"type": "string"}},
        "required": ["token"],
    },
    form_type="application/x-www-form-urlencoded",
)
async def login() -> Response:
    """Exchange the people's token for a cookie, which only reads, and a token for changes.

    Redirects to the page that required it. Only a script of this origin gets the token for changes.
    """
    form, expected = await form_fields(_FORM_LIMIT), people_token()
    target = _within(form.get("next", ""))
    response = see_other(target)
    if expected is None:
        return response
    if not constant_time_equal(form.get("token", ""), expected):
        raise ApiError(HTTPStatus.UNAUTHORIZED, "unauthorized", "the token is wrong")
    expiry = time.time() + LOGIN_TIME
    if request.accept_mimetypes.best == "application/json":
        response = json_response(Login(token=login_of(expected, expiry, "change"), next=target))
    response.set_cookie(
        cookie_name(),
        login_of(expected, expiry, "read"),
        max_age=LOGIN_TIME,
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
