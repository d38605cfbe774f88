"""A queue that is stuck is noticed, said aloud, and said again ever more seldom."""

import logging

import pytest

from tests.hand_clock import HandClock
from trafficlight.coordinator.watchdog import StallDetector


@pytest.fixture
def standstill(clock: HandClock) -> StallDetector:
    return StallDetector(clock)


def look(standstill: StallDetector, *, running: int = 0, waiting: int = 2) -> None:
    standstill.look(running=running, waiting=waiting, reasons=lambda: ["needs 1 x B", "needs 1 x A"] * 2)


def test_it_is_said_with_the_reasons(
    standstill: StallDetector, clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    look(standstill)
    clock.elapsed += 59
    look(standstill)
    assert not caplog.records
    clock.elapsed += 1
    look(standstill)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage() == "nothing has run for 60 s while 2 cases wait: needs 1 x A; needs 1 x B"


def test_it_is_said_again_when_it_has_lasted_twice_as_long(
    standstill: StallDetector, clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    said: list[float] = []
    for _ in range(600):
        look(standstill)
        if len(caplog.records) > len(said):
            said.append(standstill.seconds)
        clock.elapsed += 1
    assert said == [60, 120, 240, 480]


@pytest.mark.parametrize("news", [{"running": 1}, {"waiting": 0}])
def test_it_ends_when_something_runs_or_nothing_waits(
    standstill: StallDetector, clock: HandClock, caplog: pytest.LogCaptureFixture, news: dict[str, int]
) -> None:
    look(standstill)
    clock.elapsed += 50
    assert standstill.seconds == 50
    look(standstill, **news)
    assert standstill.seconds == 0
    clock.elapsed += 50
    look(standstill)
    assert not caplog.records
