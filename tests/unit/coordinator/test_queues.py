"""The waiting cases of a session, by what they need."""

from typing import Any

import pytest

from tests.unit.coordinator.waiting import case_of
from trafficlight.client_types import ClientType, ElementAndroid, Nio, as_client_type
from trafficlight.coordinator.scheduling.queues import WaitingCase, WaitingCases, WaitingGroup


def waiting(id: str, *kinds: ClientType) -> WaitingCase:
    return WaitingCase(case_of(id, {f"role{n}": kind for n, kind in enumerate(kinds)}), 0, since=0.0)


@pytest.fixture
def cases() -> WaitingCases:
    found = WaitingCases("s")
    for one in (
        waiting("a", Nio(), ElementAndroid()),
        waiting("b", ElementAndroid(), Nio()),
        waiting("c", Nio()),
        waiting("d"),
    ):
        found.add(one)
    return found


def test_cases_with_the_same_needs_share_a_group(cases: WaitingCases) -> None:
    assert [list(group.cases) for group in cases.groups] == [["a", "b"], ["c"], ["d"]]
    assert list(cases) == ["a", "b", "c", "d"]


def test_the_number_of_clients_of_a_type_matters() -> None:
    cases = WaitingCases("s")
    old, new = Nio(version="<1"), Nio(version=">=1")
    assert cases.add(waiting("a", old, old, new)) is not cases.add(waiting("b", old, new, new))


def test_a_removed_case_waits_no_longer(cases: WaitingCases) -> None:
    assert cases.remove("a").case.id == "a"
    assert "a" not in cases
    assert [list(group.cases) for group in cases.groups] == [["b"], ["c"], ["d"]]
    cases.remove("d")
    assert len(cases.groups) == 2
    with pytest.raises(KeyError):
        cases.remove("a")


def test_a_start_shows_that_the_group_can_be_satisfied(cases: WaitingCases) -> None:
    group = cases.groups[0]
    group.note_waiting("needs 1 x Nio", 5.0, unsatisfiable=True, no_adapter=False)
    group.note_waiting("needs 1 x Nio", 9.0, unsatisfiable=True, no_adapter=True)
    assert [group.unsatisfiable_since, group.no_adapter_since] == [5.0, 9.0]
    cases.remove("b")
    assert group.unsatisfiable_since == 5.0
    cases.remove("a", starts=True)
    assert [group.unsatisfiable_since, group.no_adapter_since] == [None, None]


def test_a_reason_is_reported_once_and_not_too_often(cases: WaitingCases) -> None:
    group = cases.groups[0]
    group.note_waiting("first", 0.0, unsatisfiable=False, no_adapter=False)
    assert group.unreported_reason(0.0, 30.0) == "first"
    assert group.unreported_reason(100.0, 30.0) is None
    group.note_waiting("second", 0.0, unsatisfiable=False, no_adapter=False)
    assert group.unreported_reason(100.0, 30.0) == "second"
    group.note_waiting("third", 0.0, unsatisfiable=False, no_adapter=False)
    assert group.unreported_reason(129.0, 30.0) is None
    assert group.unreported_reason(130.0, 30.0) == "third"


def test_foreign_types_of_one_name_do_not_share_a_group() -> None:
    def foreign() -> ClientType:
        class Custom:
            def name(self) -> str:
                return "Custom"

            def match(self, adapter: Any) -> bool:
                return True

        found = as_client_type(Custom)
        assert found is not None
        return found

    cases = WaitingCases("s")
    assert cases.add(waiting("a", foreign())) is not cases.add(waiting("b", foreign()))


def test_two_deadlines_for_two_things_that_are_missing() -> None:
    group = WaitingGroup("s")
    group.note_waiting("no host is reachable", 100.0, unsatisfiable=True, no_adapter=False)
    assert group.expired_deadline(399.0, 300.0, 15.0) is None
    assert group.expired_deadline(400.0, 300.0, 15.0) == 300.0
    group.note_waiting("nor is there an adapter", 400.0, unsatisfiable=True, no_adapter=True)
    group.set_patience(300.0, 400.0)
    group.set_patience(15.0, 410.0)
    assert group.expired_deadline(424.0, 1000.0, 15.0) is None
    assert group.expired_deadline(425.0, 1000.0, 15.0) == 15.0
    group.set_patience(300.0, 425.0)
    assert group.no_adapter_since == 410.0, "a longer one counts from the same moment"
    group.note_waiting("an adapter registered", 426.0, unsatisfiable=False, no_adapter=False)
    assert group.expired_deadline(9999.0, 300.0, 15.0) is None
