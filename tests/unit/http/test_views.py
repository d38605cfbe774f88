"""What the pages take from records."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from trafficlight.http.pages.views import (
    Address,
    CasePage,
    attempt_views,
    case_key,
    case_of,
    progress_of,
    session_row,
    snapshot,
)
from trafficlight.results.case import AttemptRecord, CaseRecord
from trafficlight.results.catalog import SessionSummary
from trafficlight.results.events import State
from trafficlight.results.record import SessionRecord
from trafficlight.results.reports.presentation import status_counts


def case(**values: Any) -> CaseRecord:
    return CaseRecord(**{"id": "a_test.py::A[x=Nio]", "suite": "a_test.py::A", **values})


@pytest.mark.parametrize("name", ["a_test.py::A[x=Nio,y=\ud800]", "/", "", "ä" * 500])
def test_keys_are_safe_in_urls(name: str) -> None:
    known = case(id=name)
    key = case_key(name)
    assert key.isascii()
    assert key.isalnum()
    assert case_of([known], key) is known
    assert case_of([known], "0" * 16) is None


def test_a_snapshot_does_not_change() -> None:
    moving = case(attempts=[AttemptRecord(1, "cases/a", started=datetime.now(UTC))])
    copy = snapshot(moving)
    moving.attempts[0].adapters["alice"] = {"type": "nio"}
    moving.attempts.append(AttemptRecord(2, "cases/b"))
    assert len(copy.attempts) == 1
    assert copy.attempts[0].adapters == {}


def test_a_list_of_sessions_has_the_verdict_of_their_pages() -> None:
    record = SessionRecord(id="2026-11-21--001")
    record.cases = {name: case(id=name, state=State.SUCCESS) for name in ("a", "b")}
    row = session_row(SessionSummary.of(record, "ended"))
    assert (row.verdict.text, row.counts) == ("All 2 cases succeeded", {"success": 2})
    record.cases["c"] = case(id="c")
    row = session_row(SessionSummary.of(record, "abandoned"))
    assert (row.state, row.verdict.text) == ("abandoned", "1 of 3 cases have no verdict")
    assert row.counts == status_counts(record.cases.values(), over=True)


def test_progress_says_how_fast_and_how_long() -> None:
    page = CasePage([], {"success": 30, "waiting": 60, "running": 10}, 100, [], 1, 1, "")
    assert progress_of(page, 60) == "30 of 100 ended · 30 a minute · about 2 min 20 s left"
    page = CasePage([], {"success": 1, "waiting": 1}, 2, [], 1, 1, "")
    assert progress_of(page, 60) == "1 of 2 ended"


def test_many_uploads_do_not_hide_the_logs_of_homeservers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trafficlight.http.pages.views._FILES", 5)
    attempt = AttemptRecord(1, "cases/a")
    names = ["log.info", "servers/server/homeserver.log", *(f"clients/alice/{n}.png" for n in range(10))]
    for name in names:
        path = tmp_path / "cases/a" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (view,) = attempt_views(tmp_path, case(attempts=[attempt]))
    assert [file.path.removeprefix("cases/a/") for file in view.files[:2]] == names[:2]
    assert (len(view.files), view.more_files) == (5, 7)


@pytest.mark.parametrize(
    ("text", "query", "both"),
    [
        ("", "clients:Web", "clients:Web"),
        ("bob:Nio", "clients:Web", "bob:Nio clients:Web"),
        ("bob:Nio clients:Web", "clients:Web", "bob:Nio clients:Web"),
        ("clients:Web*", "clients:Web", "clients:Web* clients:Web"),
        ("clients:A or clients:B", "clients:B", "(clients:A or clients:B) clients:B"),
    ],
)
def test_a_click_narrows_the_filter(text: str, query: str, both: str) -> None:
    assert Address("/status/1", text=text).narrowed(query) == Address("/status/1", text=both).page()
