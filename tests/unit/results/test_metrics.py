"""Counting for Prometheus, as a reader of the journal."""

import re
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.hand_clock import HandClock
from trafficlight.results.events import (
    AdapterLeased,
    AdapterLost,
    AdapterRegistered,
    AdapterReleased,
    CaseEnded,
    CasePlanned,
    CaseState,
    ServerFailed,
    ServerReady,
    SessionEnded,
    State,
)
from trafficlight.results.journal import Journal
from trafficlight.results.metrics import BoundedLabels, Metrics

NOTHING: dict[str, Any] = {
    "cases": {},
    "sessions": 0,
    "adapters": {},
    "oldest": [],
    "stalled": 0.0,
    "drained": False,
}


class Counted:
    """A journal, and what was counted of it."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.journal = Journal(self.clock)
        self.metrics = Metrics(self.journal)

    def value(self, name: str, present: dict[str, Any] | None = None, **labels: str) -> float | None:
        text = self.metrics.exposition(**(NOTHING | (present or {}))).decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == f"trafficlight_{name}" and sample.labels == labels:
                    return sample.value
        return None


def test_only_so_many_names_are_told_apart() -> None:
    names = BoundedLabels(2)
    assert [names.label(name) for name in ("a", "b", "c", "a", "\ud800")] == ["a", "b", "other", "a", "other"]
    assert BoundedLabels().label("\ud800" + "x" * 200) == "?" + "x" * 99


def test_a_retried_case_ends_once_and_waits_twice() -> None:
    counted = Counted()
    append = counted.journal.append
    append(CasePlanned(session="s", case="c"))
    counted.clock.elapsed = 2.0
    append(CaseState(session="s", case="c", attempt=1, state=State.PREPARING))
    append(CaseState(session="s", case="c", attempt=1, state=State.RUNNING))
    append(CaseEnded(session="s", case="c", attempt=1, state=State.FAILURE, will_retry=True))
    counted.clock.elapsed = 5.0
    append(CaseState(session="s", case="c", attempt=2, state=State.PREPARING))
    append(CaseEnded(session="s", case="c", attempt=2, state=State.SUCCESS, will_retry=False))
    assert counted.value("attempts_retried_total") == 1
    assert counted.value("cases_ended_total", state="success") == 1
    assert counted.value("cases_ended_total", state="failure") is None
    assert counted.value("case_wait_seconds_count") == 2
    assert counted.value("case_wait_seconds_sum") == 5.0


def test_nothing_is_kept_of_what_is_over() -> None:
    counted = Counted()
    append = counted.journal.append
    for number in range(10):
        uuid = f"a{number}"
        append(CasePlanned(session="s", case=f"c{number}"))
        append(AdapterRegistered(adapter=uuid, registration={"type": "nio"}))
        if number % 2:
            append(AdapterLeased(adapter=uuid, session="s", case="c", registration={"type": "nio"}))
            append(AdapterReleased(adapter=uuid, session="s", case="c", reason=""))
        else:
            append(AdapterLost(adapter=uuid, reason=""))
    append(SessionEnded(session="s", exit_code=0))
    assert not counted.metrics._waits
    assert not counted.metrics._type_of
    assert counted.value("adapters_lost_total", type="nio") == 5
    assert counted.value("adapters_registered_total", type="nio") == 10


def test_homeservers_are_timed_by_type() -> None:
    counted = Counted()
    counted.journal.append(
        ServerReady(server_name="hs1", cs_api="http://localhost:8008", type="SynapseStable", seconds=0.3)
    )
    counted.journal.append(ServerFailed(session="s", case="c", reason=""))
    assert counted.value("homeserver_provision_seconds_sum", type="SynapseStable") == 0.3
    assert counted.value("homeservers_failed_total") == 1


def test_what_there_is_right_now() -> None:
    counted = Counted()
    now = {
        "cases": {State.WAITING: 3},
        "adapters": {("nio", "free"): 2, ("nio", "leased"): 1},
        "oldest": [1.0, 9.0, 4.0],
        "stalled": 61.0,
        "drained": True,
    }
    assert counted.value("cases", now, state="waiting") == 3
    assert counted.value("cases", now, state="running") == 0
    assert counted.value("adapters", now, type="nio", state="free") == 2
    assert counted.value("queue_age_seconds", now, statistic="median") == 4
    assert counted.value("queue_age_seconds", now, statistic="max") == 9
    assert counted.value("standstill_seconds", now) == 61
    assert counted.value("drained", now) == 1


def test_every_number_is_in_the_documents() -> None:
    page = Path(__file__).parents[3] / "docs" / "how-to" / "watch-the-lab.md"
    listed = set(re.findall(r"^\| `(trafficlight_\w+)` \|", page.read_text(), re.MULTILINE))
    text = Metrics(Journal(HandClock())).exposition(**NOTHING).decode()
    kinds = {one.name + "_total" * (one.type == "counter") for one in text_string_to_metric_families(text)}
    assert listed == {name for name in kinds if not name.endswith("_created")}


def test_odd_names_break_nothing() -> None:
    counted = Counted()
    counted.journal.append(AdapterRegistered(adapter="a", registration={"type": ["\ud800"]}))
    counted.journal.append(ServerReady(server_name="", cs_api="", type="\ud800"))
    assert counted.value("adapters_registered_total", type="['\\ud800']") == 1
    assert counted.value("events_total", kind="server_ready") == 1
    assert counted.value("events_total", kind="log") == 0
