"""The parts of the coordinator, on a clock that is turned by hand."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.hand_clock import HandClock
from trafficlight.coordinator.adapter import Adapter
from trafficlight.coordinator.pool import Pool
from trafficlight.coordinator.uploads import Upload
from trafficlight.errors import ActionError, LabError
from trafficlight.protocol import Registration
from trafficlight.results.events import Event
from trafficlight.results.journal import Journal


@dataclass(eq=False)
class FakeClaim:
    """An attempt, as the pool sees it; remembers what it was told."""

    case: str = "a_test.py::A"
    session: str = "2026-11-21--001"
    attempt: int = 1
    uploaded_bytes: int = 0
    failures: list[tuple[str, LabError | ActionError, bool]] = field(default_factory=list)

    def adapter_failed(self, role: str, error: LabError | ActionError, *, told: bool) -> None:
        self.failures.append((role, error, told))

    def client_folder(self, role: str) -> Path:
        return Path(role)

    def uploaded(self, role: str, adapter: str, upload: Upload) -> None:
        raise NotImplementedError


class PoolHarness:
    """A pool, and everything that it tells."""

    def __init__(self, clock: HandClock, **options: Any) -> None:
        self.clock = clock
        self.events: list[Event] = []
        self.changes = 0
        journal = Journal(clock)
        journal.subscribe(self.events.append)
        self.pool = Pool(clock, journal, self._changed, **options)

    def _changed(self) -> None:
        self.changes += 1

    def adapter(self, uuid: str = "a", type: str = "nio") -> Adapter:
        return self.pool.register(uuid, Registration.model_validate({"type": type}))

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


@pytest.fixture
def clock() -> HandClock:
    return HandClock(1000.0)


@pytest.fixture
def yard(clock: HandClock) -> PoolHarness:
    return PoolHarness(clock, alive=60.0)


@pytest.fixture
def claim_of() -> Callable[..., FakeClaim]:
    return FakeClaim
