"""What changed in a session, for terminals and as the summary of a step of GitHub Actions."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from trafficlight.results.case import Outcome
from trafficlight.results.history.changes import KINDS, Changes
from trafficlight.results.record import SessionRecord
from trafficlight.results.reports.presentation import MARKS, display_status, status_counts, verdict
from trafficlight.text import duration, escape_control, single_line

_MOST = 20  # lines of one kind
_MOST_TESTS = 1000  # rows: GitHub shows no summary of more than 1 MiB
_CHARACTERS = 300  # of a cell


def change_lines(changes: Changes, *, known: bool = False) -> list[str]:
    """Return the lines of the terminal.

    :param known: list the known failures as well; a summary lists all failures anyway.
    """
    lines: list[str] = []
    for kind in KINDS:
        found = changes.of(kind) if kind != "known" or known else []
        lines += [
            f"{kind:<7}  {escape_control(change.case)}\n         {escape_control(change.text)}"
            for change in found[:_MOST]
        ]
        lines += _more(len(found), kind)
    lines += [
        f"moved    {escape_control(shift.case)}\n         {escape_control(shift.text)}"
        for shift in changes.shifts[:_MOST]
    ]
    lines += _more(len(changes.shifts), "moved")
    for version in changes.versions[:_MOST]:
        lines.append(f"version  {escape_control(version.type)} {escape_control(version.text)}")
    for what, cases in (("added", changes.added), ("gone", changes.removed)):
        lines += [f"{what:<7}  {escape_control(case)}" for case in cases[:_MOST]]
        lines += _more(len(cases), what)
    return [*lines, changes.sentence]


def _more(number: int, what: str) -> list[str]:
    return [f"... and {number - _MOST} more: {what}"] if number > _MOST else []


def step_summary(record: SessionRecord, changes: Changes | None, folder: Path) -> str:
    """Return a session in Markdown: the verdict, what changed, the failures, and a table of all tests.

    :param folder: the session's folder, as the reader knows it.
    """
    counts = status_counts(record.cases.values(), over=True)
    state = "interrupted" if record.interrupted else "ended"
    reduced = record.strict and bool(record.reductions)
    result = verdict(counts, state, len(record.problems), reduced=reduced)
    lines = [f"### {MARKS[result.status]} {result.text}", ""]
    numbers = " · ".join(f"{number} {status}" for status, number in counts.items())
    lines.append(f"trafficlight session {record.id}, {duration(record.seconds)}: {numbers or 'no cases'}")
    lines.append(f"Results: {_code(str(folder))}")
    if record.revision:
        lines.append(f"Tests: {_code(record.revision)}")
    problems = record.problems[:_MOST]
    lines += [f"- cannot run: {_code(problem.file)}: {_code(problem.problem)}" for problem in problems]
    if changes is not None:
        lines += ["", f"**{changes.sentence}**"]
    rows = list(_rows(record, changes))
    if rows:
        lines += ["", "| | case | |", "| --- | --- | --- |", *rows]
    return "\n".join([*lines, "", *_tests(record)]) + "\n"


def _tests(record: SessionRecord) -> Iterator[str]:
    """Yield a table with a row for each test and a column for each outcome that there is."""
    outcomes: dict[str, Counter[Outcome]] = {}
    for case in record.cases.values():
        outcomes.setdefault(case.suite, Counter())[case.outcome] += 1
    shown = [one for one in Outcome if any(row[one] for row in outcomes.values())]
    if shown:
        yield f"| test | {' | '.join(shown)} |"
        yield f"| --- |{' ---: |' * len(shown)}"
    for test, row in list(outcomes.items())[:_MOST_TESTS]:
        yield f"| {_code(test)} | {' | '.join(str(row[one] or '') for one in shown)} |"
    if len(outcomes) > _MOST_TESTS:
        yield f"| {len(outcomes) - _MOST_TESTS:,} more |"


def _rows(record: SessionRecord, changes: Changes | None) -> Iterator[str]:
    """Yield the rows of the table: what changed, and failures; all failures if nothing is compared."""
    named = {change.case: change for change in changes.cases} if changes is not None else {}
    failed = [
        case for case in record.cases.values() if display_status(case, over=True) in ("failure", "error")
    ]
    # Failures of which nothing is known, such as those that an operator cancelled.
    others = [case for case in failed if case.id not in named]
    for case in others[:_MOST]:
        yield f"| {case.outcome} | {_code(case.id)} | {_code(case.message)} |"
    if len(others) > _MOST:
        yield f"| | {len(others) - _MOST} more | |"
    for kind in KINDS:
        found = [change for change in named.values() if change.kind == kind]
        for change in found[:_MOST]:
            yield f"| {kind} | {_code(change.case)} | {_code(change.text)} |"
        if len(found) > _MOST:
            yield f"| {kind} | {len(found) - _MOST} more | |"
    if changes is None:
        return
    for shift in changes.shifts[:_MOST]:
        yield f"| moved | {_code(shift.case)} | {_code(shift.text)} |"
    for version in changes.versions[:_MOST]:
        yield f"| version | {_code(version.type)} | {_code(version.text)} |"


def _code(text: str) -> str:
    """Return a text that Markdown shows as it is, also in a table."""
    line = single_line(escape_control(text), _CHARACTERS).replace("`", "'").replace("|", "\\|")
    return f"`{line}`" if line else ""
