"""The terminal summary: which cases failed, why, and where their files are."""

import os
from collections import Counter
from pathlib import Path

from trafficlight.results.case import CaseRecord, Outcome
from trafficlight.results.record import SessionRecord
from trafficlight.text import count, escape_control, single_line

_ALWAYS = (Outcome.SUCCESS, Outcome.FAILURE, Outcome.ERROR)
_LISTED = (Outcome.FAILURE, Outcome.ERROR, Outcome.UNEXPECTED_SUCCESS, Outcome.FLAKY)
_MOST = 50  # lines for one outcome; a broken lab fails every case for the same reason


def summary(record: SessionRecord, folder: Path, incomplete: str = "") -> list[str]:
    """Return the summary: each failed case with its reason and folder, then the counts.

    :param folder: the session's folder; shown relative to the working directory if it is inside.
    :param incomplete: what is missing in the folder, and why.
    """
    lines = [f"error  the results are incomplete: {incomplete}"] if incomplete else []
    where = _short(folder)
    for problem in record.problems:
        file = _short(Path(problem.file)) if problem.file.startswith("/") else problem.file
        place = f"{file}:{problem.line}" if problem.line is not None else file
        hint = f" ({problem.hint})" if problem.hint else ""
        lines.append(f"problem  {place}  {single_line(escape_control(problem.problem))}{hint}")
    lines += [f"warning  {single_line(escape_control(warning))}" for warning in record.warnings]
    for outcome in _LISTED:
        cases = [case for case in record.cases.values() if case.outcome is outcome]
        for case in cases[:_MOST]:
            lines += _lines_of(case, outcome, where)
        if len(cases) > _MOST:
            lines.append(f"... and {len(cases) - _MOST} more: {where}/report.html")
    lines += _reasons(record, "not run", Outcome.NOT_RUN, Outcome.RUNNING)
    lines += _reasons(record, "skipped", Outcome.SKIPPED)
    counts = " · ".join(
        f"{number} {outcome}" for outcome, number in record.outcomes.items() if number or outcome in _ALWAYS
    )
    problems = f" · {count(len(record.problems), 'problem')}" if record.problems else ""
    warnings = f" · {count(len(record.warnings), 'warning')}" if record.warnings else ""
    interrupted = " · interrupted" if record.interrupted else ""
    return [*lines, f"{counts}{problems}{warnings}{interrupted}   {where}"]


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


def _reasons(record: SessionRecord, what: str, *outcomes: Outcome) -> list[str]:
    """Return one line per reason why cases have no verdict."""
    cases = [case for case in record.cases.values() if case.outcome in outcomes]
    reasons = Counter(
        single_line(escape_control(case.reason or case.message)) or "no reason recorded" for case in cases
    )
    lines = [f"{what}  {count(number, 'case')}: {reason}" for reason, number in reasons.most_common(_MOST)]
    return [*lines, *([f"... and {len(reasons) - _MOST} more reasons"] if len(reasons) > _MOST else [])]


def _short(folder: Path) -> str:
    relative = os.path.relpath(folder)
    return str(folder) if relative.startswith("..") else relative
