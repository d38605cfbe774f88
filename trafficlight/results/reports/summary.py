"""The terminal summary: which cases failed, why, and where their files are."""

import os
import re
from collections import Counter
from pathlib import Path

from trafficlight.results.case import AttemptRecord, CaseRecord, Outcome
from trafficlight.results.events import FINAL
from trafficlight.results.folder import AttemptFolder
from trafficlight.results.history.changes import Changes, at, read_changes
from trafficlight.results.record import SessionRecord
from trafficlight.results.reports.causes import causes
from trafficlight.results.reports.changes import change_lines
from trafficlight.results.reports.presentation import status_counts
from trafficlight.results.reports.tracebacks import FRAME, is_library, trimmed_traceback
from trafficlight.text import count, duration, escape_control, single_line

_ALWAYS = (Outcome.SUCCESS, Outcome.FAILURE, Outcome.ERROR)
_LISTED = (Outcome.FAILURE, Outcome.ERROR, Outcome.UNEXPECTED_SUCCESS, Outcome.FLAKY)
_MOST = 50  # lines for one outcome; a broken lab fails every case for the same reason
_CAUSES = 10
_EXPLAINED = 10  # cases of one outcome whose traceback and output are shown
_TRACE_LINES, _OUTPUT_LINES = 16, 10
_OUTPUT_BYTES = 256 << 10  # of the log, searched for output
_LOGGED = re.compile(r"\d{4}-\d\d-\d\d [\d:]+,\d+Z? (\w+) +([\w.]+): (.*)")


def summary(record: SessionRecord, folder: Path, incomplete: str = "", *, slowest: int = 0) -> list[str]:
    """Return the summary: each failed case with its reason and folder, then the counts.

    :param folder: the session's folder; shown relative to the working directory if it is inside.
    :param incomplete: what is missing in the folder, and why.
    :param slowest: how many of the slowest cases to list.
    """
    incomplete = incomplete or record.incomplete
    lines = [f"error  the results are incomplete: {incomplete}"] if incomplete else []
    where = _short(folder)
    for problem in record.problems:
        file = _short(Path(problem.file)) if problem.file.startswith("/") else problem.file
        place = f"{file}:{problem.line}" if problem.line is not None else file
        hint = f" ({problem.hint})" if problem.hint else ""
        lines.append(f"problem  {place}  {single_line(escape_control(problem.problem))}{hint}")
    lines += [f"warning  {single_line(escape_control(warning))}" for warning in record.warnings]
    if record.strict and record.reductions:
        lines.append(f"error  {' and '.join(record.reductions)} in a strict session")
    changes = read_changes(folder)
    lines += _causes(record, changes)
    known = {change.case: change for change in (changes.of("known") if changes else ())}
    for outcome in _LISTED:
        cases = [case for case in record.cases.values() if case.outcome is outcome]
        for number, case in enumerate(cases[:_MOST]):
            lines += _lines_of(case, outcome, where)
            if case.id in known:
                lines.append(f"         known, {known[case.id].past}")
            if number < _EXPLAINED and outcome in (Outcome.FAILURE, Outcome.ERROR) and case.ended:
                lines += _evidence(case.ended[-1], folder)
        if len(cases) > _MOST:
            lines.append(f"... and {len(cases) - _MOST} more: {where}/report.html")
    lines += _reasons(record, "not run", Outcome.NOT_RUN, Outcome.RUNNING)
    lines += _reasons(record, "skipped", Outcome.SKIPPED)
    longest = sorted((case for case in record.cases.values() if case.ended), key=lambda case: -case.seconds)
    lines += [
        f"slowest  {duration(case.seconds):>12}  {escape_control(case.id)}" for case in longest[:slowest]
    ]
    numbers = status_counts(record.cases.values(), over=True)
    counts = " · ".join(
        f"{numbers.get(outcome, 0)} {outcome}"
        for outcome in Outcome
        if outcome in numbers or outcome in _ALWAYS
    )
    if changes is not None:
        lines += change_lines(changes)
    problems = f" · {count(len(record.problems), 'problem')}" if record.problems else ""
    warnings = f" · {count(len(record.warnings), 'warning')}" if record.warnings else ""
    interrupted = " · interrupted" if record.interrupted else ""
    lines += [f"tests  {escape_control(record.revision)}"] if record.revision else []
    lines += [f"job    {single_line(escape_control(record.job))}"] if record.job else []
    report = [f"report  {where}/report.html, after {duration(record.seconds)}"] if record.ended else []
    return [*lines, *report, f"{counts}{problems}{warnings}{interrupted}   {where}"]


