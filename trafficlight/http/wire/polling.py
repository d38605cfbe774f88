"""How long a poll is held."""

from http import HTTPStatus

from trafficlight.http.errors import ApiError


def hold_time(asked: str | None, hold: float) -> float:
    """Return the seconds to hold a poll: what the adapter asks for, the hold time at most.

    :param asked: the parameter `wait`, as it was sent.
    :param hold: the hold time, in seconds.
    :raises Refusal: it is no number of seconds (400).
    """
    if asked is None:
        return hold
    try:
        seconds = float(asked)
    except ValueError:
        seconds = float("nan")
    if not seconds >= 0:
        message = f"wait must be a number of seconds from 0, not {asked[:40]!r}"
        raise ApiError(HTTPStatus.BAD_REQUEST, "invalid_wait", message)
    return min(seconds, hold)
