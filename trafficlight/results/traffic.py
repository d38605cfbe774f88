"""What clients asked their homeservers, from the recordings of an attempt."""

import json
import logging
import math
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Annotated, NamedTuple
from urllib.parse import urlsplit

from pydantic import BaseModel, Field

from trafficlight.errors import UsageError
from trafficlight.network.har import RECORDING_LIMIT, masked
from trafficlight.results.folder import RECORDINGS, folder_name
from trafficlight.text import columns, size

logger = logging.getLogger(__name__)

_ALWAYS = (0.0, math.inf)
# Requests of an attempt that are read.
_MOST = 50_000
# An upload may have any numbers; a page shows them as sizes and durations.
_Size = Annotated[int, Field(ge=0, le=2**63)]


class Exchange(BaseModel):
    """A request of a client with its response."""

    offset: float = Field(description="Seconds from the start of the attempt, as in its timeline.")
    role: str
    method: str
    target: str = Field(description="The path with the query, without secrets.")
    status: int = Field(ge=0, le=999, description="0 if there was no response.")
    seconds: float = Field(ge=0, le=1e9, description="Until the end of the response.")
    sent: _Size = Field(description="Bytes of the request's body.")
    received: _Size = Field(description="Bytes of the response's body.")
    comment: str = Field(description="What the test did to it; empty if nothing.")


class Traffic(NamedTuple):
    """The requests of an attempt's clients.

    :ivar requests: in the order in which they were sent.
    :ivar left_out: what is missing, and why; a sentence each.
    """

    requests: list[Exchange]
    left_out: list[str]


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
        raise UsageError(f"invalid time range {text!r}: expected START:END in seconds, e.g. 12.1:13.4")
    return begin, end


def exchanges(
    folder: Path, began: datetime | None, *, role: str = "", period: tuple[float, float] = _ALWAYS
) -> Traffic:
    """Return the requests that clients sent in a period. Reads the disk, and takes seconds for large files.

    A recording that is damaged or too large, as an upload may be, is left out.

    :param folder: the attempt's.
    :param began: the start of the attempt; None for that of each client's first request.
    :param role: the only role; empty for all.
    """
    found, left_out = list[Exchange](), list[str]()
    for path in sorted(folder.glob(RECORDINGS)):
        if role and path.parent.name != folder_name(role):
            continue
        name = path.relative_to(folder)
        try:
            if (total := path.stat().st_size) > RECORDING_LIMIT:
                left_out.append(f"{name} is too large to show: {size(total)}")
                continue
            fitting = (one for one in _read(path, began) if period[0] <= one.offset <= period[1])
            rows = list(islice(fitting, _MOST - len(found) + 1))
        except (
            *(OSError, ValueError, LookupError, TypeError, AttributeError),
            *(ArithmeticError, RecursionError),
        ) as error:
            logger.warning("%s cannot be read: %r", path, error)
            left_out.append(f"{name} is damaged")
            continue
        found += rows
        if len(found) > _MOST:
            found.pop()
            left_out.append(f"{name} has more requests: only {_MOST:,} are shown")
    return Traffic(sorted(found, key=lambda one: one.offset), left_out)


def _read(path: Path, began: datetime | None) -> Iterator[Exchange]:
    for entry in json.loads(path.read_bytes())["log"]["entries"]:
        sent = datetime.fromisoformat(entry["startedDateTime"])
        request, response = entry["request"], entry["response"]
        began = began or sent
        url = urlsplit(request["url"])
        yield Exchange(
            offset=round((sent - began).total_seconds(), 3),
            role=path.parent.name,
            method=request["method"],
            target=masked(url.path + (f"?{url.query}" if url.query else "")),
            status=response["status"],
            seconds=round(entry["time"] / 1000, 3),
            sent=max(0, request["bodySize"]),
            received=max(0, response["bodySize"]),
            comment=entry.get("comment", ""),
        )


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
