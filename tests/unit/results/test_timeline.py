import re
from typing import TYPE_CHECKING, Any

from trafficlight.results.events import (
    ActionAnswered,
    ActionLate,
    ActionSent,
    AdapterLost,
    Log,
    ServerExited,
    ServerFailed,
    StepBegan,
    StepEnded,
)
from trafficlight.results.reports.timeline import render_timeline, steps

if TYPE_CHECKING:
    from tests.unit.results.conftest import Lab


def test_an_action_and_its_answer_are_one_step(lab: "Lab") -> None:
    lab.start()
    case_id = lab.plan()
    lab.prepare(case_id)
    lab.act(case_id, "alice", "send_message", 0.25, data={"message": "hi"})
    lab.act(
        case_id,
        "bob",
        "reload",
        2,
        data={"hard": True},
        fails={"type": "action", "path": "page.ts:3", "details": "gone"},
    )
    lab.append(
        ActionAnswered(
            case=case_id,
            attempt=1,
            role="bob",
            id="y",
            action="get",
            response={"event_id": "$1"},
            seconds=1,
        )
    )
    lab.append(ActionSent(case=case_id, attempt=1, role="bob", id="z", action="logout", data={}))
    (attempt,) = lab.record.cases[case_id].attempts
    actions = [step for step in steps(attempt) if step.kind == "action"]
    assert [(step.who, step.what, step.outcome) for step in actions] == [
        ("alice", "send_message", "ok"),
        ("bob", "reload", "failed"),
        ("bob", "get", "ok"),
        ("bob", "logout", "open"),
    ]
    assert actions[0].seconds == 0.25
    assert actions[0].offset == 1.4
    assert (actions[0].detail, actions[0].answer) == ("message='hi'", "")
    assert actions[2].answer == "event_id='$1'"
    assert (actions[1].asked, actions[1].detail) == ("hard=True", "gone [page.ts:3]")
    assert actions[3].seconds is None


def test_the_narrative_says_it_in_lines(lab: "Lab") -> None:
    lab.start()
    case_id = lab.plan()
    lab.prepare(case_id)
    lab.append(Log(case=case_id, attempt=1, level="DEBUG", message="small talk"))
    lab.append(Log(case=case_id, attempt=1, level="WARNING", message="look out"))
    lab.append(ServerFailed(case=case_id, attempt=1, role="server", reason="port taken"))
    lab.append(AdapterLost(case=case_id, attempt=1, role="bob", adapter="u", reason="silent"))
    (attempt,) = lab.record.cases[case_id].attempts
    text = render_timeline(attempt)
    assert "small talk" not in text
    assert "small talk" in render_timeline(attempt, debug=True)
    assert "look out  WARNING" in text
    times = [line[:24] for line in render_timeline(attempt, times=True).splitlines()]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}Z", time) for time in times)
    assert times == sorted(times)
    assert "server: server failed  FAILED  port taken" in text
    assert "bob: adapter lost  FAILED  silent" in text


def test_what_the_test_itself_does_and_what_comes_too_late_are_steps(lab: "Lab") -> None:
    lab.start()
    case_id = lab.plan()
    lab.prepare(case_id)
    about: dict[str, Any] = {"case": case_id, "attempt": 1}
    lab.append(StepBegan(**about, id="1", name="eventually", where="chat_test.py:7"))
    lab.append(StepBegan(**about, role="server", id="2", name="kill", where="chat_test.py:8"))
    lab.append(StepEnded(**about, role="server", id="2", name="kill", seconds=0.5))
    lab.append(StepEnded(**about, id="1", name="eventually", seconds=3, problem="never true"))
    lab.append(StepBegan(**about, id="3", name="sleep"))
    lab.append(ServerExited(**about, role="server", how="signal 9"))
    lab.append(ActionLate(**about, role="bob", id="x", action="get", response={"a": 1}, seconds=75.2))
    (attempt,) = lab.record.cases[case_id].attempts
    found = [one for one in steps(attempt) if one.kind != "adapter"][-5:]
    assert [(one.kind, one.who, one.what, one.outcome, one.seconds, one.where) for one in found] == [
        ("step", "", "eventually", "failed", 3, "chat_test.py:7"),
        ("step", "server", "kill", "ok", 0.5, "chat_test.py:8"),
        ("step", "", "sleep", "open", None, ""),
        ("server", "server", "server exited", "failed", None, ""),
        ("action", "bob", "get", "late", None, ""),
    ]
    assert (found[0].detail, found[3].detail) == ("never true", "signal 9")
    assert (found[4].detail, found[4].answer) == ("answered 75.2 s after it was asked, too late", "a=1")
