"""The picture of an attempt, and what was said around a moment of it."""

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from trafficlight.results.case import AttemptRecord
from trafficlight.results.events import NetworkChanged, State, StepBegan, Upload
from trafficlight.results.reports.evidence import evidence, lines_between, time_of, warnings
from trafficlight.results.reports.issue import command_of, issue_of
from trafficlight.results.reports.lanes import lanes_of
from trafficlight.results.reports.timeline import steps
from trafficlight.results.reports.tracebacks import compared, without_message

if TYPE_CHECKING:
    from tests.unit.results.conftest import Lab


def played(lab: "Lab") -> tuple[str, AttemptRecord]:
    """Alice sends what bob waits for; his network is blocked meanwhile."""
    lab.start(command="trafficlight run --clients nio chat")
    case = lab.plan()
    begin = lab.clock.elapsed
    lab.prepare(case)
    lab.act(case, "alice", "create_room", 1, data={"name": "A room"})
    lab.append(NetworkChanged(case=case, attempt=1, role="bob", rule="block GET /sync", active=True))
    lab.clock.elapsed += 5
    lab.act(case, "alice", "send_message", 1, data={"message": "Hello"})
    lab.append(StepBegan(case=case, attempt=1, id="1", name="eventually", where="chat_test.py:7"))
    fails = {"type": "action", "details": "expected the message 'Hello' within 4 s; nothing came"}
    lab.act(case, "bob", "verify_message", 4, data={"message": "Hello"}, fails=fails)
    lab.append(Upload(case=case, attempt=1, role="bob", name="shot.png", path="clients/bob/shot.png", size=9))
    message = f"bob: verify_message: {fails['details']}"
    lab.end_case(case, State.FAILURE, message, seconds=lab.clock.elapsed - begin)
    return case, lab.record.cases[case].attempts[0]


def test_lanes_show_who_did_what_and_what_was_broken(lab: "Lab") -> None:
    case, attempt = played(lab)
    record, shown = lab.record.cases[case], steps(attempt)
    warned = [("server", 3.0, "WARNING no", "log"), ("s_rver~834990dc297e", 3.0, "WARNING gone", "other")]
    picture = lanes_of(attempt, shown, record.clients, record.servers, warned)
    assert picture is not None
    assert [lane.name for lane in picture.lanes] == ["test", "alice", "bob", "server"]
    tops = {lane.name: lane.top for lane in picture.lanes}
    bars = {bar.text: bar for bar in picture.bars}
    assert tops["bob"] < bars["verify_message"].top < tops["server"]
    assert bars["verify_message"].outcome == "failed"
    assert shown[bars["verify_message"].number - 1].what == "verify_message"
    assert bars["nothing was asked for 5.0 s"].top < tops["alice"]
    assert bars["eventually"].left + bars["eventually"].width == pytest.approx(99.6, abs=0.02)
    (arrow,) = picture.arrows
    assert arrow.tip == "alice: send_message → bob: verify_message"
    assert tops["alice"] < arrow.top < tops["bob"] < arrow.bottom
    (shade,) = picture.shades
    assert (shade.name, shade.top - tops["bob"]) == ("bob: block GET /sync", 14)
    assert {mark.path.rpartition("/")[2] for mark in picture.marks} == {"shot.png", "log"}
    assert picture.ended is not None
    assert 0 < picture.ended <= 99.6


def test_evidence_is_what_each_log_said_within_a_second(lab: "Lab", tmp_path: Path) -> None:
    _, attempt = played(lab)
    assert attempt.started is not None
    log = tmp_path / attempt.folder / "servers" / "server" / "homeserver.log"
    log.parent.mkdir(parents=True)
    lines = []
    for second in range(2_000):  # more than what is read at once
        when = attempt.started + timedelta(seconds=second / 10)
        level = "WARNING" if second == 31 else "INFO"
        lines += [f"{when:%Y-%m-%d %H:%M:%S},{when.microsecond // 1000:03} - {level} - line {second}"]
    log.write_text("\n".join([*lines[:32], "Traceback of it", *lines[32:]]))
    found = evidence(tmp_path, attempt, steps(attempt), 3.0, within=0.15)
    said = [one.text.rpartition(" - ")[2] for one in found if one.kind == "log"]
    assert said == ["line 29", "line 30", "line 31", "Traceback of it"]
    assert [one.level for one in found if one.text.endswith("line 31")] == ["bad"]
    ((role, seconds, line, path),) = warnings(tmp_path, attempt)
    assert (role, round(seconds, 1), path) == ("server", 3.1, log.relative_to(tmp_path).as_posix())
    assert line.endswith("WARNING - line 31")
    assert (
        lines_between(log, attempt.started + timedelta(hours=1), attempt.started + timedelta(hours=2)) == []
    )
    late = evidence(tmp_path, attempt, steps(attempt), attempt.seconds)
    assert ("file", "bob", "shot.png") in [(one.kind, one.source, one.text) for one in late]
    assert any(one.kind == "step" and "verify_message" in one.text for one in late)


@pytest.mark.parametrize(
    ("line", "time"),
    [
        ("2026-11-29 06:01:51,864 - root - INFO", "2026-11-29T06:01:51.864000+00:00"),
        ('time="2026-11-29T15:01:51.123456789+09:00" level=info', "2026-11-29T06:01:51.123456+00:00"),
        ("[2026-11-29T06:01:51Z] hello", "2026-11-29T06:01:51+00:00"),
        ("2026-99-29 06:01:51 nonsense", None),
        ("hello", None),
    ],
)
def test_times_of_logs(line: str, time: str | None) -> None:
    found = time_of(line)
    assert (found and found.isoformat()) == time


@pytest.mark.parametrize(
    ("message", "sides"),
    [
        ("assertion failed: assert last == 'a (b)' (last is 'c (d)')", ("'a (b)'", "'c (d)'")),
        ("assertion failed: assert x['a'] == n (x['a'] is [1, 2], n is 3)", ("3", "[1, 2]")),
        ("assertion failed: assert f(x) == n (n is 3)", ("3", "f(x)")),
        ("assertion failed: assert 1 == 2", None),
        ("assertion failed: assert a in b (a is 1, b is [2])", None),
        (
            "bob: verify: expected the room to be named 'A' within 5 s; it is 'B'",
            ("the room to be named 'A'", "it is 'B'"),
        ),
        ("something else", None),
    ],
)
def test_what_was_expected_and_what_was_received(message: str, sides: tuple[str, str] | None) -> None:
    assert compared(message) == sides


def test_a_traceback_does_not_repeat_the_message() -> None:
    trace = ["Traceback", "AdapterError: bob: send: TypeError", "  at a", "  at b"]
    assert without_message(trace, "bob: send: TypeError\n  at a\n  at b") == trace[:2]
    assert without_message(trace, "TypeError") == trace


def test_an_issue_has_what_somebody_else_needs(lab: "Lab") -> None:
    case, attempt = played(lab)
    record = lab.record.cases[case]
    text = issue_of(lab.record, record, attempt)
    assert command_of(lab.record, record) == f"trafficlight run --clients nio '{case}'"
    assert f"$ {command_of(lab.record, record)}" in text
    assert "Expected: `the message 'Hello'`\nReceived: `nothing came`" in text
    assert "- bob: Nio nio 0.26.0" in text
    lab.record.commit, lab.record.job = "c" * 40, "https://ci.example/7"
    text = issue_of(lab.record, record, attempt)
    assert "- tests at cccccccccccc\n- https://ci.example/7\n- alice:" in text
    assert "bob: verify_message FAILED message='Hello'" in text
