"""What clients asked their homeservers, from the recordings of an attempt."""

import json
import logging
import math
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel, Field

from trafficlight.errors import UsageError
from trafficlight.results.folder import RECORDING, folder_name
from trafficlight.text import columns, size

logger = logging.getLogger(__name__)

_ALWAYS = (0.0, math.inf)


class Exchange(BaseModel):
    """A request of a client with its response."""

    offset: float = Field(description="Seconds from the start of the attempt, as in its timeline.")
    role: str
    method: str
    target: str = Field(description="The path with the query, without secrets.")
    status: int = Field(description="0 if there was no response.")
    seconds: float = Field(description="Until the end of the response.")
    sent: int = Field(description="Bytes of the request's body.")
    received: int = Field(description="Bytes of the response's body.")
    comment: str = Field(description="What the test did to it; empty if nothing.")


def period_of(text: str) -> tuple[float, float]:
    """Return a period in seconds out of ``12.1:13.4``; either end may be left out.

    :raises UsageError: it is something else.
    """
    first, colon, last = text.strip().partition(":")
    try:
        begin, end = float(first or 0), float(last or math.inf)
    except ValueError:
        begin, end = math.nan, math.nan
    if not text.strip():
        return _ALWAYS
    if not colon or not 0 <= begin <= end:
        raise UsageError(f"{text!r} is no period: write seconds, such as 12.1:13.4, 12.1: or :13.4")
    return begin, end


def exchanges(
    folder: Path, began: datetime | None, *, role: str = "", period: tuple[float, float] = _ALWAYS
) -> list[Exchange]:
    """Return the requests that clients sent in a period, in that order. Reads the disk.

    A recording that is damaged, as an upload may be, is left out.

    :param folder: the attempt's.
    :param began: the start of the attempt; None for that of each client's first request.
    :param role: the only role; empty for all.
    """
    found: list[Exchange] = []
    for path in folder.glob(f"clients/*/{RECORDING}"):
        if role and path.parent.name != folder_name(role):
            continue
        try:
            found += _read(path, began)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            logger.warning("%s cannot be read: %r", path, error)
    fitting = (one for one in found if period[0] <= one.offset <= period[1])
    return sorted(fitting, key=lambda one: one.offset)


def _read(path: Path, began: datetime | None) -> list[Exchange]:
    rows = []
    for entry in json.loads(path.read_bytes())["log"]["entries"]:
        sent = datetime.fromisoformat(entry["startedDateTime"])
        request, response = entry["request"], entry["response"]
        began = began or sent
        url = urlsplit(request["url"])
        rows.append(
            Exchange(
                offset=round((sent - began).total_seconds(), 3),
                role=path.parent.name,
                method=request["method"],
                target=url.path + (f"?{url.query}" if url.query else ""),
                status=response["status"],
                seconds=round(entry["time"] / 1000, 3),
                sent=max(0, request["bodySize"]),
                received=max(0, response["bodySize"]),
                comment=entry.get("comment", ""),
            )
        )
    return rows


def render_exchanges(rows: Iterable[Exchange]) -> list[str]:
    """Return requests as lines of text."""
    return list(
        columns(
            (
                f"{row.offset:9.3f}",
                row.role,
                str(row.status or "-"),
                f"{row.seconds:.3f} s",
                size(row.received),
                # Last, because it may be long.
                " ".join(filter(None, (row.method, row.target, row.comment and f"({row.comment})"))),
            )
            for row in rows
        )
    )
