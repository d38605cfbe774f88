"""The parts of the coordinator, on a clock that is turned by hand."""

from pathlib import Path
from typing import Any

import pytest

from tests.hand_clock import HandClock
from trafficlight.coordinator.adapter import Adapter, Lease
from trafficlight.coordinator.channel import AdapterFailure
from trafficlight.coordinator.pool import Pool
from trafficlight.protocol import Registration
from trafficlight.results.events import Event
from trafficlight.results.folder import AttemptFolder
from trafficlight.results.journal import Journal


class PoolHarness:
    """A pool, and everything that it tells."""

    def __init__(self, clock: HandClock, **options: Any) -> None:
        self.clock = clock
        self.events: list[Event] = []
        self.failures: list[tuple[str, AdapterFailure, bool]] = []
        self.changes = 0
        self.journal = Journal(clock)
        self.journal.subscribe(self.events.append)
        self.pool = Pool(clock, self.journal, self._changed, **options)

    def _changed(self) -> None:
        self.changes += 1

    def adapter(self, uuid: str = "a", type: str = "nio", program: str = "", **more: Any) -> Adapter:
        registration = Registration.model_validate({"type": type, **more})
        return self.pool.register(uuid, registration, program=program)

    def lease(self, **adapters: Adapter) -> Lease:
        """Lease adapters by role; see :attr:`failures` for those that are lost."""
        folder = AttemptFolder(Path("attempt"))
        lease = Lease("2026-11-21--001", "a_test.py::A", 1, adapters, folder, self.emit, self.failed)
        self.pool.acquire(lease)
        return lease

    def failed(self, role: str, error: AdapterFailure, raised_in_test: bool) -> None:
        self.failures.append((role, error, raised_in_test))

    def emit(self, event: Event, **context: Any) -> None:
        self.journal.append(event, session="2026-11-21--001", case="a_test.py::A", attempt=1, **context)

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


@pytest.fixture
def clock() -> HandClock:
    return HandClock(1000.0)


@pytest.fixture
def yard(clock: HandClock) -> PoolHarness:
    return PoolHarness(clock, alive=60.0)
