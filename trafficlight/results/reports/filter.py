"""What queries mean for the cases of a session: the fields that exist once cases run, and their values."""

from collections.abc import Mapping, Sequence

from trafficlight.results.case import CaseRecord
from trafficlight.results.reports.causes import cause_of, factors_of
from trafficlight.results.reports.presentation import MARKS, display_status, why
from trafficlight.suites.query import PLANNED, Field, Lookup, joined, parse

FIELDS: Mapping[str, Field] = {
    **PLANNED,
    "state": Field("the state, or the outcome once it has ended", choices=tuple(MARKS)),
    "msg": Field("the message, or why the case waits or did not run", "text"),
    "cause": Field("the key of a cause, as pages and `report.json` show it"),
    "version": Field("type and version of any client or homeserver of the last attempt"),
    "host": Field("the `instance` that an adapter of the last attempt registered with"),
    "since": Field(
        "the session since which the case fails, or `new`; known once its session has ended", "text"
    ),
    "seconds": Field("the duration of all attempts together", "number"),
    "attempts": Field("the number of attempts", "number"),
}
"""What is known of a case of a session, besides its roles and parameters."""


def matching(
    cases: Sequence[CaseRecord], query: str, since: Mapping[str, str], *, over: bool
) -> list[CaseRecord]:
    """Return the cases that a query means.

    :param query: empty for all.
    :param since: by case, the session since which it fails, or ``new``.
    :param over: whether their session no longer runs.
    :raises QueryError: it is malformed.
    """
    if not query:
        return list(cases)
    return parse(query, FIELDS).select(cases, lambda case: _lookup(case, since, over=over))


def _lookup(case: CaseRecord, since: Mapping[str, str], *, over: bool) -> Lookup:
    def values(name: str) -> Sequence[str | float] | None:
        match name:
            case "":
                return case.id, why(case), case.message
            case "id":
                return (case.id,)
            case "state":
                return (display_status(case, over=over),)
            case "msg":
                return why(case), case.message
            case "cause":
                return (cause_of(case),)
            case "since":
                return (since.get(case.id, ""),)
            case "clients":
                return joined(case.clients.values())
            case "servers":
                return joined(case.servers.values())
            case "seconds":
                return (case.seconds,)
            case "attempts":
                return (len(case.attempts),)
            case _:
                return [value for key, value in factors_of(case) if key == name] or None

    return values
