"""Groups of waiting cases for the scheduler."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from trafficlight.client_types import ClientType, spec_of
from trafficlight.coordinator.scheduling.queues import WaitingCase, WaitingCases, WaitingGroup
from trafficlight.server_types import HomeServerSpec
from trafficlight.suites.model import Case, ServerSlot

__all__ = ["NOW", "case_of", "grouped"]

NOW = 1000.0


def case_of(id: str, clients: Mapping[str, ClientType], servers: Iterable[str] = ()) -> Case:
    """Return a case that needs these clients, and homeservers of these types."""
    specs = {role: spec_of(kind, Path(__file__), "A", role) for role, kind in clients.items()}
    slots = tuple(
        ServerSlot(name, (HomeServerSpec(name, "", "", "image"),), (f"server{n}",))
        for n, name in enumerate(servers)
    )
    return Case(id, id, Path("a_test.py"), "a_test.py", "A", "run", 1, specs, slots)


def grouped(waiting: Iterable[tuple[str, WaitingCase]]) -> list[WaitingGroup]:
    """Return the groups of cases that wait in some sessions."""
    sessions: dict[str, WaitingCases] = {}
    for session, case in waiting:
        sessions.setdefault(session, WaitingCases(session)).add(case)
    return [group for session in sessions.values() for group in session.groups]
