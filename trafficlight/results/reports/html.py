"""``report.html``: a session on one page without external resources."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from trafficlight.results.case import CaseRecord
from trafficlight.results.history.changes import Changes
from trafficlight.results.record import SessionRecord
from trafficlight.results.reports.causes import causes
from trafficlight.results.reports.heatmap import MEASURES, HeatMap, View, heat_map
from trafficlight.results.reports.measurements import Earlier
from trafficlight.results.reports.presentation import (
    POSITION,
    AttemptView,
    CaseRow,
    attempt_view,
    case_row,
    recorded_files,
    render,
    status_counts,
    verdict,
)

_DETAILED_CASES = 500  # with more cases, those that need no attention are one line
_CALM = frozenset({"success", "flaky", "expected failure", "skipped"})


@dataclass(frozen=True, slots=True)
class _Item:
    case: CaseRecord
    row: CaseRow
    anchor: str
    attempts: list[AttemptView]


def report_html(
    record: SessionRecord, changes: Changes | None = None, folder: Path | None = None, *, over: bool = True
) -> bytes:
    """Return the page. It links to the files in the session's folder.

    :param changes: since earlier sessions, if that is known.
    :param folder: the session's folder, beside those of earlier sessions; None looks for none of them.
    :param over: whether the session no longer runs.
    """
    now = record.ended or record.last_time or datetime.now(UTC)
    cases = list(record.cases.values())
    anchors = {case.id: f"case-{number}" for number, case in enumerate(cases, 1)}
    rows = {case.id: case_row(case, now, over=over) for case in cases}
    counts = status_counts(cases, over=over)
    ordered = sorted(cases, key=lambda case: POSITION[rows[case.id].status])
    suites: dict[str, list[_Item]] = {}
    earlier = Earlier(folder)
    for case in ordered:
        row = rows[case.id]
        detailed = len(cases) <= _DETAILED_CASES or row.status not in _CALM
        attempts = case.attempts if detailed else []
        last = earlier.last(case.id) if any(attempt.measurements for attempt in attempts) else ("", {})
        views = [
            attempt_view(attempt, recorded_files(attempt, folder), last=last)
            for attempt in reversed(attempts)
        ]
        suites.setdefault(case.suite, []).append(_Item(case, row, anchors[case.id], views))
    return render(
        "report.html",
        record=record,
        changes=changes,
        result=verdict(
            counts,
            _state(record, over=over),
            len(record.problems),
            reduced=record.strict and bool(record.reductions),
        ),
        counts=counts,
        causes=[(cause, len(cause.cases)) for cause in causes(cases, changes.since if changes else None)],
        maps=_maps(cases, changes, over=over),
        measures=MEASURES,
        troubled=[rows[case.id] for case in ordered if rows[case.id].status in ("failure", "error")],
        suites=suites,
        href=lambda case: f"#{anchors[case]}",
        url=_url,
    )


def _maps(cases: list[CaseRecord], changes: Changes | None, *, over: bool) -> list[HeatMap]:
    """Return the heat maps: by clients, with each measure that says something, and by tests."""
    kinds = {change.case: change.kind for change in changes.cases} if changes else None
    maps = [
        heat_map(cases, View("clients", measure), over=over, changes=kinds)
        for measure in MEASURES
        if len({kind for case in cases for kind in case.clients.values()}) > 1
        and (measure != "changed" or kinds)
        and (measure != "flaky" or any(case.flaky for case in cases))
    ]
    by_test = heat_map(cases, View("tests"), over=over)
    if len(cases) > _DETAILED_CASES:
        by_test = heat_map(cases, View("tests", options=frozenset({"failed"})), over=over)
    return [*maps, by_test]


def _state(record: SessionRecord, *, over: bool) -> str:
    if record.interrupted:
        return "interrupted"
    return "ended" if record.ended is not None else "abandoned" if over else "running"


def _url(path: str) -> str:
    # "./" in front: a relative path whatever the name, never a scheme.
    return "./" + quote(path, errors="replace")
