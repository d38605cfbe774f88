"""When a run takes it that all of its adapters have come."""

import pytest

from tests.hand_clock import HandClock
from trafficlight.cli.run import ExpectedAdapters
from trafficlight.results.events import AdapterRegistered, SessionStarted
from trafficlight.results.journal import Journal


class EventRecorder:
    """Stands for the engine: counts how often it was told that no more adapters come."""

    def __init__(self) -> None:
        self.times = 0

    def no_more_adapters_after(self, within: float) -> None:
        self.times += 1


@pytest.fixture
def told() -> EventRecorder:
    return EventRecorder()


def journal_of(told: EventRecorder, programs: int) -> Journal:
    journal = Journal(HandClock())
    journal.subscribe(ExpectedAdapters(programs, told))  # type: ignore[arg-type]
    return journal


def comes(journal: Journal, uuid: str, **registration: str) -> None:
    journal.append(AdapterRegistered(adapter=uuid, registration={"type": "nio", **registration}))


def test_a_program_that_comes_again_and_again_is_one(told: EventRecorder) -> None:
    journal = journal_of(told, 2)
    for number in range(3):
        comes(journal, str(number), instance="quick")
    assert told.times == 0
    comes(journal, "slow", instance="slow")
    assert told.times == 1
    comes(journal, "slow again", instance="slow")
    assert told.times == 1


def test_of_programs_that_do_not_say_who_they_are_nobody_knows_how_many_came(told: EventRecorder) -> None:
    journal = journal_of(told, 1)
    for number in range(3):
        comes(journal, str(number))
    assert told.times == 0


def test_where_there_are_none_nobody_comes(told: EventRecorder) -> None:
    journal = journal_of(told, 0)
    journal.append(SessionStarted(session="s"))
    assert told.times == 1
