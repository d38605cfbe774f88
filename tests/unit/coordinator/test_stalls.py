"""A stall is logged, and logged again at growing intervals."""

import logging
from datetime import timedelta

import pytest

from tests.hand_clock import HandClock
from trafficlight.coordinator.stalls import StallDetector
from trafficlight.text import utc_time


@pytest.fixture
def detector(clock: HandClock) -> StallDetector:
    return StallDetector(clock)


def observe(detector: StallDetector, *, running: int = 0, waiting: int = 2) -> bool:
    return detector.observe(
        running=running, waiting=waiting, reasons=lambda: ["needs 1 x B", "needs 1 x A"] * 2
    )


def test_it_is_logged_with_the_reasons(
    detector: StallDetector, clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    observe(detector)
    clock.elapsed += 59
    observe(detector)
    assert not caplog.records
    clock.elapsed += 1
    observe(detector)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    since = utc_time(clock.now() - timedelta(seconds=60))
    assert (
        record.getMessage() == f"no case has run since {since} while 2 cases wait: needs 1 x A; needs 1 x B"
    )
    clock.elapsed += 60
    assert observe(detector)
    assert detector.alarm == record.getMessage(), "screen readers repeat what changes"


def test_it_is_logged_again_when_it_has_lasted_twice_as_long(
    detector: StallDetector, clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    logged: list[float] = []
    for _ in range(600):
        observe(detector)
        if len(caplog.records) > len(logged):
            logged.append(detector.seconds)
        clock.elapsed += 1
    assert logged == [60, 120, 240, 480]


@pytest.mark.parametrize("news", [{"running": 1}, {"waiting": 0}])
def test_it_ends_when_something_runs_or_nothing_waits(
    detector: StallDetector, clock: HandClock, caplog: pytest.LogCaptureFixture, news: dict[str, int]
) -> None:
    observe(detector)
    clock.elapsed += 50
    assert detector.seconds == 50
    observe(detector, **news)
    assert detector.seconds == 0
    assert not detector.alarm
    clock.elapsed += 50
    observe(detector)
    assert not caplog.records
