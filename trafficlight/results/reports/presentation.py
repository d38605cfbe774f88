"""What pages and ``report.html`` share: statuses, verdicts, rows, timelines and templates.

Both render the same records with the same functions, so their numbers, marks and order agree.
"""

import json
import mimetypes
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup, escape

from trafficlight.results.case import AttemptRecord, CaseRecord, Outcome
from trafficlight.results.events import FINAL, ServiceChanged
from trafficlight.results.folder import RECORDINGS, folder_name
from trafficlight.results.history.changes import at
from trafficlight.results.history.statistics import Past
from trafficlight.results.reports.evidence import Evidence
from trafficlight.results.reports.lanes import Lanes, lanes_of
from trafficlight.results.reports.measurements import Measured, measured
from trafficlight.results.reports.timeline import Step, steps
from trafficlight.results.reports.tracebacks import compared, trimmed_traceback, without_message
from trafficlight.results.traffic import Traffic
from trafficlight.text import count, duration, escape_control, single_line, size, truncate_middle, utc_time
from trafficlight.version import VERSION

_PACKAGE = Path(__file__).parents[2]
_TEXT_LIMIT = 64 << 10  # bytes of one text
_VALUE_LIMIT = 1 << 10  # bytes of one parameter
_STEP_LIMIT = 400  # steps shown per attempt
TEXT_SUFFIXES = frozenset({".log", ".info", ".debug", ".txt", ".jsonl", ".yml", ".yaml", ".md", ".diff"})
"""Of files that are shown as text."""

# Raster formats only: SVG may contain scripts.
_PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".avif")

MARKS = {
    "running": "▸",
    "preparing": "…",
    "failure": "✗",
    "error": "!",
    "unexpected success": "✓",
    "flaky": "≈",
    "expected failure": "✗",
    "success": "✓",
    "waiting": "·",
    "not run": "·",
    "skipped": "-",
}
"""Every status of a case with its mark, in display order."""

POSITION = {status: position for position, status in enumerate(MARKS)}
"""The sort key of each status."""


def display_status(case: CaseRecord, *, over: bool) -> str:
    """Return the status of a case, one of :data:`MARKS`.

    :param over: whether its session no longer runs.
    """
    if case.state not in FINAL and not over:
        return case.state.value
    outcome = case.outcome
    return str(Outcome.NOT_RUN if outcome is Outcome.RUNNING else outcome)


def in_display_order(counts: Mapping[str, int]) -> dict[str, int]:
    """Return the counts per status in display order, without zeros."""
    return {status: counts[status] for status in MARKS if counts.get(status)}


def outcome_counts(outcomes: Mapping[Outcome, int], *, over: bool) -> dict[str, int]:
    """Return the number of cases per status, in display order, of a session without its cases.

    :param over: whether the session no longer runs.
    """
    counts = Counter({outcome.value: number for outcome, number in outcomes.items()})
    if over:
        counts[Outcome.NOT_RUN] += counts.pop(Outcome.RUNNING)
    else:
        counts["waiting"] = counts.pop(Outcome.NOT_RUN)
    return in_display_order(counts)


