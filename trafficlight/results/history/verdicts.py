"""What the history keeps of a session: for each case a verdict, what it ran with, and its measurements."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from trafficlight.results.case import AttemptRecord, CaseRecord, Outcome
from trafficlight.results.catalog import OUTLINE, line_of_other
from trafficlight.results.events import Measurement, parse_event
from trafficlight.results.record import SessionRecord
from trafficlight.results.signature import signature

GOOD = frozenset({Outcome.SUCCESS, Outcome.FLAKY, Outcome.UNEXPECTED_SUCCESS})
BAD = frozenset({Outcome.FAILURE, Outcome.ERROR})

_OTHER = line_of_other((*OUTLINE, Measurement))


@dataclass(frozen=True, slots=True)
class Series:
    """The measurements of one name in one case.

    :ivar number: how many there are.
    :ivar p50: their median.
    :ivar p95: their 95th percentile.
    """

    name: str
    unit: str
    number: int
    p50: float
    p95: float


@dataclass(frozen=True, slots=True)
class CaseVerdict:
    """How a case ended in one session.

    :ivar attempt: the number of the last attempt; 0 if none started.
    :ivar signature: of the failure, also of the one before a flaky success; empty without one.
    :ivar seconds: duration of all attempts together.
    :ivar versions: type and version of what was in each role, such as ``nio 0.26.0``.
    """

    case: str
    outcome: Outcome
    attempt: int = 1
    signature: str = ""
    seconds: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)
    measurements: tuple[Series, ...] = ()


def read_verdicts(folder: Path) -> tuple[SessionRecord, list[CaseVerdict]]:
    """Read the verdicts of a session from its folder; a second or so for 10,000 cases.

    :return: the session, without actions and logs, and its verdicts.
    :raises OSError: its events cannot be read.
    """
    record = SessionRecord()
    with (folder / "events.jsonl").open("rb") as lines:
        for line in lines:
            if not _OTHER.match(line) and (event := parse_event(line)) is not None:
                record.apply(event)
    record.id = record.id or folder.name
    return record, verdicts_of(record)


def verdicts_of(record: SessionRecord) -> list[CaseVerdict]:
    """Return the verdicts of a session; cases that did not run, or that an operator cancelled, have none."""
    return [
        _verdict(case)
        for case in list(record.cases.values())
        if counts(case) and not (case.outcome is Outcome.ERROR and record.interrupted)
    ]


def counts(case: CaseRecord) -> bool:
    """Return whether a case has a verdict that its history keeps."""
    known = case.outcome in GOOD | BAD | {Outcome.EXPECTED_FAILURE}
    return known and not (case.outcome is Outcome.ERROR and case.cancelled)


def _verdict(case: CaseRecord) -> CaseVerdict:
    last = case.ended[-1] if case.ended else None
    failed = [attempt.message for attempt in case.ended if attempt.message]
    message = case.message if case.outcome not in GOOD else failed[-1] if case.flaky and failed else ""
    return CaseVerdict(
        case.id,
        case.outcome,
        attempt=last.number if last is not None else 0,
        signature=signature(message),
        seconds=round(case.seconds, 3),
        versions=dict(_versions(case, last)),
        measurements=tuple(_series(last.measurements)) if last is not None else (),
    )


def _versions(case: CaseRecord, attempt: AttemptRecord | None) -> Iterator[tuple[str, str]]:
    for role, name in case.clients.items():
        registration = attempt.adapters.get(role, {}) if attempt is not None else {}
        version = registration.get("version") or ""
        yield role, f"{registration.get('type') or name} {version}".strip()
    for role, name in case.servers.items():
        server = attempt.servers.get(role) if attempt is not None else None
        yield role, f"{(server and server.type) or name} {server.version if server else ''}".strip()


def _series(measurements: Sequence[Measurement]) -> Iterator[Series]:
    values: dict[tuple[str, str], list[float]] = {}
    for item in measurements:
        if math.isfinite(value := float(item.value)):
            values.setdefault((item.name, item.unit), []).append(value)
    for (name, unit), found in values.items():
        found.sort()
        yield Series(name, unit, len(found), median(found), percentile(found, 0.95))


def percentile(values: Sequence[float], part: float) -> float:
    """Return a percentile by the nearest rank.

    :param values: sorted, at least one.
    :param part: 0.95 for p95.
    """
    return values[max(0, math.ceil(part * len(values)) - 1)]
