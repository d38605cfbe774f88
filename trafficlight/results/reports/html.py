"""``report.html``: a session on one page that needs nothing but itself."""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import jinja2
from markupsafe import Markup, escape

from trafficlight.results.attempt import AttemptRecord
from trafficlight.results.case import CaseRecord, Outcome
from trafficlight.results.names import folder_name
from trafficlight.results.record import SessionRecord
from trafficlight.results.reports.matrix import Cell, matrices, worst
from trafficlight.results.reports.timeline import Step, steps
from trafficlight.text import duration, escape_control, single_line, size, truncate_middle, utc_time

_TEMPLATES = Path(__file__).parents[2] / "templates"
_MOST_DETAILS = 500  # cases; above that a success is one line, and its folder has the rest
_MOST_STEPS = 400  # of one attempt
_MARKS = {
    Outcome.SUCCESS: "✓",
    Outcome.FLAKY: "≈",
    Outcome.EXPECTED_FAILURE: "✗",
    Outcome.UNEXPECTED_SUCCESS: "✓",
    Outcome.FAILURE: "✗",
    Outcome.ERROR: "!",
    Outcome.SKIPPED: "-",
    Outcome.NOT_RUN: "·",
    Outcome.RUNNING: "…",
}
_GOOD = frozenset({Outcome.SUCCESS, Outcome.FLAKY, Outcome.EXPECTED_FAILURE, Outcome.SKIPPED})


@dataclass(slots=True)
class _Suite:
    id: str
    outcome: Outcome
    cases: list[CaseRecord]


def report_html(record: SessionRecord) -> bytes:
    """Return the page. Links go to the files beside it; nothing comes from a network."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "breakable": _breakable,
        "duration": duration,
        "folder_name": folder_name,
        "link": _link,
        "one_line": single_line,
        "text": lambda text: truncate_middle(escape_control(text), 64 * 1024),
        "time": utc_time,
        "slug": lambda outcome: str(outcome).replace(" ", "-"),
        "size": size,
    }
    cases = list(record.cases.values())
    page = environment.get_template("report.html").render(
        record=record,
        verdict=_verdict(record),
        good=_is_good(record),
        outcomes={outcome: number for outcome, number in record.outcomes.items() if number},
        marks=_MARKS,
        matrices=matrices(cases),
        suites=_suites(cases),
        anchors={case.id: f"case-{number}" for number, case in enumerate(cases, 1)},
        troubled=[case for case in cases if case.outcome in (Outcome.FAILURE, Outcome.ERROR)],
        steps=_shown_steps,
        bar=_bar,
        tip=_tip,
        detailed=lambda case: len(cases) <= _MOST_DETAILS or case.outcome not in _GOOD,
    )
    return page.encode(errors="backslashreplace")


def _suites(cases: list[CaseRecord]) -> list[_Suite]:
    grouped: dict[str, list[CaseRecord]] = {}
    for case in cases:
        grouped.setdefault(case.suite, []).append(case)
    return [
        _Suite(name, worst(case.outcome for case in members), members) for name, members in grouped.items()
    ]


def _is_good(record: SessionRecord) -> bool:
    return (
        record.ran
        and not record.problems
        and not record.interrupted
        and record.ended is not None
        and all(case.outcome in _GOOD for case in record.cases.values())
    )


def _verdict(record: SessionRecord) -> str:
    outcomes = record.outcomes
    total = len(record.cases)
    errors = outcomes[Outcome.ERROR]
    if failed := outcomes[Outcome.FAILURE]:
        verdict = f"{failed} of {_number(total, 'case')} failed"
        verdict += f", {errors} ended in error" if errors else ""
    elif errors:
        verdict = f"{errors} of {_number(total, 'case')} ended in error"
    elif not record.ran:
        verdict = "Nothing ran"
    elif record.problems:
        verdict = f"{_number(len(record.problems), 'test file')} could not run"
    elif undecided := outcomes[Outcome.NOT_RUN] + outcomes[Outcome.RUNNING]:
        verdict = f"{undecided} of {_number(total, 'case')} have no verdict"
    elif total == outcomes[Outcome.SUCCESS]:
        verdict = "The case succeeded" if total == 1 else f"All {total} cases succeeded"
    else:
        verdict = "Nothing failed"
    return verdict


def _number(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _shown_steps(attempt: AttemptRecord) -> tuple[list[Step], int]:
    every = steps(attempt)
    if len(every) <= _MOST_STEPS:
        return every, attempt.dropped
    half = _MOST_STEPS // 2
    return every[:half] + every[-half:], attempt.dropped + len(every) - 2 * half


def _bar(step: Step, attempt: AttemptRecord) -> str:
    """Return where a step lies within its attempt, as CSS."""
    whole = max(attempt.seconds, step.offset + (step.seconds or 0.0), 0.001)
    # A server's time ends when it is ready, an action's begins when it is asked for.
    begin = step.offset - (step.seconds or 0.0) if step.kind == "server" else step.offset
    left = max(0.0, min(99.0, 100 * begin / whole))
    width = max(0.6, min(100.0 - left, 100 * (step.seconds or 0.0) / whole))
    return f"left:{left:.2f}%;width:{width:.2f}%"


def _tip(cell: Cell) -> str:
    case = cell.first
    more = f" (+{len(cell.cases) - 1} more)" if len(cell.cases) > 1 else ""
    why = single_line(case.message or case.reason, 160)
    return f"{case.outcome}: {case.cell or case.id}{more}" + (f" — {why}" if why else "")


def _breakable(text: str) -> Markup:
    """Return text that may be broken behind its separators, rather than anywhere."""
    parts = (escape(part) for part in re.split(r"(?<=[,/_.\[])|(?<=::)", text))
    return Markup("<wbr>").join(parts)


def _link(path: str) -> str:
    # "./" in front: whatever the name, it is a path and never a scheme.
    return "./" + quote(path, errors="replace")