def status_counts(cases: Iterable[CaseRecord], *, over: bool) -> dict[str, int]:
    """Return the number of cases per status, in display order.

    :param over: whether their session no longer runs.
    """
    return in_display_order(Counter(display_status(case, over=over) for case in cases))


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of a session in one sentence.

    :ivar status: the status whose colour stands for it.
    """

    text: str
    status: str


def verdict(
    counts: Mapping[str, int], state: str = "ended", problems: int = 0, *, reduced: bool = False
) -> Verdict:
    """Return the verdict of a session.

    :param state: ``running``, ``ended``, ``interrupted`` or ``abandoned``.
    :param problems: the number of test files that cannot run.
    :param reduced: whether it ran less than a strict session must.
    """
    number, total = Counter(counts), sum(counts.values())
    bad = {
        "failed": number["failure"],
        "ended in error": number["error"],
        "succeeded unexpectedly": number["unexpected success"],
    }
    if any(bad.values()):
        status = next(name for name in ("failure", "error", "unexpected success") if number[name])
        return Verdict(_sentence(bad, total), status)
    if problems:
        return Verdict(f"{count(problems, 'test file')} cannot run", "error")
    if reduced:
        return Verdict("Unsupported cases or warnings, which a strict session must not have", "error")
    if state == "running":
        return Verdict("No failures so far", "running")
    succeeded = number["success"] + number["flaky"]
    if not succeeded + number["expected failure"]:
        return Verdict("Nothing ran", "not run")
    if undecided := sum(number[name] for name in ("running", "preparing", "waiting", "not run")):
        return Verdict(_sentence({"have no verdict": undecided}, total), "not run")
    if number["success"] == total:
        return Verdict("The case succeeded" if total == 1 else f"All {total:,} cases succeeded", "success")
    good = {
        "succeeded": succeeded,
        "flaky": number["flaky"],
        "failed as expected": number["expected failure"],
        "skipped": number["skipped"],
    }
    return Verdict(_sentence(good, total), "success")


def _sentence(numbers: Mapping[str, int], total: int) -> str:
    (first, what), *rest = [(number, what) for what, number in numbers.items() if number]
    return ", ".join(
        [f"{first:,} of {count(total, 'case')} {what}", *(f"{number:,} {text}" for number, text in rest)]
    )


@dataclass(frozen=True, slots=True)
class CaseRow:
    """One line of a list of cases.

    :ivar name: what distinguishes it from the other cases of its suite.
    :ivar why: its message, or why it waits or did not run.
    :ivar seconds: how long it took, or has been running; None before it starts.
    :ivar moving: whether `seconds` increases.
    """

    id: str
    suite: str
    cell: str
    name: str
    status: str
    why: str
    seconds: float | None
    moving: bool
    attempts: int


def case_row(case: CaseRecord, now: datetime, *, over: bool) -> CaseRow:
    """Return the line of a case.

    :param over: whether its session no longer runs.
    """
    attempt = case.attempt
    seconds, moving = case.seconds if attempt is not None else None, False
    if attempt is not None and attempt.ended is None and attempt.started is not None:
        seconds, moving = max(0.0, (now - attempt.started).total_seconds()), not over
    return CaseRow(
        id=case.id,
        suite=case.suite,
        cell=case.cell,
        name=case.cell or case.method or case.id,
        status=display_status(case, over=over),
        why=why(case),
        seconds=seconds,
        moving=moving,
        attempts=len(case.attempts),
    )


def why(case: CaseRecord) -> str:
    """Return why a case has its status: a message or a reason; may be empty."""
    if case.expected is not None and case.outcome is Outcome.EXPECTED_FAILURE:
        return case.expected.reason
    if case.expected is not None and case.outcome is Outcome.UNEXPECTED_SUCCESS:
        return f"expected to fail: {case.expected.reason}"
    if case.outcome is Outcome.FLAKY:
        return next((f"before: {one.message}" for one in reversed(case.ended[:-1]) if one.message), "")
    return case.message or case.reason if case.verdict is not None else case.reason or case.message


@dataclass(frozen=True, slots=True)
class StepView:
    """A step of a timeline, with its bar in percent of the attempt."""

    step: Step
    left: float
    width: float


@dataclass(frozen=True, slots=True)
class FileView:
    """A file of an attempt.

    :ivar path: below the session's folder.
    :ivar name: as the client or the test named it.
    :ivar size: bytes; None if unknown.
    :ivar kind: ``image``, ``video``, ``audio``, ``text`` or ``file``.
    """

    path: str
    name: str
    size: int | None
    role: str
    kind: str

    @property
    def is_log(self) -> bool:
        """Whether it is worth reading together with others, in the order of time."""
        return self.kind == "text" and self.path.endswith((".log", "/log.debug"))


@dataclass(frozen=True, slots=True)
class AttemptView:
    """An attempt as it is shown.

    :ivar left_out: the number of steps left out in the middle.
    :ivar more_files: the number of files that are not listed.
    :ivar log: the end of its log; may be empty.
    :ivar traffic: the requests of its clients that are asked for; None where none are.
    :ivar lanes: its picture; None where there is none.
    :ivar at: the seconds of the cursor in it; None where there is none.
    :ivar evidence: what was said around that moment.
    """

    record: AttemptRecord
    steps: list[StepView]
    left_out: int
    files: Sequence[FileView]
    log: str
    measured: Sequence[Measured] = ()
    traffic: Traffic | None = None
    more_files: int = 0
    lanes: Lanes | None = None
    at: float | None = None
    evidence: Sequence[Evidence] = ()

    @property
    def compared(self) -> tuple[str, str] | None:
        """What its message says was expected, and what was received."""
        return compared(self.record.message)

    @property
    def trace(self) -> str:
        """Its traceback, without what is shown already or is of this package."""
        lines = trimmed_traceback(self.record.traceback)
        return "\n".join(without_message(lines, escape_control(self.record.message)))

    @property
    def moment(self) -> datetime | None:
        """The time at the cursor."""
        began = self.record.started
        return began + timedelta(seconds=self.at) if began is not None and self.at is not None else None

    @property
    def recorded(self) -> bool:
        """Whether there are recordings of its clients' requests."""
        return any(PurePath(file.path).match(RECORDINGS) for file in self.files)


