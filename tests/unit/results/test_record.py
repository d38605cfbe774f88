from typing import TYPE_CHECKING, Any

import pytest

from trafficlight.results.case import Outcome
from trafficlight.results.events import (
    AdapterRegistered,
    Attachment,
    CasePlanned,
    CaseWaits,
    Expected,
    Log,
    Measurement,
    Problem,
    State,
    Upload,
)
from trafficlight.results.record import ExitCode, SessionRecord, exit_code

if TYPE_CHECKING:
    from tests.unit.results.conftest import Lab


def test_the_record_of_a_session(lab: "Lab") -> None:
    lab.start()
    case_id = lab.plan()
    lab.append(CaseWaits(case=case_id, reason="bob: every nio adapter is taken"))
    case = lab.record.cases[case_id]
    assert (case.state, case.reason) == (State.WAITING, "bob: every nio adapter is taken")
    lab.prepare(case_id)
    assert case.state is State.RUNNING
    lab.act(case_id, "alice", "send_message", 0.25)
    lab.append(Upload(case=case_id, attempt=1, role="bob", name="a.txt", path="clients/bob/a.txt", size=3))
    lab.append(Attachment(case=case_id, attempt=1, name="x.png", path="attachments/x.png", size=9))
    lab.append(Attachment(case=case_id, attempt=1, name="empty.png", path="attachments/empty.png"))
    lab.append(Measurement(case=case_id, attempt=1, name="delay", value=1.5, unit="ms"))
    lab.end_case(case_id, "success", seconds=1.65)
    lab.end(exit_code=0)

    record = lab.record
    assert (record.id, record.host, record.seed, record.exit_code) == ("2026-11-21--001", "lab-1", 7, 0)
    assert record.counts[State.SUCCESS] == 1
    assert record.adapter_types == {("nio", "0.26.0"): 2}
    (attempt,) = case.attempts
    assert attempt.folder.endswith("alice=Nio,bob=Nio,server=SynapseStable/attempt-1")
    assert attempt.adapters["alice"]["version"] == "0.26.0"
    assert attempt.adapter_ids["bob"] == "uuid-bob-1"
    assert attempt.servers["server"].version == "1.142.0"
    assert attempt.seconds == 1.65
    assert [file.name for file in attempt.files] == ["x.png", "empty.png", "a.txt"]
    assert attempt.running_since is not None
    assert attempt.measurements[0].value == 1.5
    assert SessionRecord.replay(lab.events) == record


def test_an_event_is_taken_in_once(lab: "Lab") -> None:
    lab.start()
    case_id = lab.plan()
    lab.run(case_id)
    before = len(lab.record.cases[case_id].attempts[0].timeline)
    for event in lab.events:
        lab.record.apply(event)
    assert len(lab.record.cases[case_id].attempts[0].timeline) == before


def test_another_session_is_not_ours(lab: "Lab") -> None:
    lab.start()
    lab.journal.append(CasePlanned(session="2026-11-21--002", case="x", suite="x"))
    assert not lab.record.cases


def test_success_after_a_failure_is_flaky(lab: "Lab") -> None:
    lab.start()
    case_id = lab.plan()
    lab.run(case_id, "failure", "no", will_retry=True)
    case = lab.record.cases[case_id]
    lab.append(CaseWaits(case=case_id, reason="again"))
    assert (case.verdict, case.outcome) == (State.FAILURE, Outcome.FAILURE)
    lab.run(case_id, attempt=2)
    assert case.flaky
    assert case.outcome is Outcome.FLAKY
    assert [attempt.state for attempt in case.attempts] == [State.FAILURE, State.SUCCESS]
    assert exit_code(lab.record) is ExitCode.SUCCESS


@pytest.mark.parametrize("state", ["failure", "error"])
@pytest.mark.parametrize("planned", [True, False])
def test_an_expected_failure_passes(lab: "Lab", state: str, planned: bool) -> None:
    expected: dict[str, Any] = {"expected": Expected("known", "https://example.org/1")}
    lab.start()
    case_id = lab.plan(**(expected if planned else {}))
    lab.run(case_id, state, "no", **({} if planned else expected))
    case = lab.record.cases[case_id]
    assert case.outcome is Outcome.EXPECTED_FAILURE
    assert case.expected is not None
    assert case.expected.link == "https://example.org/1"
    assert exit_code(lab.record) is ExitCode.SUCCESS


