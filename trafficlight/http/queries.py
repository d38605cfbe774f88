"""Reading what stands in the query of a URL."""

from http import HTTPStatus

from quart import request

from trafficlight.http.errors import ApiError

_DIGITS = 16  # of a number


def number(name: str, default: int) -> int:
    """Return a number from 0.

    :raises Refusal: it is none (400).
    """
    text = request.args.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS):
        raise invalid_query(name, "a number from 0", text)
    return int(text)


def span(default: int, most: int) -> tuple[int, int]:
    """Return the first and the behind-the-last place that `offset` and `limit` ask for.

    :param default: how many there are to be where nothing is asked for.
    :param most: how many at most.
    :raises Refusal: one of them is no number (400).
    """
    first = number("offset", 0)
    return first, first + min(number("limit", default), most)


def invalid_query(name: str, wanted: str, given: str) -> ApiError:
    """Return the refusal of a value.

    :param wanted: what it should have been.
    """
    message = f"{name} must be {wanted}, not {given[:40]!r}"
    return ApiError(HTTPStatus.BAD_REQUEST, "invalid_query", message)
