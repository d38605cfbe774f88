"""The events, and the JSON that they travel as."""

import json
from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from trafficlight.results.events import (
    Attachment,
    CaseEnded,
    Event,
    Log,
    Measurement,
    ServerReady,
    State,
    Upload,
    event_from_test,
    event_line,
    kinds,
    line_head,
    parse_event,
)
from trafficlight.results.journal import _SECRETS, read_events
from trafficlight.results.record import SessionRecord
from trafficlight.results.reports.json_files import dump, report_json

CONTEXT = {one.name for one in fields(Event)}
TIME = datetime(2026, 11, 21, tzinfo=UTC)
# Logs of two sessions from before events had classes, and the reports that were written then.
OLD_LOGS = sorted((Path(__file__).parent / "old_logs").glob("*.jsonl"))


@pytest.mark.parametrize("log", OLD_LOGS, ids=lambda path: path.stem)
def test_an_old_log_gives_the_same_report(log: Path) -> None:
    record = SessionRecord.replay(read_events(log))
    report = json.loads(dump(report_json(record)))
    assert (report.pop("stopped"), report.pop("incomplete")) == (record.stopped, "")
    assert (report.pop("warnings"), report.pop("strict")) == ([], False)
    assert [report.pop(name) for name in ("commit", "dirty", "job")] == ["", False, ""]
    failed = [case["id"] for case in report["cases"] if case["state"] in ("failure", "error")]
    assert sorted(case for cause in report.pop("causes") for case in cause["cases"]) == sorted(failed)
    for case in report["cases"]:
        _without_later_keys(case["expected"])
        for attempt in case["attempts"]:
            for step in attempt["timeline"]:
                del step["asked"], step["answer"], step["where"], step["fetched"]
            for upload in attempt["uploads"]:
                assert len(upload.pop("sha256")) == 64
            for server in attempt["servers"].values():
                assert (server.pop("image"), server.pop("shared")) == ("", False)
            assert attempt.pop("returned") is None
            assert all(isinstance(item.pop("at"), float) for item in attempt["measurements"])
    assert report == json.loads(log.with_suffix(".report.json").read_bytes())


def _without_later_keys(expected: dict[str, object] | None) -> None:
    if expected is not None:
        assert (expected.pop("outcome"), expected.pop("sometimes")) == ("any", False)


# Kinds that are newer than the old logs.
_LATER = {
    "action_late",
    "case_cancelled",
    "case_elsewhere",
    "case_rerun",
    "network_changed",
    "returned",
    "server_exited",
    "service_changed",
    "step_began",
    "step_ended",
}


def test_the_old_logs_hold_every_kind() -> None:
    found = {event.kind for log in OLD_LOGS for event in read_events(log)}
    assert found == {kind.kind for kind in kinds()} - _LATER


@pytest.mark.parametrize("log", OLD_LOGS, ids=lambda path: path.stem)
def test_lines_keep_the_keys_of_old_logs(log: Path) -> None:
    for old in log.read_bytes().splitlines():
        event = parse_event(old)
        assert event is not None
        new = json.loads(event_line(event))
        assert new.pop("schema") == 1
        if event.kind == "server_ready":
            assert (new["data"].pop("image"), new["data"].pop("shared")) == ("", False)
        if event.kind == "measurement":
            assert new["data"].pop("at") is None
        if event.kind == "action_sent":
            assert new["data"].pop("where") == ""
        if event.kind == "case_ended":
            assert new["data"].pop("source") == ""
        if event.kind == "session_ended":
            assert new["data"].pop("incomplete") == ""
        if event.kind == "session_started":
            later = [new["data"].pop(name) for name in ("warnings", "strict", "shard")]
            assert later == [[], False, None]
            later = [new["data"].pop(name) for name in ("commit", "dirty", "job", "merged")]
            assert later == ["", False, "", []]
        if event.kind in ("case_planned", "problem"):
            assert new["data"].pop("path") == ""
        _without_later_keys(new["data"].get("expected"))
        assert new == json.loads(old)
        assert line_head(old) == line_head(event_line(event)) == (event.sequence, event.kind)


