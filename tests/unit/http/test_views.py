"""What the list of cases says."""

from datetime import UTC, datetime
from typing import Any

import pytest

from trafficlight.http.pages.views import ORDER, case_key, case_of, frozen, standing
from trafficlight.results.attempt import AttemptRecord
from trafficlight.results.case import CaseRecord, Outcome
from trafficlight.results.events import State


def case(**values: Any) -> CaseRecord:
    return CaseRecord(**{"id": "a_test.py::A[x=Nio]", "suite": "a_test.py::A", **values})


@pytest.mark.parametrize(
    ("values", "ended", "expected"),
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
def test_where_a_case_stands(values: dict[str, Any], ended: bool, expected: str) -> None:
    assert standing(case(**values), ended=ended) == expected


def test_every_outcome_has_its_place() -> None:
    assert {outcome.value for outcome in Outcome} <= set(ORDER)


@pytest.mark.parametrize("name", ["a_test.py::A[x=Nio,y=\ud800]", "/", "", "ä" * 500])
def test_keys_are_fit_for_a_url(name: str) -> None:
    known = case(id=name)
    key = case_key(name)
    assert key.isascii()
    assert key.isalnum()
    assert case_of([known], key) is known
    assert case_of([known], "0" * 16) is None


def test_a_copy_does_not_move() -> None:
    moving = case(attempts=[AttemptRecord(1, "cases/a", started=datetime.now(UTC))])
    copy = frozen(moving)
    moving.attempts[0].adapters["alice"] = {"type": "nio"}
    moving.attempts.append(AttemptRecord(2, "cases/b"))
    assert len(copy.attempts) == 1
    assert copy.attempts[0].adapters == {}
