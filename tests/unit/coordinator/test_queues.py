"""The waiting cases of a session, by what they need."""

from pathlib import Path
from typing import Any

import pytest

from trafficlight.client_types import ClientType, ElementAndroid, Nio, as_client_type, spec_of
from trafficlight.coordinator.scheduling.queues import Entry, Queue, Queues
from trafficlight.suites.model import Case


def entry(id: str, *kinds: ClientType, order: int = 0) -> Entry:
    clients = {f"role{n}": spec_of(kind, Path(__file__), "A", f"role{n}") for n, kind in enumerate(kinds)}
    return Entry(Case(id, id, Path("a_test.py"), "a_test.py", "A", "run", 1, clients), order, since=0.0)


@pytest.fixture
def queues() -> Queues:
    found = Queues()
    for waiting in (
        entry("a", Nio(), ElementAndroid()),
        entry("b", ElementAndroid(), Nio()),
        entry("c", Nio()),
        entry("d"),
    ):
        found.add(waiting)
    return found


def test_cases_that_need_the_same_share_a_queue(queues: Queues) -> None:
    assert queues.of("a") is queues.of("b")
    assert len({id(queues.of(case)) for case in "abcd"}) == 3
    assert queues.cases == ["a", "b", "c", "d"]


def test_the_first_of_each_are_enough(queues: Queues) -> None:
    assert [one.case.id for one in queues.first(1)] == ["a", "c", "d"]
    assert [one.case.id for one in queues.first(5)] == ["a", "b", "c", "d"]
    assert [one.case.id for one in queues.first(0)] == ["a", "c", "d"], "they still learn why they wait"


def test_a_case_that_is_taken_waits_no_longer(queues: Queues) -> None:
    assert queues.take("a").case.id == "a"
    assert "a" not in queues
    assert [one.case.id for one in queues.first(1)] == ["b", "c", "d"]
    with pytest.raises(KeyError):
        queues.take("a")


def test_a_start_shows_that_the_queue_can_be_filled(queues: Queues) -> None:
    queue = queues.of("a")
    queue.waits("needs 1 x Nio", 5.0, unsatisfiable_since=True, no_adapter_since=False)
    queue.waits("needs 1 x Nio", 9.0, unsatisfiable_since=True, no_adapter_since=True)
    assert queue.unplayable_since == 9.0
    assert queue.unfilled_since == 5.0
    queues.start("a")
    assert queue.unfilled_since is None


def test_news_is_told_once_and_not_too_often(queues: Queues) -> None:
    queue = queues.of("a")
    queue.waits("first", 0.0, unsatisfiable_since=False, no_adapter_since=False)
    assert queue.news(0.0, 30.0) == "first"
    assert queue.news(100.0, 30.0) is None
    queue.waits("second", 0.0, unsatisfiable_since=False, no_adapter_since=False)
    assert queue.news(100.0, 30.0) == "second"
    queue.waits("third", 0.0, unsatisfiable_since=False, no_adapter_since=False)
    assert queue.news(129.0, 30.0) is None
    assert queue.news(130.0, 30.0) == "third"


def test_foreign_types_of_one_name_do_not_share_a_queue() -> None:
    def foreign() -> ClientType:
        class Custom:
            def name(self) -> str:
                return "Custom"

            def match(self, adapter: Any) -> bool:
                return True

        found = as_client_type(Custom)
        assert found is not None
        return found

    queues = Queues()
    queues.add(entry("a", foreign()))
    queues.add(entry("b", foreign()))
    assert queues.of("a") is not queues.of("b")


def test_two_deadlines_for_two_things_that_are_missing(queues: Queues) -> None:
    queue = Queue()
    queue.waits("no host answers", 100.0, unsatisfiable_since=True, no_adapter_since=False)
    assert queue.expired_deadline(399.0, 300.0, 15.0) is None
    assert queue.expired_deadline(400.0, 300.0, 15.0) == 300.0
    queue.waits("nor does an adapter come", 400.0, unsatisfiable_since=True, no_adapter_since=True)
    queue.anew(410.0)
    assert queue.expired_deadline(424.0, 1000.0, 15.0) is None
    assert queue.expired_deadline(425.0, 1000.0, 15.0) == 15.0
    queue.waits("somebody came", 426.0, unsatisfiable_since=False, no_adapter_since=False)
    assert queue.expired_deadline(9999.0, 300.0, 15.0) is None