def test_lines_begin_with_what_readers_match() -> None:
    line = event_line(Log(sequence=7, time=TIME, case='"kind":"x"', message='{"sequence":1'))
    assert line.startswith(b'{"sequence":7,"time":"2026-11-21T00:00:00+00:00","kind":"log"')
    assert line_head(line) == (7, "log")
    assert line_head(json.dumps(json.loads(line)).encode()) == (7, "log")
    assert line_head(b'{"sequence":8,"time":"","kind":"of_the_future","data":{}}') == (8, "of_the_future")
    assert line_head(b'{"sequence":7,"ti') is None


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"3",
        b"[]",
        b"[" * 100_000,
        b'{"sequence":1,"time":"2026-11-21T00:00:00Z","kind":"log"}',  # no message
        b'{"sequence":1,"time":"never","kind":"log","data":{"message":"x"}}',
        b'{"sequence":1,"time":"2026-11-21T00:00:00Z","kind":"of_the_future","data":{"message":"x"}}',
        b'{"sequence":1,"time":"2026-11-21T00:00:00Z","kind":["log"],"data":{"message":"x"}}',
        b'{"sequence":1,"time":"2026-11-21T00:00:00Z","kind":"log","data":[]}',
        b'{"sequence": 1, "ti',
    ],
)
def test_other_lines_are_no_events(line: bytes) -> None:
    assert parse_event(line) is None


def test_fields_of_a_newer_version_are_ignored() -> None:
    event = Log(sequence=1, time=TIME, message="x")
    content = json.loads(event_line(event))
    content |= {"schema": 2, "host": "far away"}
    content["data"]["colour"] = "red"
    assert parse_event(json.dumps(content).encode()) == event


@pytest.mark.parametrize("value", [1.5, float("inf"), float("-inf")])
def test_measurements_are_read_back(value: float) -> None:
    event = Measurement(sequence=1, time=TIME, name="\ud800", value=value)
    assert parse_event(event_line(event)) == event


def test_states_are_states_again() -> None:
    event = parse_event(event_line(CaseEnded(sequence=1, time=TIME, case="c", state=State.ERROR)))
    assert isinstance(event, CaseEnded)
    assert event.state is State.ERROR


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.kind)
def test_every_field_is_described(kind: type[Event]) -> None:
    bases = kind.__mro__[: kind.__mro__.index(Event)]
    described = [
        text.partition(":")[0] for base in bases for text in (base.__doc__ or "").split(":param ")[1:]
    ]
    assert sorted(described) == sorted(kind.data_names)


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.kind)
def test_secrets_can_only_be_in_what_the_journal_cleans(kind: type[Event]) -> None:
    hints: Mapping[str, Any] = get_type_hints(kind)
    assert kind.data_names == tuple(one.name for one in fields(kind) if one.name not in CONTEXT)
    open_ended = {one.name for one in fields(kind) if "Any" in str(hints[one.name])}
    assert open_ended == set(kind.open_names)
    assert not {one.name for one in fields(kind)} & _SECRETS


@pytest.mark.parametrize(
    ("event", "accepted"),
    [
        (Log(message="x"), True),
        (Measurement(name="x", value=1), True),
        (Attachment(name="x", path="attachments/x"), True),
        (Attachment(name="x", path="attachments/../../x"), False),
        (Attachment(name="x", path="/etc/passwd"), False),
        (Upload(name="x", path="clients/alice/x"), False),
        (CaseEnded(case="c", state=State.SUCCESS), False),
    ],
)
def test_what_tests_can_emit(event: Event, accepted: bool) -> None:
    assert event_from_test(event.as_json()) == (event if accepted else None)


def test_an_image_is_kept() -> None:
    event = ServerReady(sequence=1, time=TIME, server_name="hs1", cs_api="http://hs1", image="synapse:1")
    assert json.loads(event_line(event))["data"]["image"] == "synapse:1"
    assert parse_event(event_line(event)) == event
