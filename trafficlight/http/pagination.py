"""Query parameters: numbers and pages of a list."""

from http import HTTPStatus

from quart import request

from trafficlight.http.errors import ApiError

_DIGITS = 16  # of a number


def number(name: str, default: int) -> int:
    """Return a query parameter as a number from 0.

    :raises ApiError: it is not one (400).
    """
    text = request.args.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS):
        raise invalid_query(name, "a number from 0", text)
    return int(text)


def page_bounds(default: int, most: int) -> tuple[int, int]:
    """Return the slice bounds that `offset` and `limit` ask for.

    :param default: the limit if none is given.
    :param most: the highest limit.
    :raises ApiError: one of them is not a number (400).
    """
    first = number("offset", 0)
    return first, first + min(number("limit", default), most)


def invalid_query(name: str, wanted: str, given: str) -> ApiError:
    """Return the error for an invalid query parameter.

    :param wanted: what it has to be.
    """
    message = f"{name} must be {wanted}, not {given[:40]!r}"
    return ApiError(HTTPStatus.BAD_REQUEST, "invalid_query", message)
