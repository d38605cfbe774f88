"""What pages and the report share."""

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from trafficlight.results.case import AttemptRecord, CaseRecord, Outcome
from trafficlight.results.events import State
from trafficlight.results.reports import presentation
from trafficlight.results.reports.html import report_html
from trafficlight.results.reports.presentation import (
    MARKS,
    attempt_view,
    case_row,
    display_status,
    file_kind,
    status_counts,
    verdict,
)
from trafficlight.results.reports.timeline import steps

if TYPE_CHECKING:
    from tests.unit.results.conftest import Lab


def case(**values: Any) -> CaseRecord:
    return CaseRecord(**{"id": "a_test.py::A[x=Nio]", "suite": "a_test.py::A", **values})


@pytest.mark.parametrize(
    ("values", "over", "expected"),
    [
        ({"state": State.WAITING}, False, "waiting"),
        ({"state": State.WAITING}, True, "not run"),
        ({"state": State.PREPARING}, False, "preparing"),
        ({"state": State.RUNNING}, False, "running"),
        ({"state": State.RUNNING}, True, "not run"),
        ({"state": State.SUCCESS}, True, "success"),
        ({"state": State.SUCCESS, "flaky": True}, False, "flaky"),
        ({"state": State.SKIPPED, "skip_type": "ignored"}, True, "skipped"),
    ],
)
def test_the_status_of_a_case(values: dict[str, Any], over: bool, expected: str) -> None:
    assert display_status(case(**values), over=over) == expected


def test_every_status_has_a_mark_and_a_colour() -> None:
    assert {outcome.value for outcome in Outcome} | {state.value for state in State} <= set(MARKS)
    css = (presentation._PACKAGE / "static" / "pages.css").read_text()
    for status in MARKS:
        slug = status.replace(" ", "-")
        assert f".o-{slug} {{ --o: var(--{slug}); }}" in css


@pytest.mark.parametrize(
    ("counts", "state", "problems", "text", "status"),
    [
        (
            {"failure": 3, "error": 1, "success": 3},
            "ended",
            0,
            "3 of 7 cases failed, 1 ended in error",
            "failure",
        ),
        ({"failure": 1, "running": 6}, "running", 0, "1 of 7 cases failed", "failure"),
        ({"error": 1}, "ended", 0, "1 of 1 case ended in error", "error"),
        (
            {"unexpected success": 1, "success": 1},
            "ended",
            0,
            "1 of 2 cases succeeded unexpectedly",
            "unexpected success",
        ),
        ({"success": 1}, "ended", 2, "2 test files cannot run", "error"),
        ({"success": 2, "waiting": 1}, "running", 0, "No failures so far", "running"),
        ({}, "running", 0, "No failures so far", "running"),
        ({}, "ended", 0, "Nothing ran", "not run"),
        ({"skipped": 3}, "ended", 0, "Nothing ran", "not run"),
        ({"success": 1, "not run": 2}, "interrupted", 0, "2 of 3 cases have no verdict", "not run"),
        ({"success": 1}, "ended", 0, "The case succeeded", "success"),
        ({"success": 2000}, "ended", 0, "All 2,000 cases succeeded", "success"),
        (
            {"success": 4, "flaky": 1, "skipped": 2},
            "ended",
            0,
            "5 of 7 cases succeeded, 1 flaky, 2 skipped",
            "success",
        ),
        (
            {"expected failure": 1, "skipped": 1},
            "ended",
            0,
            "1 of 2 cases failed as expected, 1 skipped",
            "success",
        ),
    ],
)
def test_the_verdict_of_a_session(
    counts: dict[str, int], state: str, problems: int, text: str, status: str
) -> None:
    found = verdict(counts, state, problems)
    assert (found.text, found.status) == (text, status)


def test_a_row_says_why_and_how_long() -> None:
    now = datetime(2026, 11, 21, tzinfo=UTC)
    attempt = AttemptRecord(1, "cases/a", started=now - timedelta(seconds=5))
    running = case(state=State.RUNNING, attempts=[attempt])
    row = case_row(running, now, over=False)
    assert (row.status, row.seconds, row.moving, row.name) == ("running", 5.0, True, "x=Nio")
    assert not case_row(running, now, over=True).moving
    assert case_row(case(reason="needs 1 x Nio"), now, over=False).why == "needs 1 x Nio"


def test_bars_lie_within_the_attempt(lab: "Lab") -> None:
    lab.start()
    name = lab.plan()
    lab.prepare(name)
    for _ in range(500):
        lab.act(name, "alice", "send_message", 0.01)
    lab.end_case(name, "success", seconds=1.0)
    (attempt,) = lab.record.cases[name].attempts
    view = attempt_view(attempt, [])
    assert len(view.steps) == 400
    assert view.left_out == len(steps(attempt)) + attempt.dropped - 400
    for step in view.steps:
        assert 0 <= step.left <= 99
        assert 0.6 <= step.width <= 100


def test_scripts_are_not_pictures() -> None:
    kinds = {name: file_kind(name, 1) for name in ("a.PNG", "a.svg", "a.html", "film.mp4", "say.ogg", "x")}
    assert kinds == {
        "a.PNG": "image",
        "a.svg": "file",
        "a.html": "file",
        "film.mp4": "video",
        "say.ogg": "audio",
        "x": "file",
    }


def test_empty_files_are_not_played() -> None:
    assert {file_kind(name, 0) for name in ("a.png", "film.webm", "say.ogg")} == {"file"}


def test_the_report_lists_cases_as_the_pages_do(lab: "Lab") -> None:
    lab.start()
    lab.run(lab.plan({"alice": "Good"}))
    lab.plan({"alice": "Waits"})
    flaky = lab.plan({"alice": "Flaky"}, suite="b_test.py::B")
    lab.run(flaky, "failure", "odd", will_retry=True)
    lab.run(flaky, attempt=2)
    lab.run(lab.plan({"alice": "Bad"}), "failure", "no")
    lab.end()
    text = report_html(lab.record).decode()
    badges = re.findall(r'<span class="badge">([\w ]+)', text)
    counts = status_counts(lab.record.cases.values(), over=True)
    assert badges == ["failure", "success", "not run", "flaky "]
    assert "before: odd" in text
    assert list(counts) == ["failure", "flaky", "success", "not run"]
    assert re.findall(r'id="f-([\w-]+)"', text) == ["all", *(status.replace(" ", "-") for status in counts)]
