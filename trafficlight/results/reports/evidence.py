"""What was said around one moment of an attempt: by logs, by clients' requests, on screens."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from trafficlight.results.case import AttemptRecord
from trafficlight.results.reports.timeline import Step
from trafficlight.results.traffic import exchanges
from trafficlight.text import single_line

WITHIN = 1.0
"""Seconds before and after the moment."""

_LOGS = ("servers/*/*.log", "clients/*/*.log", "clients/*/*.txt", "services/**/*.log")
_FILES, _LINES, _REQUESTS = 40, 40, 60  # logs that are searched, and what is shown of each
_LINE = 2_000  # bytes of a line that are read
_BLOCK = 4_096  # bytes in which a search ends
_UNDATED = 200  # lines without a time that are read while one is looked for
_WARNED = 20  # warnings of one log
_SEARCHED = 1 << 20  # bytes at the end of a log that are searched for warnings
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:[.,](\d{1,6})\d*)?\s?(Z|[+-]\d\d:?\d\d)?")
_BAD = re.compile(r"\b(?:WARN(?:ING)?|ERROR|CRITICAL|FATAL|PANIC)\b|level=(?:warn|error|fatal|panic)")
# What a homeserver of this lab always warns of.
_USUAL = re.compile(r"config|secret|macaroon|deprecat|suppress", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Evidence:
    """One thing that was said.

    :ivar offset: seconds from the start of the attempt.
    :ivar kind: ``step``, ``log``, ``http`` or ``file``.
    :ivar source: a role, or the name of a file.
    :ivar path: the file, below the session's folder; empty if there is none.
    :ivar level: ``bad`` for warnings and errors; may be empty.
    :ivar number: of the step among those that are shown; 0 for other kinds.
    :ivar image: whether the file is a picture.
    """

    offset: float
    kind: str
    source: str
    text: str
    path: str = ""
    level: str = ""
    number: int = 0
    image: bool = False


def time_of(line: str) -> datetime | None:
    """Return the time with which a line of a log begins, UTC if it names no zone."""
    found = _TIME.search(line, 0, 80)
    if found is None:
        return None
    day, clock, fraction, zone = found.groups()
    try:
        when = datetime.fromisoformat(f"{day}T{clock}.{fraction or 0:0<6}{zone or '+00:00'}")
        return when.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def evidence(
    folder: Path,
    attempt: AttemptRecord,
    steps: Sequence[Step],
    at: float,
    within: float = WITHIN,
    *,
    requests: bool = True,
) -> list[Evidence]:
    """Return what was said around a moment, in its order. Reads the disk.

    :param folder: of the session.
    :param steps: those that are shown, in their order.
    :param at: seconds from the start of the attempt.
    :param requests: whether recordings of requests are read, which takes seconds for large ones.
    """
    began = attempt.started
    if began is None:
        return []
    first, last = at - within, at + within
    found = [
        Evidence(step.offset, "step", step.who, f"{step.what} {step.asked or step.detail}", "", "", number)
        for number, step in enumerate(steps, 1)
        if step.offset <= last and step.offset + (step.seconds or 0.0) >= first
    ]
    place = folder / attempt.folder
    for path in sorted({path for pattern in _LOGS for path in place.glob(pattern)})[:_FILES]:
        begin, end = (began + timedelta(seconds=seconds) for seconds in (first, last))
        source, below = _source(path, place), path.relative_to(folder).as_posix()
        for when, line in lines_between(path, begin, end):
            level = "bad" if _BAD.search(line) else ""
            offset = (when - began).total_seconds()
            found.append(Evidence(offset, "log", source, single_line(line, 500), below, level))
    period = (max(0.0, first), max(0.0, last))
    for one in exchanges(place, began, period=period).requests[:_REQUESTS] if requests else ():
        bad = "bad" if one.status >= 400 or not one.status else ""
        text = f"{one.method} {one.target} {one.status or 'no response'} {one.comment}"
        found.append(Evidence(one.offset, "http", one.role, single_line(text), level=bad))
    for file in (*attempt.uploads, *attempt.attachments):
        offset = (file.time - began).total_seconds()
        if first <= offset <= last:
            below = f"{attempt.folder}/{file.path}"
            source = file.role or "test"
            found.append(Evidence(offset, "file", source, file.name, below, image=file.is_image))
    return sorted(found, key=lambda one: one.offset)


def warnings(folder: Path, attempt: AttemptRecord) -> list[tuple[str, float, str, str]]:
    """Return the last warnings and errors of homeservers: role, seconds, line, and log. Reads the disk."""
    if (began := attempt.started) is None:
        return []
    found = []
    for path in sorted((folder / attempt.folder).glob("servers/*/homeserver.log"))[:_FILES]:
        below = path.relative_to(folder).as_posix()
        try:
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - _SEARCHED))
                mine = [
                    (path.parent.name, (when - began).total_seconds(), line, below)
                    for line in _lines(file)
                    if _BAD.search(line) and not _USUAL.search(line) and (when := time_of(line)) is not None
                ]
        except OSError:
            continue
        found += mine[-_WARNED:]
    return found


def lines_between(path: Path, begin: datetime, end: datetime) -> list[tuple[datetime, str]]:
    """Return the lines of a log in a period, which may be large: its times must not decrease.

    A line without a time belongs to the one before it.
    """
    found: list[tuple[datetime, str]] = []
    try:
        with path.open("rb") as file:
            low, high = 0, path.stat().st_size
            while high - low > _BLOCK:
                middle = (low + high) // 2
                file.seek(middle)
                file.readline(_LINE)
                when = next(filter(None, map(time_of, _lines(file, _UNDATED))), None)
                low, high = (middle, high) if when is not None and when < begin else (low, middle)
            file.seek(low)
            last: datetime | None = None
            undated = 0
            for line in _lines(file):
                if (when := time_of(line)) is not None:
                    last = when
                undated = 0 if when is not None else undated + 1
                if len(found) == _LINES or undated > _UNDATED or (last is not None and last > end):
                    break
                if last is not None and last >= begin:
                    found.append((last, line))
    except OSError:
        pass  # it has been removed
    return found


def _lines(file: BinaryIO, most: int | None = None) -> Iterator[str]:
    while most is None or most > 0:
        if not (line := file.readline(_LINE)):
            return
        yield line.decode(errors="replace").rstrip()
        most = None if most is None else most - 1


def _source(path: Path, place: Path) -> str:
    """Return whose log it is, and which."""
    _, role, *rest = path.relative_to(place).parts
    name = "/".join(rest) or role
    return role if name == "homeserver.log" else f"{role}: {name}"
