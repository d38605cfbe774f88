"""What a client asked when, out of its recording."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from trafficlight.errors import UsageError
from trafficlight.results.traffic import exchanges, period_of, render_exchanges

BEGAN = datetime(2026, 11, 29, 12, tzinfo=UTC)


def _entry(after: float, method: str, target: str, status: int = 200, comment: str = "") -> dict[str, Any]:
    return {
        "startedDateTime": (BEGAN + timedelta(seconds=after)).isoformat(),
        "time": 250.0,
        "request": {"method": method, "url": f"http://127.0.0.1:1{target}", "bodySize": 2},
        "response": {"status": status, "bodySize": 1000 if status else -1},
        **({"comment": comment} if comment else {}),
    }


@pytest.fixture
def attempt(tmp_path: Path) -> Path:
    for role, entries in (
        (
            "alice",
            [_entry(12.0, "GET", "/sync?since=1"), _entry(12.2, "PUT", "/send/m/1", 0, "hold: dropped")],
        ),
        ("bob", [_entry(12.1, "GET", "/sync"), _entry(14.0, "GET", "/late", 404)]),
    ):
        folder = tmp_path / "clients" / role
        folder.mkdir(parents=True)
        (folder / "network.har").write_text(json.dumps({"log": {"entries": entries}}))
    return tmp_path


def test_requests_of_all_clients_are_in_order(attempt: Path) -> None:
    rows = exchanges(attempt, BEGAN)
    assert [(row.role, row.offset, row.target, row.status) for row in rows] == [
        ("alice", 12.0, "/sync?since=1", 200),
        ("bob", 12.1, "/sync", 200),
        ("alice", 12.2, "/send/m/1", 0),
        ("bob", 14.0, "/late", 404),
    ]
    assert render_exchanges(rows)[2].split() == [
        *("12.200", "alice", "-", "0.250", "s", "0", "bytes", "PUT", "/send/m/1", "(hold:", "dropped)")
    ]


def test_a_period_and_a_role_select(attempt: Path) -> None:
    assert [row.role for row in exchanges(attempt, BEGAN, period=period_of("12.05:13"))] == ["bob", "alice"]
    assert [row.target for row in exchanges(attempt, BEGAN, role="bob", period=period_of("13:"))] == ["/late"]
    assert not exchanges(attempt, BEGAN, role="../alice")


def test_a_damaged_recording_is_left_out(attempt: Path, caplog: pytest.LogCaptureFixture) -> None:
    (attempt / "clients" / "bob" / "network.har").write_text('{"log": {"entries": [{}]}}')
    assert {row.role for row in exchanges(attempt, BEGAN)} == {"alice"}
    assert "network.har cannot be read" in caplog.text


@pytest.mark.parametrize("text", ["12", "a:b", "13:12", "-1:2", "nan:"])
def test_what_is_no_period(text: str) -> None:
    with pytest.raises(UsageError, match="is no period: write seconds, such as"):
        period_of(text)
