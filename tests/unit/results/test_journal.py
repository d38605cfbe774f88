"""Who is called with which events, and what the journal does to them."""

import logging
from typing import TYPE_CHECKING, Any

import pytest

from tests.hand_clock import HandClock
from trafficlight.results.events import (
    ActionAnswered,
    ActionFailed,
    ActionSent,
    AdapterRegistered,
    CaseEnded,
    Event,
    Log,
    State,
    event_line,
)
from trafficlight.results.journal import Journal, fits
from trafficlight.text import EVENT_LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable

ONE, OTHER = "2026-11-21--001", "2026-11-21--002"


@pytest.fixture
def journal() -> Journal:
    return Journal(HandClock())


def test_events_are_numbered_and_timed(journal: Journal) -> None:
    first, second = (journal.append(Log(message=text)) for text in ("a", "b"))
    assert (first.sequence, second.sequence) == (1, 2)
    assert first.time == journal._clock.now()
    assert journal.counts == {Log: 2}


def test_readers_get_the_kinds_that_they_want_in_their_order(journal: Journal) -> None:
    called: list[tuple[str, str]] = []

    def reader(name: str) -> "Callable[[Event], None]":
        return lambda event: called.append((name, event.kind))

    journal.subscribe(reader("all"))
    journal.subscribe(reader("logs"), (Log,))
    journal.subscribe(reader("ends"), (CaseEnded, Log))
    journal.append(CaseEnded(case="c", state=State.SUCCESS))
    journal.append(Log(message="x"))
    journal.append(AdapterRegistered(adapter="a", registration={}))
    assert called == [
        ("all", "case_ended"),
        ("ends", "case_ended"),
        ("all", "log"),
        ("logs", "log"),
        ("ends", "log"),
        ("all", "adapter_registered"),
    ]


def test_readers_of_a_session_get_its_events_and_those_of_none(journal: Journal) -> None:
    found: list[Event] = []
    journal.subscribe(found.append, session=ONE)
    for session in (ONE, OTHER, ""):
        journal.append(Log(session=session, message="x"))
    assert [event.session for event in found] == [ONE, ""]


def test_subscriptions_can_change_between_two_events_of_a_kind(journal: Journal) -> None:
    first: list[Event] = []
    second: list[Event] = []
    end = journal.subscribe(first.append)
    journal.append(Log(message="1"))
    journal.subscribe(second.append)
    journal.append(Log(message="2"))
    end()
    end()
    journal.append(Log(message="3"))
    assert [event.sequence for event in first] == [1, 2]
    assert [event.sequence for event in second] == [2, 3]


def test_secrets_are_replaced_at_any_depth(journal: Journal) -> None:
    data = {"username": "kim", "password": "x", "key": {"Passphrase": "x", "list": [{"token": "x"}]}}
    sent = journal.append(ActionSent(id="1", action="login", data=data))
    assert sent.data == {
        "username": "kim",
        "password": "***",
        "key": {"Passphrase": "***", "list": [{"token": "***"}]},
    }
    assert data["password"] == "x"
    answered = journal.append(
        ActionAnswered(id="1", action="login", response={"access_token": "x", "password": None}, seconds=1)
    )
    assert answered.response == {"access_token": "***", "password": None}


LARGE: list[dict[str, Any]] = [
    {"big": "x" * 12_000_000, "last": 1},
    {"numbers": list(range(1_000_000))},
    {"deep": {"list": [{"password": "secret", "x": "y" * 40_000}] * 10}},
    {str(number): "x" for number in range(100_000)},
    {"x" * 1_000_000: 1},
]


@pytest.mark.parametrize("response", LARGE, ids=["text", "numbers", "nested", "keys", "key"])
def test_large_answers_are_cut_and_say_so(journal: Journal, response: dict[str, Any]) -> None:
    answered = journal.append(ActionAnswered(id="1", action="x", response=response, seconds=1))
    line = event_line(answered)
    assert len(line) < 10 * EVENT_LIMIT
    assert b"left out" in line
    assert b"secret" not in line
    assert not fits(response)


def test_what_an_event_holds_completely_is_not_cut(journal: Journal) -> None:
    response = {"text": "x" * (EVENT_LIMIT - 100), "list": [1, 2, 3], "none": None}
    assert fits(response)
    assert (
        journal.append(ActionAnswered(id="1", action="x", response=response, seconds=1)).response == response
    )


def test_long_texts_are_cut(journal: Journal) -> None:
    failed = journal.append(ActionFailed(id="1", action="x", details="a" * 9_000_000 + "z", seconds=1))
    assert len(failed.details) < EVENT_LIMIT + 100
    assert failed.details.endswith("z")


def test_a_reader_that_fails_is_logged_once_and_the_others_go_on(
    journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    found: list[Event] = []
    broken = True

    def fails(event: Event) -> None:
        if broken:
            raise OSError("disk full")

    journal.subscribe(fails)
    journal.subscribe(found.append)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            journal.append(Log(message="x"))
        broken = False
        journal.append(Log(message="x"))
    assert len(found) == 4
    assert [record.getMessage() for record in caplog.records] == [
        "a reader failed on event 1 (log)",
        "a reader works again, after failing on 3 events",
    ]