def attempt_view(
    attempt: AttemptRecord,
    files: Sequence[FileView],
    log: str = "",
    past: Sequence[Past] = (),
    *,
    case: CaseRecord | None = None,
    warned: Sequence[tuple[str, float, str, str]] = (),
) -> AttemptView:
    """Return an attempt as it is shown.

    :param past: the verdicts of the case in earlier sessions, newest first.
    :param case: its case, for the picture; None draws none.
    :param warned: what homeservers warned of, for the picture.
    """
    every, left_out = steps(attempt), attempt.dropped
    if len(every) > _STEP_LIMIT:
        left_out += len(every) - _STEP_LIMIT
        every = every[: _STEP_LIMIT // 2] + every[-_STEP_LIMIT // 2 :]
    whole = max([attempt.seconds, 0.001, *(step.offset + (step.seconds or 0.0) for step in every)])
    placed = [_placed(step, whole) for step in every]
    lanes = lanes_of(attempt, every, case.clients, case.servers, warned) if case is not None else None
    return AttemptView(attempt, placed, left_out, files, log, measured(attempt, past), lanes=lanes)


def _placed(step: Step, whole: float) -> StepView:
    took = step.seconds or 0.0
    # The offset of a server is the time when it is ready, that of an action the time when it is sent.
    begin = step.offset - took if step.kind == "server" else step.offset
    left = max(0.0, min(99.0, 100 * begin / whole))
    return StepView(step, round(left, 2), round(max(0.6, min(100.0 - left, 100 * took / whole)), 2))


def recorded_files(attempt: AttemptRecord, folder: Path | None = None) -> list[FileView]:
    """Return the files of an attempt according to its record.

    :param folder: of the session; None does not look for what services left on their nodes.
    """
    logs = ["log.info", "log.debug"] if attempt.timeline else []
    logs += [f"servers/{folder_name(role)}/homeserver.log" for role in attempt.servers]
    served = any(isinstance(event, ServiceChanged) for event in attempt.timeline)
    if served and folder is not None and (folder / attempt.folder / "services").is_dir():
        logs.append("services/")
    return [
        FileView(f"{attempt.folder}/", "folder", None, "", "file"),
        *(FileView(f"{attempt.folder}/{name}", name, None, "", "file") for name in logs),
        *(
            FileView(
                f"{attempt.folder}/{file.path}",
                file.name,
                file.size,
                file.role or "",
                file_kind(file.path, file.size),
            )
            for file in attempt.files
        ),
    ]


def file_kind(name: str, size: int) -> str:
    """Return how a browser shows a file: `FileView.kind`; ``file`` if it is empty.

    :param size: bytes.
    """
    if not size:
        return "file"
    if name.lower().endswith(_PICTURES):
        return "image"
    if Path(name).suffix.lower() in TEXT_SUFFIXES:
        return "text"
    family = (mimetypes.guess_type(name)[0] or "").partition("/")[0]
    return family if family in ("video", "audio") else "file"


def render(template: str, **values: Any) -> bytes:
    """Return a rendered template in UTF-8. Any thread may call it."""
    return _environment().get_template(template).render(**values).encode("utf-8", "replace")


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        # The report includes the style sheet of the pages.
        loader=jinja2.FileSystemLoader([_PACKAGE / "templates", _PACKAGE / "static"]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    environment.filters |= {
        "as_json": lambda value: json.dumps(value, ensure_ascii=False),
        "breakable": _breakable,
        "code": _code,
        "duration": duration,
        "one_line": single_line,
        "shell": shlex.quote,
        "size": size,
        "slug": lambda status: str(status).replace(" ", "-"),
        "value": lambda value: truncate_middle(escape_control(str(value)), _VALUE_LIMIT),
        "text": lambda text: truncate_middle(escape_control(text), _TEXT_LIMIT),
        "time": utc_time,
        "url": lambda part: quote(str(part), safe="/", errors="replace"),
    }
    environment.globals |= {"at": at, "count": count, "marks": MARKS, "version": VERSION}
    return environment


def _printable(value: Any) -> Any:
    return escape_control(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _breakable(text: str) -> Markup:
    """Allow line breaks after separators."""
    parts = (escape(escape_control(part)) for part in re.split(r"(?<=[,/_.\[])|(?<=::)", text))
    return Markup("<wbr>").join(parts)


def _code(text: str) -> Markup:
    """Render text between backticks as code."""
    parts = [escape(escape_control(part)) for part in text.split("`")]
    return Markup().join(
        Markup("<code>{}</code>").format(part) if n % 2 else part for n, part in enumerate(parts)
    )
