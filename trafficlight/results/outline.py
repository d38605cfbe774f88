"""A session out of its log: all of it in short, and one of its cases in full.

Most of a log is what happened inside of attempts. Who lists cases needs none of that, and who looks at one
case needs that of no other: so a session of many thousand cases is read quickly, and takes little memory.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trafficlight.results.case import CaseRecord
from trafficlight.results.events import (
    CaseEnded,
    CasePlanned,
    CaseState,
    CaseWaits,
    Event,
    Problem,
    SessionEnded,
    SessionStarted,
    SessionStopped,
    line_head,
    parse_event,
)
from trafficlight.results.record import SessionRecord

# What a session and its cases come to; everything else is the story of an attempt.
_OUTLINED = frozenset(
    kind.kind
    for kind in (
        SessionStarted,
        SessionStopped,
        SessionEnded,
        Problem,
        CasePlanned,
        CaseWaits,
        CaseState,
        CaseEnded,
    )
)


@dataclass(frozen=True, slots=True)
class Outline:
    """A session in short.

    :ivar record: without what happened inside of attempts, and without tracebacks.
    :ivar weight: bytes of the log that it holds; it takes a few times as much memory.
    """

    record: SessionRecord
    weight: int


def outline(log: Path) -> Outline:
    """Read a session in short. Takes a second or so for 10,000 cases.

    :param log: its ``events.jsonl``.
    :raises OSError: it cannot be read.
    """
    record, weight = SessionRecord(), 0
    nothing: list[Any] = []
    skipped = b""
    for line in _lines(log):
        head = line_head(line)
        if head is not None and head.kind not in _OUTLINED:
            skipped = line
            continue
        if (event := parse_event(line)) is not None:
            skipped = b""
            record.apply(_short(event))
            weight += len(line)
            case = record.cases.get(event.case) if event.case is not None else None
            if case is not None and (attempt := case.attempt) is not None:
                # One list for all: the collector looks at each while everything else waits.
                attempt.timeline = attempt.uploads = attempt.attachments = attempt.measurements = nothing
    # The time of the very last event is when a session that was cut off was last alive.
    if (last := parse_event(skipped)) is not None:
        record.last_time = last.time
    return Outline(record, weight)


def case_in_full(log: Path, case: str) -> CaseRecord | None:
    """Read one case with all that happened in its attempts; None where there is no such case.

    :param log: the session's ``events.jsonl``.
    :raises OSError: it cannot be read.
    """
    named, record = json.dumps(case).encode(), SessionRecord()
    for line in _lines(log):
        if named in line and (event := parse_event(line)) is not None and case in event.case_ids:
            record.apply(event)
    return record.cases.get(case)


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from file


def _short(event: Event) -> Event:
    return replace(event, traceback="") if isinstance(event, CaseEnded) else event
