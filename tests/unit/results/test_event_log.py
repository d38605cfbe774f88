import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trafficlight.results.event_log import EventLog, read_events, read_events_after
from trafficlight.results.events import ActionSent, Log, event_line

if TYPE_CHECKING:
    from tests.unit.results.conftest import Lab

TIME = datetime(2026, 11, 21, tzinfo=UTC)

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), anything, max_size=4))
def test_any_data_gives_one_line_of_json(data: dict[str, Any]) -> None:
    event = ActionSent(sequence=1, time=TIME, case="\ud800", id="1", action="\ud800", data=data)
    line = event_line(event)
    assert line.count(b"\n") == 1
    assert json.loads(line, parse_constant=pytest.fail)["case"] == "\ud800"


def test_what_is_no_json_is_shown_as_text() -> None:
    data = {"path": Path("x"), "n": float("inf"), "set": {1}}
    event = ActionSent(sequence=1, time=TIME, id="1", action="x", data=data)
    assert json.loads(event_line(event))["data"]["data"] == {"path": "x", "n": "inf", "set": "{1}"}


def test_events_are_read_back(lab: "Lab", tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    lab.read_along(log.append)
    lab.start()
    lab.run(lab.plan())
    log.close()
    assert list(read_events(path)) == lab.events


def test_a_torn_line_costs_itself_only(lab: "Lab", tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "events.jsonl"
    first = lab.append(Log(message="before"))
    path.write_bytes(event_line(first) + b'{"sequence": 2, "ti')
    log = EventLog(path)
    second = lab.append(Log(message="after"))
    log.append(second)
    log.close()
    with caplog.at_level(logging.WARNING):
        assert list(read_events(path)) == [first, second]
    assert "events.jsonl:2 is not an event" in caplog.text


@given(st.integers(0, 60), st.integers(1, 4000))
def test_the_end_of_a_log_is_read_from_its_end(
    tmp_path_factory: pytest.TempPathFactory, after: int, block: int
) -> None:
    path = tmp_path_factory.mktemp("log") / "events.jsonl"
    log = EventLog(path)
    for number in range(1, 51):
        log.append(Log(sequence=number, time=TIME, message="x" * (number * 7 % 90)))
    log.close()
    with path.open("ab") as file:
        file.write(b'{"sequence": 51, "ti')  # killed in the middle of a line
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trafficlight.results.event_log._BLOCK", block)
        found = [event.sequence for event in read_events_after(path, after)]
    assert found == list(range(after + 1, 51))


def test_a_log_without_events(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").touch()
    assert read_events_after(tmp_path / "events.jsonl", 0) == []
