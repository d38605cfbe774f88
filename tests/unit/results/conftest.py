"""A session: a journal on a clock that is turned by hand."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.hand_clock import HandClock
from trafficlight.results.events import (
    ActionAnswered,
    ActionDelivered,
    ActionFailed,
    ActionSent,
    AdapterLeased,
    CaseEnded,
    CasePlanned,
    CaseState,
    Event,
    ServerReady,
    SessionEnded,
    SessionStarted,
    State,
)
from trafficlight.results.folder import ResultsFolder
from trafficlight.results.journal import Journal
from trafficlight.results.record import SessionRecord

E = TypeVar("E", bound=Event)

SUITE = "chat/send_messages_test.py::SendMessages"


class Lab:
    """Appends to a journal what a runner would, and keeps what was appended."""

    def __init__(self, folder: ResultsFolder) -> None:
        self.folder = folder
        self.clock = HandClock()
        self.journal = Journal(self.clock)
        self.record = SessionRecord()
        self.events: list[Event] = []
        self.journal.subscribe(self.events.append)
        self.journal.subscribe(self.record.apply)

    def read_along(self, reader: Callable[[Event], None]) -> None:
        self.journal.subscribe(reader, session=self.folder.id)

    def append(self, event: E) -> E:
        return self.journal.append(replace(event, session=self.folder.id))

    def start(self, **data: Any) -> None:
        self.append(
            SessionStarted(
                **{
                    "versions": {"trafficlight": "0.1.0", "python": "3.11.7"},
                    "configuration": {"RESULTS": "results"},
                    "command": "trafficlight run chat",
                    "host": "lab-1",
                    "user": "kim",
                    "seed": 7,
                    "cases": 0,
                    **data,
                },
            )
        )

    def plan(
        self,
        clients: dict[str, str] | None = None,
        servers: dict[str, str] | None = None,
        *,
        suite: str = SUITE,
        parameters: dict[str, Any] | None = None,
        case: str | None = None,
        **data: Any,
    ) -> str:
        clients = {"alice": "Nio", "bob": "Nio"} if clients is None else clients
        servers = {"server": "SynapseStable"} if servers is None else servers
        cell = ",".join(
            f"{key}={value}" for key, value in {**clients, **servers, **(parameters or {})}.items()
        )
        case_id = case if case is not None else f"{suite}[{cell}]" if cell else suite
        file, _, test = suite.partition("::")
        class_name, _, method = test.partition(".")
        self.append(
            CasePlanned(
                case=case_id,
                **{
                    "suite": suite,
                    "file": file,
                    "line": 12,
                    "class_name": class_name,
                    "method": method or "run",
                    "clients": clients,
                    "servers": servers,
                    "parameters": parameters or {},
                    "skip": None,
                    **data,
                },
            )
        )
        return case_id

    def prepare(self, case: str, attempt: int = 1) -> None:
        self.append(CaseState(case=case, attempt=attempt, state=State.PREPARING))
        planned = self.record.cases[case]
        for role, name in planned.clients.items():
            self.append(
                AdapterLeased(
                    case=case,
                    attempt=attempt,
                    role=role,
                    adapter=f"uuid-{role}-{attempt}",
                    registration={"type": name.lower(), "version": "0.26.0"},
                )
            )
        self.clock.elapsed += 1.4
        for number, (role, name) in enumerate(planned.servers.items(), 1):
            self.append(
                ServerReady(
                    case=case,
                    attempt=attempt,
                    role=role,
                    server_name=f"hs{number}",
                    cs_api="http://localhost:8008",
                    version="1.142.0",
                    type=name,
                    seconds=1.4,
                )
            )
        self.append(CaseState(case=case, attempt=attempt, state=State.RUNNING))

    def act(
        self,
        case: str,
        role: str,
        action: str,
        seconds: float = 0.2,
        *,
        attempt: int = 1,
        data: dict[str, Any] | None = None,
        fails: dict[str, Any] | None = None,
    ) -> None:
        name = f"{role}-{self.clock.elapsed}"
        where: dict[str, Any] = {
            "case": case,
            "attempt": attempt,
            "role": role,
            "adapter": f"uuid-{role}-{attempt}",
        }
        self.append(ActionSent(**where, id=name, action=action, data=data or {}))
        self.append(ActionDelivered(**where, id=name, action=action))
        self.clock.elapsed += seconds
        if fails is None:
            self.append(ActionAnswered(**where, id=name, action=action, response={}, seconds=seconds))
        else:
            self.append(ActionFailed(**where, id=name, action=action, seconds=seconds, **fails))

    def end_case(
        self, case: str, state: str, message: str = "", *, attempt: int | None = 1, **data: Any
    ) -> None:
        self.append(CaseEnded(case=case, attempt=attempt, state=State(state), message=message, **data))

    def run(
        self, case: str, state: str = "success", message: str = "", *, attempt: int = 1, **data: Any
    ) -> None:
        """Take a case from its start to its end."""
        self.prepare(case, attempt)
        self.clock.elapsed += 1
        self.end_case(case, state, message, attempt=attempt, **{"seconds": 2.4, **data})

    def end(self, **data: Any) -> None:
        self.append(SessionEnded(**{"exit_code": 0, "interrupted": False, **data}))


@pytest.fixture
def folder(tmp_path: Path) -> ResultsFolder:
    return ResultsFolder.create(tmp_path / "results", date(2026, 11, 21))


@pytest.fixture
def lab(folder: ResultsFolder) -> Lab:
    return Lab(folder)


@pytest.fixture
def lab_of() -> Callable[[ResultsFolder], Lab]:
    """For tests that need several labs."""
    return Lab