@pytest.mark.parametrize(
    ("stated", "state", "code"),
    [
        ("failure", "failure", 0),
        ("failure", "error", 3),
        ("error", "error", 0),
        ("error", "failure", 1),
        ("any", "failure", 0),
        ("any", "error", 0),
    ],
)
def test_only_the_expected_outcome_passes(lab: "Lab", stated: str, state: str, code: int) -> None:
    lab.start()
    case_id = lab.plan(expected=Expected("known", outcome=stated))
    lab.run(case_id, state, "no")
    assert (lab.record.cases[case_id].outcome is Outcome.EXPECTED_FAILURE) == (code == 0)
    assert exit_code(lab.record) == code


@pytest.mark.parametrize("strict", [False, True])
def test_an_unexpected_success_is_told(lab: "Lab", strict: bool) -> None:
    lab.start(strict=strict)
    case_id = lab.plan(expected=Expected("known"))
    lab.run(case_id)
    assert lab.record.cases[case_id].outcome is Outcome.UNEXPECTED_SUCCESS
    assert exit_code(lab.record) is (ExitCode.LAB_ERROR if strict else ExitCode.SUCCESS)


def test_a_success_that_happens_sometimes_is_not_unexpected(lab: "Lab") -> None:
    lab.start(strict=True)
    case_id = lab.plan(expected=Expected("known", sometimes=True))
    lab.run(case_id)
    assert lab.record.cases[case_id].outcome is Outcome.SUCCESS
    assert exit_code(lab.record) is ExitCode.SUCCESS


def test_the_ways_not_to_run(lab: "Lab") -> None:
    lab.start()
    ignored = lab.plan({"alice": "A"}, skip="ignored: later")
    unsupported = lab.plan({"alice": "B"})
    stopped = lab.plan({"alice": "C"})
    waiting = lab.plan({"alice": "D"})
    lab.run(unsupported, "skipped", "no video here")
    lab.end_case(stopped, "skipped", "an earlier case failed", attempt=None)
    types = {case: lab.record.cases[case].skip_type for case in (ignored, unsupported, stopped, waiting)}
    assert list(types.values()) == ["ignored", "unsupported", "not-run", ""]
    assert lab.record.cases[stopped].reason == "an earlier case failed"
    assert lab.record.cases[stopped].outcome is Outcome.NOT_RUN
    assert lab.record.cases[waiting].outcome is Outcome.NOT_RUN


@pytest.mark.parametrize(
    ("states", "code"),
    [
        (["success"], 0),
        (["success", "skipped"], 0),
        (["success", "failure", "error"], 1),
        (["success", "error"], 3),
        (["skipped"], 2),
        ([], 2),
    ],
)
def test_exit_codes(lab: "Lab", states: list[str], code: int) -> None:
    lab.start()
    for number, state in enumerate(states):
        lab.run(lab.plan({"alice": f"T{number}"}), state, "why")
    assert exit_code(lab.record) == code
    assert exit_code(lab.record, interrupted=True) == 130


def test_exit_codes_of_what_nobody_decided_and_of_files_that_cannot_run(lab: "Lab") -> None:
    lab.start()
    lab.run(lab.plan({"alice": "A"}))
    undecided = lab.plan({"alice": "B"})
    assert exit_code(lab.record) is ExitCode.LAB_ERROR
    lab.run(undecided)
    assert exit_code(lab.record) is ExitCode.SUCCESS
    lab.append(Problem(file="a_test.py", line=3, problem="does not import"))
    assert exit_code(lab.record) is ExitCode.LAB_ERROR


def test_a_very_long_timeline_keeps_its_ends(lab: "Lab") -> None:
    lab.start()
    case_id = lab.plan()
    for number in range(5_000):
        lab.append(Log(case=case_id, attempt=1, level="INFO", message=str(number)))
    (attempt,) = lab.record.cases[case_id].attempts
    assert len(attempt.timeline) == 2_000
    assert attempt.dropped == 3_000
    assert [getattr(attempt.timeline[at], "message", "") for at in (0, -1)] == ["0", "4999"]


def test_adapters_do_not_pile_up(lab: "Lab") -> None:
    lab.start()
    for number in range(1_500):
        lab.append(AdapterRegistered(adapter=f"u{number}", registration={"type": "nio", "version": None}))
    assert len(lab.record._adapters) == 1_000
    assert lab.record.adapter_types["nio", ""] == 1_500


def test_a_clock_that_is_set_back_makes_no_negative_duration(lab: "Lab") -> None:
    lab.start()
    lab.clock.elapsed -= 86_400
    lab.end(exit_code=0)
    assert lab.record.seconds == 0