def _causes(record: SessionRecord, changes: Changes | None) -> list[str]:
    """Return what several failures share; single failures are listed after them."""
    found = causes(record.cases.values(), changes.since if changes else None)
    revisions = changes.revisions if changes else {}
    shared = [cause for cause in found if cause.status in _LISTED and len(cause.cases) > 1]
    lines = []
    for cause in shared[:_CAUSES]:
        message = single_line(escape_control(cause.message))
        lines.append(f"cause:{cause.key}  {len(cause.cases):,} x {message}")
        if cause.factors:
            factors = " and ".join(f"{name}={value}" for name, value in cause.factors)
            total = count(cause.total, "such case")
            lines.append(f"         {escape_control(factors)}: {cause.matching:,} of {total}")
        if cause.since:
            since = f"since {at(cause.since, revisions.get(cause.since, ''))}"
            lines.append(f"         {'new' if cause.since == 'new' else since}")
        if cause.expected:
            known = f"{cause.expected:,} known: {single_line(escape_control(cause.reason))}"
            lines.append(f"         {known}")
    if len(shared) > _CAUSES:
        lines.append(f"... and {count(len(shared) - _CAUSES, 'more cause')}")
    return lines


def _lines_of(case: CaseRecord, outcome: Outcome, where: str) -> list[str]:
    last = case.ended[-1] if case.ended else None
    match outcome:
        case Outcome.FLAKY:
            failed = [attempt for attempt in case.ended[:-1] if attempt.message]
            reason = f"succeeded in attempt {last.number if last else '?'}"
            reason += f", before: {single_line(failed[-1].message)}" if failed else ""
            last = failed[-1] if failed else last
        case Outcome.UNEXPECTED_SUCCESS:
            reason = f"expected to fail: {case.expected.reason if case.expected else ''}"
        case _:
            reason = case.message
    path = f"{where}/{last.folder}" if last else where
    return [
        f"{outcome}  {escape_control(case.id)}",
        f"         {single_line(escape_control(reason)) or 'no message'}",
        f"         {path}",
    ]


def _evidence(attempt: AttemptRecord, folder: Path) -> list[str]:
    """Return where a test failed, its traceback, and the last lines of its output."""
    trace = trimmed_traceback(attempt.traceback)
    places = [found for line in trace if (found := FRAME.match(line))]
    # A wait of the test ends in asyncio.
    places = [place for place in places if not is_library(Path(place[1]))] or places
    lines = [f"at {_short(Path(places[-1][1]))}:{places[-1][2]}"] if places else []
    if len(trace) > _TRACE_LINES:
        half = _TRACE_LINES // 2
        trace = [*trace[:half], f"  ... {len(trace) - 2 * half} lines left out ...", *trace[-half:]]
    lines += trace
    if output := _output(AttemptFolder(folder / attempt.folder)):
        lines += ["output:", *(f"  {escape_control(line)}" for line in output)]
    return [f"         {line}" for line in lines]


def _output(folder: AttemptFolder) -> list[str]:
    """Return the last lines that a test printed and logged."""
    try:
        with folder.log_info.open(encoding="utf-8", errors="replace") as file:
            found = [_LOGGED.fullmatch(line) for line in file.read(_OUTPUT_BYTES).splitlines()]
    except OSError:  # none was written, or the folder is another machine's
        return []
    lines = [line[3] if line[2] == "output" else f"{line[1]} {line[2]}: {line[3]}" for line in found if line]
    return lines[-_OUTPUT_LINES:]


def _reasons(record: SessionRecord, what: str, *outcomes: Outcome) -> list[str]:
    """Return one line per reason why cases have no verdict."""
    cases = [case for case in record.cases.values() if case.outcome in outcomes]
    reasons = Counter(
        single_line(escape_control(case.reason or case.message))
        or ("no reason recorded" if case.state in FINAL else f"still {case.state} when this was written")
        for case in cases
    )
    lines = [f"{what}  {count(number, 'case')}: {reason}" for reason, number in reasons.most_common(_MOST)]
    return [*lines, *([f"... and {len(reasons) - _MOST} more reasons"] if len(reasons) > _MOST else [])]


def _short(folder: Path) -> str:
    relative = os.path.relpath(folder)
    return str(folder) if relative.startswith("..") else relative
