"""What a client asked when, out of its recording."""

import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from trafficlight.errors import UsageError
from trafficlight.network import har
from trafficlight.results import traffic
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
    rows = exchanges(attempt, BEGAN).requests
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
    rows, _ = exchanges(attempt, BEGAN, period=period_of("12.05:13"))
    assert [row.role for row in rows] == ["bob", "alice"]
    rows, _ = exchanges(attempt, BEGAN, role="bob", period=period_of("13:"))
    assert [row.target for row in rows] == ["/late"]
    assert exchanges(attempt, BEGAN, role="../alice") == ([], [])


@pytest.mark.parametrize(
    "content",
    [
        '{"log": {"entries": [{}]}}',
        "[" * 100_000,
        json.dumps({"log": {"entries": [_entry(1, "GET", "/x") | {"time": 10**400}]}}),
        json.dumps({"log": {"entries": [_entry(1, "GET", "/x") | {"time": math.nan}]}}),
        json.dumps({"log": {"entries": [_entry(1, "GET", "/x", 10**30)]}}),
    ],
    ids=["incomplete", "nested", "overflow", "nan", "status"],
)
def test_a_damaged_recording_is_left_out(
    attempt: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    (attempt / "clients" / "bob" / "network.har").write_text(content)
    rows, left_out = exchanges(attempt, BEGAN)
    assert {row.role for row in rows} == {"alice"}
    assert left_out == ["clients/bob/network.har is damaged"]
    assert "network.har cannot be read" in caplog.text


def test_of_large_recordings_a_part_is_shown(attempt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "_MOST", 3)
    rows, left_out = exchanges(attempt, BEGAN)
    assert [row.offset for row in rows] == [12.0, 12.1, 12.2]
    assert left_out == ["clients/bob/network.har has more requests: only 3 are shown"]
    with (attempt / "clients" / "alice" / "network.har").open("ab") as file:
        file.truncate(har.RECORDING_LIMIT + 1)
    rows, left_out = exchanges(attempt, BEGAN)
    assert {row.role for row in rows} == {"bob"}
    assert left_out == ["clients/alice/network.har is too large to show: 67.1 MB"]


def test_secrets_of_a_recording_that_others_made_are_masked(attempt: Path) -> None:
    entries = [_entry(1, "GET", "/sync?access_token=geheim&since=1")]
    (attempt / "clients" / "bob" / "network.har").write_text(json.dumps({"log": {"entries": entries}}))
    (row,) = exchanges(attempt, BEGAN, role="bob").requests
    assert row.target == "/sync?access_token=***&since=1"


@pytest.mark.parametrize("text", ["12", "a:b", "13:12", "-1:2", "nan:"])
def test_what_is_no_period(text: str) -> None:
    with pytest.raises(UsageError, match=r"invalid time range .*: expected START:END in seconds"):
        period_of(text)
