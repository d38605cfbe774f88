"""The last lines on the terminal: what failed, why, and where to look."""

import os
from collections import Counter
from pathlib import Path

from trafficlight.results.case import CaseRecord, Outcome
from trafficlight.results.record import SessionRecord
from trafficlight.text import single_line, visible

_ALWAYS = (Outcome.SUCCESS, Outcome.FAILURE, Outcome.ERROR)
_TOLD = (Outcome.FAILURE, Outcome.ERROR, Outcome.UNEXPECTED_SUCCESS, Outcome.FLAKY)
_MOST = 50  # lines for one outcome; a broken lab fails every case for the same reason


def summary(record: SessionRecord, folder: Path) -> list[str]:
    """Return the lines: what failed each with its reason and folder, then the counts.

    :param folder: the session's folder; shown relative to the working directory where that is shorter.
    """
    lines: list[str] = []
    where = _short(folder)
    for problem in record.problems:
        file = _short(Path(problem.file)) if problem.file.startswith("/") else problem.file
        place = f"{file}:{problem.line}" if problem.line is not None else file
        hint = f" ({problem.hint})" if problem.hint else ""
        lines.append(f"problem  {place}  {single_line(visible(problem.problem))}{hint}")
    for outcome in _TOLD:
        cases = [case for case in record.cases.values() if case.outcome is outcome]
        for case in cases[:_MOST]:
            lines += _told(case, outcome, where)
        if len(cases) > _MOST:
            lines.append(f"... and {len(cases) - _MOST} more: {where}/report.html")
    lines += _untold(record, "not run", Outcome.NOT_RUN, Outcome.RUNNING)
    lines += _untold(record, "skipped", Outcome.SKIPPED)
    counts = " · ".join(
        f"{number} {outcome}" for outcome, number in record.outcomes.items() if number or outcome in _ALWAYS
    )
    problems = (
        f" · {len(record.problems)} problem{'s' * (len(record.problems) != 1)}" if record.problems else ""
    )
    interrupted = " · interrupted" if record.interrupted else ""
    return [*lines, f"{counts}{problems}{interrupted}   {where}"]


def _told(case: CaseRecord, outcome: Outcome, where: str) -> list[str]:
    last = case.ended[-1] if case.ended else None
    match outcome:
        case Outcome.FLAKY:
            failed = [attempt for attempt in case.ended[:-1] if attempt.message]
            reason = f"succeeded in attempt {last.number if last else '?'}"
            reason += f", before: {single_line(failed[-1].message)}" if failed else ""
            last = failed[-1] if failed else last
        case Outcome.UNEXPECTED_SUCCESS:
            reason = f"was expected to fail: {case.expected.reason if case.expected else ''}"
        case _:
            reason = case.message
    path = f"{where}/{last.folder}" if last else where
    return [
        f"{outcome}  {visible(case.id)}",
        f"         {single_line(visible(reason)) or 'no message'}",
        f"         {path}",
    ]


def _untold(record: SessionRecord, what: str, *outcomes: Outcome) -> list[str]:
    """Return why cases came to no verdict, a line for each reason."""
    cases = [case for case in record.cases.values() if case.outcome in outcomes]
    reasons = Counter(
        single_line(visible(case.reason or case.message)) or "nobody said why" for case in cases
    )
    lines = [f"{what}  {cases_text(number)}: {reason}" for reason, number in reasons.most_common(_MOST)]
    return [*lines, *([f"... and {len(reasons) - _MOST} more reasons"] if len(reasons) > _MOST else [])]


def cases_text(number: int) -> str:
    """Say how many cases."""
    return "1 case" if number == 1 else f"{number} cases"


def _short(folder: Path) -> str:
    relative = os.path.relpath(folder)
    return str(folder) if relative.startswith("..") else relative
