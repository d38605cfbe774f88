"""Groups of waiting cases for the scheduler."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from trafficlight.client_types import ClientType
from trafficlight.coordinator.scheduling.queues import WaitingCase, WaitingCases, WaitingGroup
from trafficlight.server_types import ServerType
from trafficlight.suites.model import Case, ServerSlot

__all__ = ["NOW", "case_of", "grouped"]

NOW = 1000.0


class _Named(ServerType):
    image = "image"

    def __init__(self, name: str) -> None:
        self._name = name

    def name(self) -> str:
        return self._name


def case_of(id: str, clients: Mapping[str, ClientType], servers: Iterable[str] = ()) -> Case:
    """Return a case that needs these clients, and homeservers of these types."""
    slots = tuple(ServerSlot(_Named(name), (f"server{n}",)) for n, name in enumerate(servers))
    return Case(id, id, Path("a_test.py"), "a_test.py", "A", "run", 1, clients, slots)


def grouped(waiting: Iterable[tuple[str, WaitingCase]]) -> list[WaitingGroup]:
    """Return the groups of cases that wait in some sessions."""
    sessions: dict[str, WaitingCases] = {}
    for session, case in waiting:
        sessions.setdefault(session, WaitingCases(session)).add(case)
    return [group for session in sessions.values() for group in session.groups]
