"""What the pages take from records."""

from datetime import UTC, datetime
from typing import Any

import pytest

from trafficlight.http.pages.views import case_key, case_of, snapshot
from trafficlight.results.case import AttemptRecord, CaseRecord


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
