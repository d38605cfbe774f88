"""``report.html``: a session on one page without external resources."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from trafficlight.results.case import CaseRecord
from trafficlight.results.history.changes import Changes
from trafficlight.results.history.statistics import CaseHistory, with_now
from trafficlight.results.record import SessionRecord
from trafficlight.results.reports.causes import causes
from trafficlight.results.reports.heatmap import MEASURES, HeatMap, View, heat_map
from trafficlight.results.reports.parts import Parts
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
from trafficlight.results.reports.sparkline import Verdicts, verdicts_of

_DETAILED_CASES = 500  # with more cases, those that need no attention are one line
_PICTURES = 100  # cases with a picture of who did what when
_NO_HISTORY: Mapping[str, CaseHistory] = {}
_CALM = frozenset({"success", "flaky", "expected failure", "skipped"})


@dataclass(frozen=True, slots=True)
class _Item:
    case: CaseRecord
    row: CaseRow
    anchor: str
    attempts: list[AttemptView]
    verdicts: Verdicts | None


def report_html(
    record: SessionRecord,
    changes: Changes | None = None,
    folder: Path | None = None,
    before: Mapping[str, CaseHistory] = _NO_HISTORY,
    *,
    over: bool = True,
) -> bytes:
    """Return the page. It links to the files in the session's folder.

    :param changes: since earlier sessions, if that is known.
    :param folder: the session's folder; None does not look for what services left on their nodes.
    :param before: the verdicts of its cases in earlier sessions, by case.
    :param over: whether the session no longer runs.
    """
    now = record.ended or record.last_time or datetime.now(UTC)
    cases = list(record.cases.values())
    anchors = {case.id: f"case-{number}" for number, case in enumerate(cases, 1)}
    rows = {case.id: case_row(case, now, over=over) for case in cases}
    counts = status_counts(cases, over=over)
    ordered = sorted(cases, key=lambda case: POSITION[rows[case.id].status])
    suites: dict[str, list[_Item]] = {}
    pictured = 0
    for case in ordered:
        row = rows[case.id]
        detailed = len(cases) <= _DETAILED_CASES or row.status not in _CALM
        attempts = case.attempts if detailed else []
        past = before[case.id].past if case.id in before else ()
        drawn = row.status not in _CALM and pictured < _PICTURES
        pictured += drawn
        views = [
            attempt_view(attempt, recorded_files(attempt, folder), past=past, case=case if drawn else None)
            for attempt in reversed(attempts)
        ]
        verdicts = verdicts_of(with_now(case, past)) if past and drawn else None
        suites.setdefault(case.suite, []).append(_Item(case, row, anchors[case.id], views, verdicts))
    return render(
        "report.html",
        live=Parts(),
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
        maps=_maps(cases, changes, before, over=over),
        measures=MEASURES,
        troubled=[rows[case.id] for case in ordered if rows[case.id].status in ("failure", "error")],
        suites=suites,
        href=lambda case: f"#{anchors[case]}",
        url=_url,
    )


def _maps(
    cases: list[CaseRecord], changes: Changes | None, before: Mapping[str, CaseHistory], *, over: bool
) -> list[HeatMap]:
    """Return the heat maps: by clients, with each measure that says something, and by tests."""
    kinds = {change.case: change.kind for change in changes.cases} if changes else None
    maps = [
        heat_map(cases, View("clients", measure), over=over, changes=kinds, before=before)
        for measure in MEASURES
        if len({kind for case in cases for kind in case.clients.values()}) > 1
        and (measure != "changed" or kinds)
        and (
            measure != "flaky"
            or any(case.flaky for case in cases)
            or any(one.flakes for one in before.values())
        )
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
