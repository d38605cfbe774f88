import itertools
import json
import logging
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trafficlight.results.events import ActionSent, Event, Log, SessionEnded, Upload, event_line
from trafficlight.results.journal import EventLog, read_events, session_end

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
    assert "events.jsonl:2 is not an event that this version knows" in caplog.text


@pytest.mark.parametrize("late", [0, 2000])
@pytest.mark.parametrize("ended", [True, False])
def test_the_end_of_a_session_is_found_from_the_end_of_its_log(
    tmp_path: Path, ended: bool, late: int
) -> None:
    path = tmp_path / "events.jsonl"
    log, sequences = EventLog(path), itertools.count(1)

    def append(event: Event) -> None:
        log.append(replace(event, sequence=next(sequences), time=TIME))

    append(Log(message="before"))
    if ended:
        append(SessionEnded(exit_code=3))
    for _ in range(late):
        append(Upload(name='"session_ended"', path="session_ended"))
    log.close()
    with path.open("ab") as file:
        file.write(b'{"sequence": 51, "kind": "session_ended", "ti')  # killed in the middle of a line
    found = session_end(path)
    assert (found.exit_code if found is not None else None) == (3 if ended else None)


def test_a_log_without_events_has_no_end(tmp_path: Path) -> None:
    assert session_end(tmp_path / "events.jsonl") is None
    (tmp_path / "events.jsonl").touch()
    assert session_end(tmp_path / "events.jsonl") is None
